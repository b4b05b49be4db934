"""Centres, second moments and profiles of stars: compiled kernels.

Pixels that are disqualified or belong to another source are replaced by the pixel
opposite to them about the current centre, as in aperture sums; if that is lost as well
they are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["MoffatFits", "WindowedShapes", "fit_moffat", "windowed_shapes"]

#: Window radius in sigma; beyond it the weight is below 1e-3.5.
_REACH_SIGMA = 4.0
#: Half-width of the window of pixels fitted by a profile, in FWHM.
_FIT_REACH = 2.0
_MINIMUM_BETA, _MAXIMUM_BETA = 1.2, 25.0


class WindowedShapes(NamedTuple):
    """Result of `windowed_shapes`, each of shape (n,).

    Attributes
    ----------
    x, y, x_err, y_err : ndarray of float64
        Centre and one-sigma errors in px.
    xx, yy, xy : ndarray of float64
        Second moments in px^2 with the window taken out: those of the Gaussian that,
        times the window, has the measured moments. NaN if there is none.
    converged : ndarray of bool
        False where the centre did not settle near its start; its values are NaN.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x_err: NDArray[np.float64]
    y_err: NDArray[np.float64]
    xx: NDArray[np.float64]
    yy: NDArray[np.float64]
    xy: NDArray[np.float64]
    converged: NDArray[np.bool_]


class MoffatFits(NamedTuple):
    """Result of `fit_moffat`, each of shape (n,); NaN where the fit failed."""

    fwhm: NDArray[np.float64]
    beta: NDArray[np.float64]
    amplitude: NDArray[np.float64]


def windowed_shapes(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    bad: NDArray[np.bool_],
    segments: NDArray[np.int32],
    owners: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    sigma_px: float,
    *,
    max_shift_px: float,
) -> WindowedShapes:
    """Measure centres and moments under a circular Gaussian window.

    The centre solves ``sum(w I (x_i - x)) = 0`` with ``w`` a Gaussian of ``sigma_px``
    about it, by the iteration of SExtractor's windowed positions. Its error follows
    from the same condition: ``var(x) = sum(w**2 V d**2) / (s sum(w I))**2`` with
    ``s = 1 - <d**2>/sigma**2`` (1/2 if window and star are alike).

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Background-subtracted image and one-sigma error.
    bad : ndarray of bool, shape (ny, nx)
        True is not used.
    segments : ndarray of int32, shape (ny, nx)
        Owner of each pixel, 0 for none.
    owners : array_like of int, shape (n,)
        Each source's own value in ``segments``.
    x, y : array_like of float, shape (n,)
        First guesses.
    sigma_px : float
        Sigma of the window.
    max_shift_px : float
        A centre that moves further from its guess has not converged.

    Returns
    -------
    WindowedShapes
    """
    return WindowedShapes(
        *_windowed(
            np.ascontiguousarray(sci, np.float32),
            np.ascontiguousarray(err, np.float32),
            np.ascontiguousarray(bad, np.bool_),
            np.ascontiguousarray(segments, np.int32),
            np.ascontiguousarray(owners, np.int32),
            np.ascontiguousarray(x, np.float64),
            np.ascontiguousarray(y, np.float64),
            float(sigma_px),
            float(max_shift_px),
        )
    )


def fit_moffat(
    sci: NDArray[np.float32],
    bad: NDArray[np.bool_],
    segments: NDArray[np.int32],
    owners: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    shape: tuple[ArrayLike, ArrayLike, ArrayLike],
    fwhm_px: float,
) -> MoffatFits:
    """Fit an elliptical Moffat profile and a constant to stars.

    ``I = A (1 + 4 (2**(1/beta) - 1) r**2 / fwhm**2)**-beta + c`` by damped least squares
    with equal weights. The ellipse of ``r`` is given; ``fwhm`` is the geometric mean of
    its two axes. A Gaussian is the limit of large ``beta``.

    Parameters
    ----------
    sci, bad, segments, owners, x, y
        As for `windowed_shapes`.
    shape : tuple of array_like, each of shape (n,)
        Second moments (xx, yy, xy) of each star; only their ratios count.
    fwhm_px : float
        First guess; pixels within two of it are fitted.

    Returns
    -------
    MoffatFits
    """
    return MoffatFits(
        *_fit_all(
            np.ascontiguousarray(sci, np.float32),
            np.ascontiguousarray(bad, np.bool_),
            np.ascontiguousarray(segments, np.int32),
            np.ascontiguousarray(owners, np.int32),
            np.ascontiguousarray(x, np.float64),
            np.ascontiguousarray(y, np.float64),
            *(np.ascontiguousarray(part, np.float64) for part in shape),
            float(fwhm_px),
        )
    )


@njit(cache=True)
def _usable(sci: Any, bad: Any, segments: Any, own: Any, i: int, j: int) -> bool:
    ny, nx = sci.shape
    if i < 0 or j < 0 or i >= nx or j >= ny or bad[j, i]:
        return False
    return segments[j, i] == 0 or segments[j, i] == own


