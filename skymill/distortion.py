"""A polynomial distortion on top of a plane transformation, where the stars ask for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from skymill.affine import Affine
from skymill.patterns import mutual_pairs
from skymill.solution_errors import holdout_residuals
from skymill.wcsmath import Distortion, kind_of, monomials

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.matching import Match

    Points = NDArray[np.float64]
    Floats = NDArray[np.float64]

__all__ = ["with_distortion"]

#: Stars and stars per coefficient that a distortion needs.
_SIP_STARS = 30
_SIP_STARS_PER_TERM = 4

#: A distortion must lower the scatter by this fraction to be worth its terms.
_SIP_GAIN = 0.05
_ROUNDS = 8


def with_distortion(
    xy: Points,
    xy_err: Floats,
    expected: Points,
    err: Points,
    match: Match,
    wcs: WCS,
    shape: tuple[int, int],
    *,
    tolerance_px: float,
    max_order: int,
) -> tuple[Match, Affine, Distortion | None]:
    """Add a polynomial to a match if there are stars enough and the residuals call for it.

    Parameters
    ----------
    xy, xy_err : ndarray of float64, shapes (n, 2) and (n,)
        Positions of the stars of the frame and their errors per axis in pixels.
    expected, err : ndarray of float64, shapes (m, 2) and (m,)
        Expected positions of the reference stars and their errors.
    match : Match
        Their match.
    wcs : astropy.wcs.WCS
        The coordinates that the match corrects; TAN, TAN-SIP and TPV take a polynomial.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    tolerance_px : float
        Distance within which two stars are the same.
    max_order : int
        Highest order; 1 is none.

    Returns
    -------
    match, step, distortion
        The match with its new residuals, the plane transformation, and the polynomial
        or None.
    """
    best: tuple[Match, Affine, Distortion | None] = (match, match.transform, None)
    if kind_of(wcs) not in ("tan", "sip", "tpv") or match.kind != "affine":
        return best
    for order in range(2, max_order + 1):
        found = _of_order(
            xy, xy_err, expected, err, best, match.transform, order, shape, tolerance_px
        )
        if found is None:
            return best
        current, step, distortion = found
        s, r = xy[current.source], expected[current.reference]
        sigma = np.hypot(xy_err[current.source], err[current.reference])
        old, new = _residual(best, s, r), current.residual
        known = 6 if best[2] is None else (best[2].order + 1) * (best[2].order + 2)
        total = (order + 1) * (order + 2)
        if not _worth(old, new, sigma, total - known, total):
            continue
        before, after = (np.sqrt((v**2).sum(axis=1).mean()) for v in (old, new))
        if after <= (1 - _SIP_GAIN) * before and _predicts(best, s, r, sigma, order, shape):
            best = (current, step, distortion)
    return best


def _of_order(
    xy: Points,
    xy_err: Floats,
    expected: Points,
    err: Floats,
    best: tuple[Match, Affine, Distortion | None],
    start: Affine,
    order: int,
    shape: tuple[int, int],
    tolerance_px: float,
) -> tuple[Match, Affine, Distortion] | None:
    """Fit one order, and match again with it until no star comes or goes.

    A distortion of many pixels leaves the corners unmatched at first; each fit reaches
    further out. None if there are too few stars.
    """
    n_terms = (order + 1) * (order + 2) // 2
    current = best[0]
    for _ in range(_ROUNDS):
        if len(current.source) < max(_SIP_STARS, _SIP_STARS_PER_TERM * n_terms):
            return None
        s, r = xy[current.source], expected[current.reference]
        sigma = np.hypot(xy_err[current.source], err[current.reference])
        step, distortion, residual = _fit_distortion(s, r, sigma, start, order, shape)
        i, j = mutual_pairs(step(distortion(xy)), expected, tolerance_px)
        apart = np.sqrt(((expected[j] - step(distortion(xy[i]))) ** 2).sum(axis=1))
        apart /= np.hypot(xy_err[i], err[j])
        keep = apart <= 4 * max(float(np.median(apart)) / 1.1774, 1e-3)
        same = np.array_equal(i[keep], current.source) and np.array_equal(
            j[keep], current.reference
        )
        if same:
            break
        current = replace(current, source=i[keep], reference=j[keep])
    s, r = xy[current.source], expected[current.reference]
    sigma = np.hypot(xy_err[current.source], err[current.reference])
    step, distortion, residual = _fit_distortion(s, r, sigma, start, order, shape)
    return replace(current, residual=residual), step, distortion


def _predicts(
    best: tuple[Match, Affine, Distortion | None],
    s: Points,
    r: Points,
    sigma: Floats,
    order: int,
    shape: tuple[int, int],
) -> bool:
    """Say whether an order predicts stars that were left out better than the one before."""
    middle, half = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2]), max(shape) / 2
    base = best[0].search.base
    chi = []
    for n in (1 if best[2] is None else best[2].order, order):
        kind = "affine" if n == 1 else "polynomial"
        held = holdout_residuals(s, r, sigma, kind, 0 if n == 1 else n, base, middle, half)
        if held is None:
            return False
        chi.append(float((held**2 / sigma[:, None] ** 2).sum()))
    return chi[1] < chi[0]


def _residual(best: tuple[Match, Affine, Distortion | None], s: Points, r: Points) -> Points:
    _, step, distortion = best
    return r - step(s if distortion is None else distortion(s))


def _worth(
    old: Points,
    new: Points,
    sigma: Points,
    extra: int,
    total: int,
) -> bool:
    """Say whether chi-square falls by more than chance (5 standard deviations)."""
    chi_old, chi_new = (float((v**2 / sigma[:, None] ** 2).sum()) for v in (old, new))
    noise = chi_new / max(2 * len(new) - total, 1)
    return (chi_old - chi_new) / max(noise, 1e-12) > extra + 5 * np.sqrt(2 * extra)


def _fit_distortion(
    s: Points,
    r: Points,
    sigma: Points,
    start: Affine,
    order: int,
    shape: tuple[int, int],
) -> tuple[Affine, Distortion, Points]:
    """Fit affine and higher terms together: ``r = step(s + polynomial(s))``."""
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    half = max(shape) / 2
    design = monomials((s - middle) / half, 0, order)
    root = 1 / sigma[:, None]
    c, *_ = np.linalg.lstsq(root * design, root * (r - start(s)), rcond=1e-12)
    slope = c[1:3].T / half
    step = Affine(start.matrix + slope, start.offset + c[0] - slope @ middle)
    high = c[3:] @ np.linalg.inv(step.matrix).T
    distortion = Distortion(order, middle, half, high)
    return step, distortion, r - step(distortion(s))
