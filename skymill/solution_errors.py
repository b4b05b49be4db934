"""How good a solution is: residuals, hold-out residuals and the covariance of its terms.

The map of a frame is linear in its terms, ``position = M(x, y) c``, with the monomials of
``u = (x - middle)/half`` and ``v``. Least squares with weights ``W`` give the covariance
``(M' W M)^-1``, times the ratio of residuals to assumed errors. A fit of fewer terms
(a shift, a rotation) moves all six linear terms together: ``D (D' N D)^-1 D'`` with their
derivatives ``D`` by what was fitted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.affine import KINDS, fit_affine
from skymill.patterns import mutual_pairs
from skymill.wcsmath import monomials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from skymill.affine import Affine
    from skymill.matching import Match

    Points = NDArray[np.float64]
    Floats = NDArray[np.float64]

__all__ = ["Quality", "holdout_residuals", "measure", "position_error"]

#: Parts that are left out in turn for hold-out residuals.
_FOLDS = 5
#: Degrees of freedom from which residuals tell the errors better than what was assumed.
_TOLD = 10
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Quality:
    """Figures of a solution, in pixels of where the stars were expected.

    Parameters
    ----------
    rms_x_px, rms_y_px : float
        Residuals of the matched stars per axis.
    holdout_rms_px : float
        Root mean square per axis of stars that were left out of the fit; NaN if there are
        too few.
    n_rejected : int
        Pairs within the tolerance that were left out as outliers.
    variance_ratio : float
        Mean square of residual over assumed error; NaN without degrees of freedom.
    middle_err_px : float
        Error of the position of the middle of the frame per axis.
    scale_err : float
        Relative error of the pixel scale; 0 where it was not fitted.
    rotation_err_deg : float
        Error of the rotation; 0 where it was not fitted.
    covariance : str
        JSON for `position_error`.
    """

    rms_x_px: float
    rms_y_px: float
    holdout_rms_px: float
    n_rejected: int
    variance_ratio: float
    middle_err_px: float
    scale_err: float
    rotation_err_deg: float
    covariance: str


def measure(
    xy: Points,
    err: Floats,
    expected: Points,
    expected_err: Floats,
    match: Match,
    model: Callable[[Points], Points],
    step: Affine,
    order: int,
    shape: tuple[int, int],
    tolerance_px: float,
) -> Quality:
    """Return the figures of a fitted map.

    Parameters
    ----------
    xy, err : ndarray of float64, shapes (n, 2) and (n,)
        All positions on the frame and their errors per axis.
    expected, expected_err : ndarray of float64, shapes (m, 2) and (m,)
        All positions where the reference stars were expected, and their errors.
    match : Match
        The pairs that were fitted.
    model : callable
        The fitted map of positions, shape (n, 2) to (n, 2).
    step : Affine
        Its linear part.
    order : int
        Order of its polynomial, 0 if none.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    tolerance_px : float
        Distance within which two stars are the same.
    """
    s, r = xy[match.source], expected[match.reference]
    sigma = np.hypot(err[match.source], expected_err[match.reference])
    residual = r - model(s)
    n_par = KINDS[match.kind][0] if order < 2 else (order + 1) * (order + 2)
    dof = 2 * len(s) - n_par
    ratio = float((residual**2 / sigma[:, None] ** 2).sum() / dof) if dof > 0 else float("nan")
    factor = ratio if dof >= _TOLD else max(1.0, np.nan_to_num(ratio, nan=1.0))
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    half = max(shape) / 2
    matrix, joint = _covariance(s, sigma, match.kind, order, middle, half, step)
    matrix = matrix * factor
    linear = np.asarray(matrix if joint else np.kron(np.eye(2), matrix[:3, :3]))
    turn, scale = _turn_and_scale(linear, step, half)
    held = holdout_residuals(s, r, sigma, match.kind, order, match.search.base, middle, half)
    within, _ = mutual_pairs(model(xy), expected, tolerance_px)
    rms = np.sqrt((residual**2).mean(axis=0))
    return Quality(
        float(rms[0]),
        float(rms[1]),
        float("nan") if held is None else float(np.sqrt((held**2).mean())),
        max(len(within) - len(s), 0),
        ratio,
        float(np.sqrt((linear[0, 0] + linear[3, 3]) / 2)),
        scale,
        float(np.degrees(turn)),
        _to_text(matrix, joint, order, middle, half),
    )


def _covariance(
    s: Points,
    sigma: Floats,
    kind: str,
    order: int,
    middle: Points,
    half: float,
    step: Affine,
) -> tuple[Floats, bool]:
    """Covariance of the terms: of both axes jointly (6 x 6), or the same for each axis."""
    design = monomials((s - middle) / half, 0, max(order, 1))
    normal = design.T @ (design / sigma[:, None] ** 2)
    if order >= 2 or kind == "affine":
        return np.asarray(np.linalg.pinv(normal, rcond=1e-14, hermitian=True)), False
    # Terms (x0, xu, xv, y0, yu, yv); a rotation and a scale act after the linear map.
    a = step.matrix * half
    columns = [np.array([1.0, 0, 0, 0, 0, 0]), np.array([0, 0, 0, 1.0, 0, 0])]
    if kind in ("rigid", "similarity"):
        columns.append(np.array([0, -a[1, 0], -a[1, 1], 0, a[0, 0], a[0, 1]]))
    if kind == "similarity":
        columns.append(np.array([0, a[0, 0], a[0, 1], 0, a[1, 0], a[1, 1]]))
    d = np.stack(columns, axis=1)
    inner = d.T @ np.kron(np.eye(2), normal) @ d
    return d @ np.linalg.pinv(inner, rcond=1e-14, hermitian=True) @ d.T, True


def _turn_and_scale(linear: Floats, step: Affine, half: float) -> tuple[float, float]:
    """Errors of rotation (radian) and relative scale from the 6 x 6 covariance."""
    inner = np.linalg.inv(step.matrix)
    turn, scale = np.zeros(6), np.zeros(6)
    for axis in (0, 1):
        for k in (0, 1):
            change = np.zeros((2, 2))
            change[axis, k] = 1 / half
            change = change @ inner
            turn[3 * axis + 1 + k] = (change[1, 0] - change[0, 1]) / 2
            scale[3 * axis + 1 + k] = np.trace(change) / 2
    return (
        float(np.sqrt(max(float(turn @ linear @ turn), 0.0))),
        float(np.sqrt(max(float(scale @ linear @ scale), 0.0))),
    )


def holdout_residuals(
    s: Points,
    r: Points,
    sigma: Floats,
    kind: str,
    order: int,
    base: Affine,
    middle: Points,
    half: float,
) -> Points | None:
    """Return residuals of stars that were left out of the fit, a fifth at a time, or None.

    Parameters
    ----------
    s, r : ndarray of float64, shape (n, 2)
        Matched positions.
    sigma : ndarray of float64, shape (n,)
        Error of each pair per axis.
    kind, order : str and int
        What is fitted: a polynomial from order 2, else one of `skymill.affine.KINDS`.
    base : Affine
        The expected map.
    middle, half : ndarray and float
        Scale of the polynomial.
    """
    n = len(s)
    needed = (order + 1) * (order + 2) // 2 if order >= 2 else KINDS[kind][1]
    folds = min(_FOLDS, n)
    if n - -(-n // folds) < needed + (order >= 2):
        return None
    out = np.empty_like(r)
    part = np.arange(n) % folds
    for k in range(folds):
        fit, test = part != k, part == k
        if order >= 2:
            design = monomials((s - middle) / half, 0, order)
            root = 1 / sigma[fit, None]
            terms, *_ = np.linalg.lstsq(root * design[fit], root * r[fit], rcond=1e-12)
            out[test] = r[test] - design[test] @ terms
        else:
            step = fit_affine(base(s[fit]), r[fit], kind, 1 / sigma[fit] ** 2)
            out[test] = r[test] - step(base(s[test]))
    return out


def _to_text(matrix: Floats, joint: bool, order: int, middle: Points, half: float) -> str:
    upper = [float(f"{v:.{_DIGITS}g}") for v in matrix[np.triu_indices(len(matrix))]]
    facts = {
        "order": max(order, 1),
        "joint": joint,
        "middle": [float(v) for v in middle],
        "half": float(half),
        "upper": upper,
    }
    return json.dumps(facts, separators=(",", ":"))


def position_error(
    row: Mapping[str, Any], x: ArrayLike, y: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the error of a solution itself at pixels of the frame.

    Parameters
    ----------
    row : mapping
        Row of the table of ``astrometry``; its ``covariance`` is used.
    x, y : array of float
        0-based pixel positions of one shape.

    Returns
    -------
    x_err, y_err : ndarray of float64
        Standard errors in pixels along the axes of where the frame was expected; times
        ``scale_arcsec_px`` in arcsec. NaN where nothing was fitted. They do not hold the
        error of the star's own centroid, nor that of the frame or catalogue that
        ``reference`` names.
    """
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    text = str(row.get("covariance") or "")
    if not text:
        return np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    facts = json.loads(text)
    upper = np.asarray(facts["upper"], float)
    n = int((np.sqrt(8 * len(upper) + 1) - 1) / 2)
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n)] = upper
    matrix += np.triu(matrix, 1).T
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    terms = monomials((points - facts["middle"]) / facts["half"], 0, int(facts["order"]))
    halves = (matrix[:3, :3], matrix[3:, 3:]) if facts["joint"] else (matrix, matrix)
    errors = [np.sqrt(np.clip(((terms @ half) * terms).sum(axis=1), 0, None)) for half in halves]
    return errors[0].reshape(x.shape), errors[1].reshape(x.shape)