@njit(cache=True)
def _moments(
    sci: Any, err: Any, bad: Any, segments: Any, own: Any, x: float, y: float, sigma: float,
    along: Any,
) -> Any:  # fmt: skip
    """Windowed sums about (x, y): light, first, second moments and their noise."""
    ny, nx = sci.shape
    reach = _REACH_SIGMA * sigma
    mirror_x, mirror_y = int(np.floor(2.0 * x + 0.5)), int(np.floor(2.0 * y + 0.5))
    total, sx, sy, sxx, syy, sxy, vx, vy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    # The window is the product of its profiles along x and y.
    left, right = int(np.ceil(x - reach)), int(np.floor(x + reach)) + 1
    for i in range(left, right):
        along[i - left] = np.exp(-0.5 * (i - x) ** 2 / (sigma * sigma))
    for j in range(int(np.ceil(y - reach)), int(np.floor(y + reach)) + 1):
        across = np.exp(-0.5 * (j - y) ** 2 / (sigma * sigma))
        for i in range(left, right):
            dx, dy = i - x, j - y
            distance = dx * dx + dy * dy
            if distance > reach * reach:
                continue
            ii, jj = i, j
            # Most pixels need no call of `_usable`, which costs more than the sum.
            near = 0 <= i < nx and 0 <= j < ny
            if not (near and not bad[j, i] and segments[j, i] == 0) and not _usable(
                sci, bad, segments, own, i, j
            ):
                ii, jj = mirror_x - i, mirror_y - j
                if not _usable(sci, bad, segments, own, ii, jj):
                    continue
            weight = along[i - left] * across
            light = weight * sci[jj, ii]
            noise = (weight * err[jj, ii]) ** 2
            total += light
            sx += light * dx
            sy += light * dy
            sxx += light * dx * dx
            syy += light * dy * dy
            sxy += light * dx * dy
            vx += noise * dx * dx
            vy += noise * dy * dy
    return total, sx, sy, sxx, syy, sxy, vx, vy


@njit(cache=True)
def _windowed(
    sci: Any, err: Any, bad: Any, segments: Any, owners: Any, x: Any, y: Any, sigma: Any,
    max_shift: Any,
) -> Any:  # fmt: skip
    n = len(x)
    out = np.full((7, n), np.nan)
    converged = np.zeros(n, np.bool_)
    along = np.empty(2 * int(np.ceil(_REACH_SIGMA * sigma)) + 2)
    for k in range(n):
        cx, cy, own = x[k], y[k], owners[k]
        for _ in range(50):
            total, sx, sy, sxx, syy, sxy, vx, vy = _moments(
                sci, err, bad, segments, own, cx, cy, sigma, along
            )
            if not total > 0.0:
                break
            step_x, step_y = 2.0 * sx / total, 2.0 * sy / total
            cx += step_x
            cy += step_y
            if not (cx - x[k]) ** 2 + (cy - y[k]) ** 2 <= max_shift * max_shift:
                break
            if step_x * step_x + step_y * step_y < 1e-8:
                converged[k] = True
                break
        if not converged[k]:
            continue
        mxx, myy, mxy = sxx / total, syy / total, sxy / total
        slope_x = max(1.0 - mxx / sigma**2, 0.05)
        slope_y = max(1.0 - myy / sigma**2, 0.05)
        out[0, k], out[1, k] = cx, cy
        out[2, k] = np.sqrt(vx) / (slope_x * total)
        out[3, k] = np.sqrt(vy) / (slope_y * total)
        # Inverse of the inverse moments less that of the window.
        det = mxx * myy - mxy * mxy
        if det > 0.0 and mxx > 0.0:
            p = myy / det - 1.0 / sigma**2
            q = mxx / det - 1.0 / sigma**2
            s = -mxy / det
            inner = p * q - s * s
            if inner > 0.0 and p > 0.0:
                out[4, k], out[5, k], out[6, k] = q / inner, p / inner, -s / inner
    return out[0], out[1], out[2], out[3], out[4], out[5], out[6], converged


@njit(cache=True)
def _solve(normal: Any, right: Any) -> Any:
    """Gaussian elimination with pivoting of a small system; False if singular."""
    n = len(right)
    a, b = normal.copy(), right.copy()
    for c in range(n):
        pivot = c
        for r in range(c + 1, n):
            if abs(a[r, c]) > abs(a[pivot, c]):
                pivot = r
        if abs(a[pivot, c]) < 1e-300:
            return b, False
        if pivot != c:
            for m in range(n):
                a[c, m], a[pivot, m] = a[pivot, m], a[c, m]
            b[c], b[pivot] = b[pivot], b[c]
        for r in range(c + 1, n):
            factor = a[r, c] / a[c, c]
            for m in range(c, n):
                a[r, m] -= factor * a[c, m]
            b[r] -= factor * b[c]
    for c in range(n - 1, -1, -1):
        for m in range(c + 1, n):
            b[c] -= a[c, m] * b[m]
        b[c] /= a[c, c]
    return b, True


