"""Effective point-spread functions: tables on a fine grid, and fits of groups of stars.

An effective PSF is the profile of a star after the pixel has integrated it: its value at
``(i - x, j - y)`` is the part of the light of a star at ``(x, y)`` that pixel ``(i, j)``
holds (Anderson & King 2000). It is a cubic B-spline with ``oversampling`` nodes per px;
node ``(centre, centre)`` lies on the star. As the spacing is a whole part of a pixel, all
pixels of a star have the same 4 x 4 weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["fit_groups", "improve_tables", "optimal_fluxes", "psf_stamp"]

#: Largest step of a position in one iteration, px.
_STEP_PX = 0.5


@njit(cache=True)
def _weights(u: Any, w: Any, d: Any) -> Any:
    """Fill weights and derivatives (per node) of the four nodes around ``u``; first node."""
    first = int(np.floor(u))
    t = u - first
    s = 1.0 - t
    w[0], w[3] = s * s * s / 6.0, t * t * t / 6.0
    w[1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
    w[2] = (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0
    d[0], d[3] = -0.5 * s * s, 0.5 * t * t
    d[1], d[2] = 0.5 * (3.0 * t * t - 4.0 * t), -0.5 * (3.0 * s * s - 4.0 * s)
    return first - 1


@njit(cache=True)
def psf_stamp(
    table: Any, oversampling: Any, x: Any, y: Any, half: Any, value: Any, gx: Any, gy: Any
) -> None:
    """Fill the stamp of a star at ``(x, y)`` relative to its middle pixel.

    Parameters
    ----------
    table : ndarray of float64, shape (m, m), m odd
        Coefficients of the spline.
    oversampling : int
        Nodes per px.
    x, y : float
        Position of the star relative to the middle pixel of the stamp, px.
    half : int
        The stamp has ``2 half + 1`` px a side.
    value, gx, gy : ndarray of float64, shape (2 half + 1, 2 half + 1)
        Filled: effective PSF and its derivatives by the position of the star.
    """
    m = table.shape[0]
    centre = (m - 1) // 2
    wx, dx, wy, dy = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    first_x = _weights(centre - x * oversampling, wx, dx)
    first_y = _weights(centre - y * oversampling, wy, dy)
    for j in range(2 * half + 1):
        row = first_y + (j - half) * oversampling
        for i in range(2 * half + 1):
            column = first_x + (i - half) * oversampling
            p, px, py = 0.0, 0.0, 0.0
            if row >= 0 and column >= 0 and row + 3 < m and column + 3 < m:
                for b in range(4):
                    along, slope = 0.0, 0.0
                    for a in range(4):
                        c = table[row + b, column + a]
                        along += wx[a] * c
                        slope += dx[a] * c
                    p += wy[b] * along
                    px += wy[b] * slope
                    py += dy[b] * along
            value[j, i] = p
            # The star moves to the right: the profile at a pixel moves to the left.
            gx[j, i], gy[j, i] = -px * oversampling, -py * oversampling


@njit(cache=True)
def _table_at(tables: Any, basis: Any, out: Any) -> None:
    out[:] = 0.0
    for q in range(tables.shape[0]):
        out += basis[q] * tables[q]


@njit(cache=True)
def _project(
    tables: Any, oversampling: Any, x: Any, y: Any, basis: Any, side: Any, out: Any
) -> None:
    """Fill the stamps of all stars that tables give."""
    half = side // 2
    gx, gy = np.empty((side, side)), np.empty((side, side))
    table = np.empty((tables.shape[1], tables.shape[2]))
    for star in range(len(x)):
        _table_at(tables, basis[star], table)
        psf_stamp(table, oversampling, x[star], y[star], half, out[star], gx, gy)


@njit(cache=True)
def _collect(
    pixels: Any, weights: Any, oversampling: Any, x: Any, y: Any, basis: Any, out: Any, power: Any
) -> None:
    """Add up weighted pixels at the nodes: the transpose of `_project`.

    With ``power`` the sums of the weights times ``basis**2`` instead, a diagonal.
    """
    n, side = pixels.shape[0], pixels.shape[1]
    k, m = out.shape[0], out.shape[1]
    half, centre = side // 2, (m - 1) // 2
    wx, wy, unused = np.empty(4), np.empty(4), np.empty(4)
    table = np.empty((m, m))
    out[:] = 0.0
    for star in range(n):
        first_x = _weights(centre - x[star] * oversampling, wx, unused)
        first_y = _weights(centre - y[star] * oversampling, wy, unused)
        table[:] = 0.0
        for j in range(side):
            row = first_y + (j - half) * oversampling
            for i in range(side):
                column = first_x + (i - half) * oversampling
                weight = weights[star, j, i]
                if weight <= 0.0 or row < 0 or column < 0 or row + 3 >= m or column + 3 >= m:
                    continue
                value = weight if power else weight * pixels[star, j, i]
                for b in range(4):
                    for a in range(4):
                        table[row + b, column + a] += wy[b] * wx[a] * value
        for q in range(k):
            factor = basis[star, q] * basis[star, q] if power else basis[star, q]
            out[q] += factor * table


@njit(cache=True)
def _dot(a: Any, b: Any) -> Any:
    total = 0.0
    first, second = a.ravel(), b.ravel()
    for i in range(first.size):
        total += first[i] * second[i]
    return total


@njit(cache=True)
def improve_tables(
    tables: Any, prior: Any, certainty: Any, oversampling: Any, stamps: Any, weights: Any,
    fluxes: Any, x: Any, y: Any, basis: Any, rounds: Any,
) -> None:  # fmt: skip
    """Improve tables in place so that they fit stamps of stars.

    Minimises ``sum w (stamp / flux - P)**2 + sum certainty (c - prior)**2`` by a few rounds
    of conjugate gradients, preconditioned with the diagonal.

    Parameters
    ----------
    tables, prior, certainty : ndarray of float64, shape (k, m, m)
        Coefficients of the splines for each basis function over the frame (modified), what
        they are without stars, and the weight of that.
    oversampling : int
    stamps : ndarray of float64, shape (n, s, s), s odd
        Background-subtracted pixels of the stars.
    weights : ndarray of float64, shape (n, s, s)
        Of the pixels of ``stamp / flux``; 0 leaves a pixel out.
    fluxes, x, y : ndarray of float64, shape (n,)
        Flux and position relative to the middle pixel.
    basis : ndarray of float64, shape (n, k)
        Basis functions at the stars.
    rounds : int
    """
    side = stamps.shape[1]
    pixels = np.empty(stamps.shape)
    _project(tables, oversampling, x, y, basis, side, pixels)
    for star in range(len(x)):
        pixels[star] = stamps[star] / fluxes[star] - pixels[star]
    right, diagonal = np.empty(tables.shape), np.empty(tables.shape)
    _collect(pixels, weights, oversampling, x, y, basis, right, False)
    _collect(pixels, weights, oversampling, x, y, basis, diagonal, True)
    right += certainty * (prior - tables)
    diagonal += certainty
    scaled = right / diagonal
    step = scaled.copy()
    product, back = _dot(right, scaled), np.empty(tables.shape)
    for _ in range(rounds):
        _project(step, oversampling, x, y, basis, side, pixels)
        _collect(pixels, weights, oversampling, x, y, basis, back, False)
        back += certainty * step
        curvature = _dot(step, back)
        if not curvature > 0.0:
            break
        length = product / curvature
        tables += length * step
        right -= length * back
        scaled = right / diagonal
        new = _dot(right, scaled)
        step = scaled + (new / product) * step
        product = new


@njit(cache=True)
def _solve(matrix: Any, n: Any, inverse: Any) -> Any:
    """Invert a symmetric positive matrix of size n by Cholesky; False if it is singular."""
    low = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= low[i, k] * low[j, k]
            if i == j:
                if not total > 1e-12 * matrix[i, i]:
                    return False
                low[i, i] = np.sqrt(total)
            else:
                low[i, j] = total / low[j, j]
    for column in range(n):
        for i in range(n):
            total = 1.0 if i == column else 0.0
            for k in range(i):
                total -= low[i, k] * inverse[k, column]
            inverse[i, column] = total / low[i, i]
        for i in range(n - 1, -1, -1):
            total = inverse[i, column]
            for k in range(i + 1, n):
                total -= low[k, i] * inverse[k, column]
            inverse[i, column] = total / low[i, i]
    return True


@njit(cache=True)
def _paint(rest: Any, stamp: Any, i0: Any, j0: Any, half: Any, factor: Any) -> None:
    """Add ``factor`` times a stamp whose middle is pixel (i0, j0)."""
    ny, nx = rest.shape
    for j in range(max(0, j0 - half), min(ny, j0 + half + 1)):
        for i in range(max(0, i0 - half), min(nx, i0 + half + 1)):
            rest[j, i] += factor * stamp[j - j0 + half, i - i0 + half]


@njit(cache=True)
def fit_groups(
    rest: Any, variance: Any, usable: Any, fit_variance: Any, photon: Any, tables: Any,
    oversampling: Any, basis: Any, order: Any, ends: Any, x: Any, y: Any, flux: Any, level: Any,
    free: Any, radius: Any, half: Any, iterations: Any, max_shift: Any, free_snr: Any,
    start_x: Any, start_y: Any, flux_err: Any, x_err: Any, y_err: Any, sky_gain: Any,
    chi2: Any, pixels: Any, status: Any,
) -> None:  # fmt: skip
    """Fit fluxes and positions of groups of stars; update the residual image in place.

    Least squares with weights ``1 / (fit_variance + photon max(model, 0))``; errors are
    ``A^-1 (sum w**2 V J J') A^-1`` with the true variance ``V`` and ``A = sum w J J'``.

    Parameters
    ----------
    rest : ndarray of float64, shape (ny, nx)
        Image minus all stars as they are now. Modified.
    variance, usable : ndarray, shape (ny, nx)
        Variance of the pixels, and which may be used.
    fit_variance : ndarray of float64, shape (n,)
        Variance of the sky at each star, for the weights.
    photon : float
        0: weights of the sky alone; 1: with the photons of the model (image in electron).
    tables, oversampling, basis : ndarrays
        Normalised tables and their basis at each star, shape (n, k).
    order, ends : ndarray of int64
        Stars sorted by group, and where each group ends in ``order``.
    x, y, flux : ndarray of float64, shape (n,)
        Parameters. Modified.
    level : ndarray of float64, shape (n,)
        Local sky of each star, subtracted (mean of the group).
    free : bool
        Fit positions too.
    radius, half : float, int
        Pixels within the radius of a star are fitted; half side of the stamps.
    iterations, max_shift, free_snr : int, float, float
        Most iterations; a star that wants to move further stays where it began; positions
        are fitted for stars brighter than this S/N.
    start_x, start_y : ndarray of float64, shape (n,)
        Where stars began.
    flux_err, x_err, y_err, sky_gain, chi2, pixels, status : ndarray, shape (n,)
        Filled. ``sky_gain``: change of the flux with the level. ``status`` bits: 1 not
        fitted, 2 position fixed, 4 moved too far, 8 not converged.
    """
    side = 2 * half + 1
    begin = 0
    for g in range(len(ends)):
        members = order[begin : ends[g]]
        begin = ends[g]
        n = len(members)
        stamp = np.empty((n, side, side))
        sx, sy = np.empty((n, side, side)), np.empty((n, side, side))
        base_i, base_j = np.empty(n, np.int64), np.empty(n, np.int64)
        table = np.empty((n, tables.shape[1], tables.shape[1]))
        fixed = np.zeros(n, np.bool_)
        sky = 0.0
        for s in range(n):
            k = members[s]
            _table_at(tables, basis[k], table[s])
            base_i[s], base_j[s] = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
            psf_stamp(table[s], oversampling, x[k] - base_i[s], y[k] - base_j[s], half,
                      stamp[s], sx[s], sy[s])  # fmt: skip
            _paint(rest, stamp[s], base_i[s], base_j[s], half, flux[k])
            sky += level[k] / n
            status[k] &= 4
            fixed[s] = (not free) or (status[k] & 4) != 0
        for turn in range(iterations + 1):
            first = turn == 0
            last = turn == iterations
            size = 3 * n
            moved = _group_step(
                rest, variance, usable, members, stamp, sx, sy, base_i, base_j, x, y, flux, sky,
                fit_variance, photon, radius, half, fixed, first, size, flux_err, x_err, y_err,
                sky_gain, chi2, pixels, status,
            )  # fmt: skip
            for s in range(n):
                k = members[s]
                if first and not fixed[s] and not flux[k] > free_snr * flux_err[k]:
                    fixed[s] = True
                distance = np.hypot(x[k] - start_x[k], y[k] - start_y[k])
                if not distance <= max_shift:
                    x[k], y[k] = start_x[k], start_y[k]
                    fixed[s] = True
                    status[k] |= 4
                    moved = 1.0
                psf_stamp(table[s], oversampling, x[k] - base_i[s], y[k] - base_j[s], half,
                          stamp[s], sx[s], sy[s])  # fmt: skip
            if not first and moved < 1e-4:
                break
            if last:
                for s in range(n):
                    status[members[s]] |= 8
        for s in range(n):
            k = members[s]
            if fixed[s]:
                status[k] |= 2
            _paint(rest, stamp[s], base_i[s], base_j[s], half, -flux[k])


@njit(cache=True)
def _group_step(
    rest: Any, variance: Any, usable: Any, members: Any, stamp: Any, sx: Any, sy: Any,
    base_i: Any, base_j: Any, x: Any, y: Any, flux: Any, sky: Any, fit_variance: Any, photon: Any,
    radius: Any, half: Any, fixed: Any, first: Any, size: Any, flux_err: Any, x_err: Any,
    y_err: Any, sky_gain: Any, chi2: Any, pixels: Any, status: Any,
) -> Any:  # fmt: skip
    """One Gauss-Newton step of a group; returns the largest step of a position in px."""
    ny, nx = rest.shape
    n = len(members)
    normal, spread = np.zeros((size, size)), np.zeros((size, size))
    right, tilt = np.zeros(size), np.zeros(size)
    near = np.empty(n, np.int64)
    slope = np.zeros(size)
    reach = int(np.ceil(radius))
    for s in range(n):
        k = members[s]
        chi2[k], pixels[k] = 0.0, 0
        ci, cj = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
        for j in range(max(0, cj - reach), min(ny, cj + reach + 1)):
            for i in range(max(0, ci - reach), min(nx, ci + reach + 1)):
                if (i - x[k]) ** 2 + (j - y[k]) ** 2 > radius * radius or not usable[j, i]:
                    continue
                taken = False
                for t in range(s):
                    o = members[t]
                    if (i - x[o]) ** 2 + (j - y[o]) ** 2 <= radius * radius:
                        taken = True
                        break
                if taken:
                    continue
                count, model = 0, 0.0
                for t in range(n):
                    jj, ii = j - base_j[t] + half, i - base_i[t] + half
                    if 0 <= jj < 2 * half + 1 and 0 <= ii < 2 * half + 1:
                        near[count] = t
                        count += 1
                        model += flux[members[t]] * stamp[t, jj, ii]
                weight = 1.0 / (fit_variance[k] + photon * max(model, 0.0))
                miss = rest[j, i] - sky - model
                chi2[k] += miss * miss / variance[j, i]
                pixels[k] += 1
                for c in range(count):
                    t = near[c]
                    jj, ii = j - base_j[t] + half, i - base_i[t] + half
                    f = flux[members[t]]
                    slope[3 * t] = stamp[t, jj, ii]
                    moves = not (fixed[t] or first)
                    slope[3 * t + 1] = f * sx[t, jj, ii] if moves else 0.0
                    slope[3 * t + 2] = f * sy[t, jj, ii] if moves else 0.0
                for c in range(count):
                    for p in range(3 * near[c], 3 * near[c] + 3):
                        right[p] += weight * slope[p] * miss
                        tilt[p] += weight * slope[p]
                        for d in range(c + 1):
                            for q in range(3 * near[d], 3 * near[d] + 3):
                                product = weight * slope[p] * slope[q]
                                normal[p, q] += product
                                spread[p, q] += weight * variance[j, i] * product
    # Stars without pixels and fixed positions keep their values.
    for p in range(size):
        for q in range(p):
            normal[q, p], spread[q, p] = normal[p, q], spread[p, q]
        if not normal[p, p] > 0.0:
            normal[p, :], normal[:, p], right[p], tilt[p] = 0.0, 0.0, 0.0, 0.0
            spread[p, :], spread[:, p] = 0.0, 0.0
            normal[p, p] = 1.0
    inverse = np.zeros((size, size))
    if not _solve(normal, size, inverse):
        for s in range(n):
            status[members[s]] |= 1
        return 0.0
    step = 0.0
    cov = np.zeros(3)
    for s in range(n):
        k = members[s]
        delta = np.zeros(3)
        gain = 0.0
        for c in range(3):
            row = 3 * s + c
            total, error = 0.0, 0.0
            for p in range(size):
                total += inverse[row, p] * right[p]
                inner = 0.0
                for q in range(size):
                    inner += spread[p, q] * inverse[q, row]
                error += inverse[row, p] * inner
                if c == 0:
                    gain += inverse[row, p] * tilt[p]
            delta[c], cov[c] = total, error
        if pixels[k] == 0 and cov[0] == 0.0:
            status[k] |= 1
            continue
        flux[k] += delta[0]
        flux_err[k], sky_gain[k] = np.sqrt(cov[0]), gain
        if fixed[s] or first:
            x_err[k], y_err[k] = np.nan, np.nan
            continue
        x_err[k], y_err[k] = np.sqrt(cov[1]), np.sqrt(cov[2])
        x[k] += min(max(delta[1], -_STEP_PX), _STEP_PX)
        y[k] += min(max(delta[2], -_STEP_PX), _STEP_PX)
        step = max(step, abs(delta[1]), abs(delta[2]))
    return step


@njit(cache=True)
def optimal_fluxes(
    sci: Any, variance: Any, usable: Any, sky_variance: Any, photon: Any, tables: Any,
    oversampling: Any, basis: Any, x: Any, y: Any, level: Any, radius: Any, half: Any,
) -> Any:  # fmt: skip
    """Sum images under a profile with optimal weights (Naylor 1998).

    ``F = sum(P (I - b)/S) / sum(P**2/S)`` with ``S`` a smooth variance,
    ``var = sum(P**2 V/S**2) / sum(P**2/S)**2``.

    Returns
    -------
    flux, variance, sky_gain, kept : ndarray of float64, shape (n,)
        ``sky_gain``: change of the flux with the level. ``kept``: part of ``sum(P**2)``
        within the radius that could be used.
    """
    ny, nx = sci.shape
    n, side = len(x), 2 * half + 1
    flux, error = np.full(n, np.nan), np.full(n, np.nan)
    gain, kept = np.full(n, np.nan), np.zeros(n)
    stamp = np.empty((side, side))
    gx, gy = np.empty((side, side)), np.empty((side, side))
    table = np.empty((tables.shape[1], tables.shape[2]))
    for k in range(n):
        if not (-half <= x[k] <= nx + half and -half <= y[k] <= ny + half):
            continue
        ci, cj = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
        _table_at(tables, basis[k], table)
        psf_stamp(table, oversampling, x[k] - ci, y[k] - cj, half, stamp, gx, gy)
        estimate = 0.0
        # With photon weights the profile itself sets them: once from the sky, then twice.
        for _ in range(3 if photon > 0.0 else 1):
            top, bottom, spread, tilt, power, whole = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for j in range(cj - half, cj + half + 1):
                for i in range(ci - half, ci + half + 1):
                    if (i - x[k]) ** 2 + (j - y[k]) ** 2 > radius * radius:
                        continue
                    p = stamp[j - cj + half, i - ci + half]
                    whole += p * p
                    if not (0 <= i < nx and 0 <= j < ny) or not usable[j, i]:
                        continue
                    power += p * p
                    smooth = sky_variance[k] + photon * max(estimate * p, 0.0)
                    top += p * (sci[j, i] - level[k]) / smooth
                    bottom += p * p / smooth
                    tilt += p / smooth
                    spread += p * p * variance[j, i] / (smooth * smooth)
            if not bottom > 0.0:
                break
            estimate = top / bottom
            flux[k], error[k] = estimate, spread / (bottom * bottom)
            gain[k], kept[k] = -tilt / bottom, power / whole
    return flux, error, gain, kept