@njit(cache=True)
def _moffat_terms(
    sci: Any, bad: Any, segments: Any, own: Any, p: Any, box: Any, form: Any, normal: Any,
    right: Any,
) -> Any:  # fmt: skip
    """Chi-square of the profile p = (A, x, y, fwhm, c, beta) and its normal equations."""
    chi, count = 0.0, 0
    normal[:] = 0.0
    right[:] = 0.0
    slope = np.empty(6)
    log_two = np.log(2.0)
    two = np.exp(log_two / p[5])
    width = 4.0 * (two - 1.0) / p[3] ** 2
    bend = 4.0 * two * log_two / (p[5] ** 2 * p[3] ** 2)
    ny, nx = sci.shape
    for j in range(max(box[2], 0), min(box[3], ny)):
        values, lost, labels = sci[j], bad[j], segments[j]
        for i in range(max(box[0], 0), min(box[1], nx)):
            if lost[i] or not (labels[i] == 0 or labels[i] == own):
                continue
            dx, dy = i - p[1], j - p[2]
            r2 = form[0] * dx * dx + form[1] * dy * dy + 2.0 * form[2] * dx * dy
            base = 1.0 + width * r2
            log_base = np.log(base)
            profile = np.exp(-p[5] * log_base)
            common = p[0] * p[5] * profile / base
            rest = values[i] - p[0] * profile - p[4]
            slope[0] = profile
            slope[1] = 2.0 * common * width * (form[0] * dx + form[2] * dy)
            slope[2] = 2.0 * common * width * (form[1] * dy + form[2] * dx)
            slope[3] = 2.0 * common * width * r2 / p[3]
            slope[4] = 1.0
            slope[5] = -p[0] * profile * log_base + common * r2 * bend
            chi += rest * rest
            count += 1
            for m in range(6):
                right[m] += slope[m] * rest
                for k in range(m + 1):
                    normal[m, k] += slope[m] * slope[k]
    for m in range(6):
        for k in range(m):
            normal[k, m] = normal[m, k]
    return chi, count


@njit(cache=True)
def _fit_all(
    sci: Any, bad: Any, segments: Any, owners: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any,
    fwhm: Any,
) -> Any:  # fmt: skip
    n = len(x)
    out = np.full((3, n), np.nan)
    normal, trial_normal = np.zeros((6, 6)), np.zeros((6, 6))
    right, trial_right = np.zeros(6), np.zeros(6)
    p, form, box = np.zeros(6), np.zeros(3), np.zeros(4, np.int64)
    reach = max(_FIT_REACH * fwhm, 3.0)
    for k in range(n):
        det = xx[k] * yy[k] - xy[k] ** 2
        if not det > 0.0:
            continue
        root = np.sqrt(det)
        form[0], form[1], form[2] = yy[k] / root, xx[k] / root, -xy[k] / root
        box[0], box[1] = int(np.ceil(x[k] - reach)), int(np.floor(x[k] + reach)) + 1
        box[2], box[3] = int(np.ceil(y[k] - reach)), int(np.floor(y[k] + reach)) + 1
        ci, cj = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
        if not _usable(sci, bad, segments, owners[k], ci, cj):
            continue
        p[0], p[1], p[2], p[3], p[4], p[5] = sci[cj, ci], x[k], y[k], fwhm, 0.0, 3.0
        own = owners[k]
        chi, count = _moffat_terms(sci, bad, segments, own, p, box, form, normal, right)
        damping, done = 1e-3, False
        for _ in range(60):
            damped = normal.copy()
            for m in range(6):
                damped[m, m] *= 1.0 + damping
            step, solved = _solve(damped, right)
            if not solved or count < 12:
                break
            trial = p + step
            trial[3] = min(max(trial[3], 0.3 * p[3]), 3.0 * p[3])
            trial[5] = min(max(trial[5], _MINIMUM_BETA), _MAXIMUM_BETA)
            new, _ = _moffat_terms(
                sci, bad, segments, own, trial, box, form, trial_normal, trial_right
            )
            if new <= chi:
                small = chi - new <= 1e-7 * chi and abs(trial[3] - p[3]) < 1e-4 * p[3]
                chi = new
                p[:] = trial
                normal[:] = trial_normal
                right[:] = trial_right
                damping = max(0.2 * damping, 1e-9)
                if small:
                    done = True
                    break
            else:
                damping *= 5.0
                if damping > 1e8:
                    done = True  # no step improves: at the minimum to rounding
                    break
        near = abs(p[1] - x[k]) < fwhm and abs(p[2] - y[k]) < fwhm
        if done and near and p[0] > 0.0 and 0.2 * fwhm < p[3] < 5.0 * fwhm:
            out[0, k], out[1, k], out[2, k] = p[3], p[5], p[0]
    return out[0], out[1], out[2]
