"""The transparency of each frame from an ensemble of constant stars.

Fluxes are modelled as ``F_ij = m_i T_j``: star times transparency. Weights are fixed
by each star's typical relative error, never by the value they weight. Stars that vary
more than their errors allow are dropped, the worst first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Ensemble", "corrected", "differential_flux", "fit_ensemble"]

_CLIP_SIGMA = 5.0
_ITERATIONS = 100
_CONVERGED = 1e-7
#: This many comparison stars always stay: of two nobody knows which one varies.
_MINIMUM = 3


@dataclass(frozen=True)
class Ensemble:
    """Solution for one filter.

    Parameters
    ----------
    members : ndarray of bool, shape (n_sources,)
        Comparison stars.
    level : ndarray of float64, shape (n_sources,)
        Mean flux ``m`` of the comparison stars at transparency 1; NaN for others.
    weight : ndarray of float64, shape (n_sources,)
        Weight of each comparison star, 0 for others.
    used : ndarray of bool, shape (n_sources, n_frames)
        Values that entered.
    transparency, transparency_err : ndarray of float64, shape (n_frames,)
        ``T`` and its error; NaN without a comparison star.
    floor : float
        Relative scatter of the comparison stars beyond their errors.
    """

    members: NDArray[np.bool_]
    level: NDArray[np.float64]
    weight: NDArray[np.float64]
    used: NDArray[np.bool_]
    transparency: NDArray[np.float64]
    transparency_err: NDArray[np.float64]
    floor: float


class _Fit(NamedTuple):
    level: NDArray[np.float64]
    weight: NDArray[np.float64]
    used: NDArray[np.bool_]
    floor: float


def fit_ensemble(
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
    good: NDArray[np.bool_],
    *,
    minimum_snr: float,
    max_comparisons: int,
    reject_chi2: float,
    throughput: NDArray[np.float64] | None = None,
) -> Ensemble:
    """Choose comparison stars and solve for the transparency of the frames.

    Parameters
    ----------
    flux, err : ndarray of float64, shape (n_sources, n_frames)
        Fluxes and errors per second.
    good : ndarray of bool, shape (n_sources, n_frames)
        Measurements without a flag.
    minimum_snr : float
        Fewest median signal to noise of a comparison star.
    max_comparisons : int
        The brightest this many are candidates.
    reject_chi2 : float
        Stars with a larger reduced chi-square are dropped.
    throughput : ndarray of float64, shape (n_frames,), optional
        Throughput of the frames known from elsewhere: start and scale of ``T``.

    Returns
    -------
    Ensemble
    """
    good = good & np.isfinite(flux) & np.isfinite(err) & (err > 0)
    members = _candidates(flux, err, good, minimum_snr, max_comparisons)
    t = _start(flux, good & members[:, None], throughput)
    used = good & members[:, None] & np.isfinite(t)
    floor = 0.0
    for _ in range(_ITERATIONS):
        level = _levels(flux, err, t, used)
        weight = _weights(err, t, level, used, floor)
        before = t
        t = _scaled(_transparency(flux, level, weight, used), throughput)
        everything = good & members[:, None] & np.isfinite(t)
        floor, chi2 = _scatter(flux, err, t, _Fit(level, weight, used, floor), everything)
        kept = everything & ~_outlying(flux, err, t, level, floor)
        worst = _worst(chi2, members, reject_chi2)
        moved = np.nanmax(np.abs(t / before - 1), initial=0.0)
        if not worst.any() and (kept == used).all() and moved < _CONVERGED:
            break
        members = members & ~worst
        used = kept & members[:, None]
    level = _levels(flux, err, t, used)
    weight = _weights(err, t, level, used, floor)
    t_err = _transparency_err(err, t, _Fit(level, weight, used, floor))
    return Ensemble(members, level, weight, used, t, t_err, floor)


def corrected(
    flux: NDArray[np.float64], err: NDArray[np.float64], ensemble: Ensemble
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide by the transparency from all comparison stars but the star itself.

    Returns
    -------
    flux, err : ndarray of float64, shape (n_sources, n_frames)
        At transparency 1, with the error of the transparency. NaN where no other
        comparison star was measured.
    """
    e = ensemble
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.where(e.used, e.weight[:, None], 0.0)
        ratio = np.where(e.used, flux / e.level[:, None], 0.0)
        noise = np.where(e.used, _relative_noise(err, e), 0.0)
        others = w.sum(axis=0) - w
        scale = e.transparency * w.sum(axis=0) / np.where(e.used, w * ratio, 0.0).sum(axis=0)
        t = ((w * ratio).sum(axis=0) - w * ratio) / others * scale
        spread = np.sqrt(np.maximum((w**2 * noise**2).sum(axis=0) - w**2 * noise**2, 0)) / others
        valid = (others > 1e-9 * w.sum(axis=0)) & (t > 0)
        t = np.where(valid, t, np.nan)
        value = flux / t
        return value, np.hypot(err / t, value * spread * scale / t)


def differential_flux(
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
    good: NDArray[np.bool_],
    comparisons: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each star's flux over the sum of chosen comparison stars.

    ``r = F_T / sum(F_C)`` and ``(sigma_r/r)^2 = (sigma_T/F_T)^2 + sum(sigma_C^2) /
    sum(F_C)^2``, written so that it holds for a flux of zero. A comparison star is left
    out of its own sum. The sum is always of the same stars: where one of them was not
    measured well there is no ratio.

    Parameters
    ----------
    flux, err : ndarray of float64, shape (n_sources, n_frames)
        Fluxes and errors of one frame in one unit.
    good : ndarray of bool, shape (n_sources, n_frames)
        Measurements without a flag.
    comparisons : ndarray of bool, shape (n_sources,)
        The chosen stars.

    Returns
    -------
    ratio, err : ndarray of float64, shape (n_sources, n_frames)
        NaN where a comparison star is missing, or the star itself.
    """
    usable = good & np.isfinite(flux) & np.isfinite(err)
    part = np.where(comparisons[:, None] & usable, flux, 0.0)
    noise = np.where(comparisons[:, None] & usable, err**2, 0.0)
    lost = (comparisons[:, None] & ~usable).sum(axis=0)
    mine = comparisons[:, None] & ~usable
    total = part.sum(axis=0) - part
    variance = noise.sum(axis=0) - noise
    with np.errstate(invalid="ignore", divide="ignore"):
        known = ((lost - mine) == 0) & (total > 0)
        ratio = np.where(known, flux / total, np.nan)
        return ratio, np.where(known, np.sqrt(err**2 + ratio**2 * variance) / total, np.nan)


def _relative_noise(err: NDArray[np.float64], e: Ensemble) -> NDArray[np.float64]:
    return np.asarray(np.hypot(err / e.level[:, None], e.floor * e.transparency))


def _candidates(
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
    good: NDArray[np.bool_],
    minimum_snr: float,
    max_comparisons: int,
) -> NDArray[np.bool_]:
    """Bright stars measured on nearly all frames."""
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = np.where(good, flux / err, np.nan)
    usable = max(int(good.any(axis=0).sum()), 1)
    enough = good.sum(axis=1) >= max(0.8 * usable, 1)
    median = np.full(flux.shape[0], -np.inf)
    if enough.any():
        median[enough] = np.nanmedian(snr[enough], axis=1)
    order = np.argsort(-median, kind="stable")
    chosen = np.zeros(flux.shape[0], bool)
    chosen[[i for i in order[:max_comparisons] if median[i] >= minimum_snr]] = True
    return chosen


def _start(
    flux: NDArray[np.float64], good: NDArray[np.bool_], throughput: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Median ratio to the stars' medians, star by star: no star dominates."""
    rows = good.any(axis=1)
    t = np.full(flux.shape[1], np.nan)
    if not rows.any():
        return t
    values = np.where(good[rows], flux[rows], np.nan)
    ratio = values / np.nanmedian(values, axis=1)[:, None]
    seen = good[rows].any(axis=0)
    t[seen] = np.nanmedian(ratio[:, seen], axis=0)
    t[~(t > 0)] = np.nan
    return _scaled(t, throughput)


def _scaled(t: NDArray[np.float64], throughput: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Fix the common factor of ``T``: that of known throughputs, else a median of 1."""
    if throughput is not None:
        both = np.isfinite(t) & np.isfinite(throughput) & (throughput > 0)
        if both.any():
            return np.asarray(t / np.median(t[both] / throughput[both]))
    return np.asarray(t / np.nanmedian(t)) if np.isfinite(t).any() else t


def _levels(
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
    t: NDArray[np.float64],
    used: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Mean flux at transparency 1; a frame's weight is common to all stars."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(used, flux / t, np.nan)
        noise = np.where(used, err / t, np.nan)
        level = np.full(flux.shape[0], np.nan)
        rows = used.any(axis=1)
        level[rows] = np.nanmedian(value[rows], axis=1)
        seen = used.any(axis=0)
        frame = np.zeros(flux.shape[1])
        frame[seen] = 1 / np.nanmedian((noise / level[:, None])[:, seen] ** 2, axis=0)
        w = np.where(used, frame, 0.0)
        level[rows] = (np.where(used, value, 0) * w)[rows].sum(axis=1) / w[rows].sum(axis=1)
    return np.where(level > 0, level, np.nan)


def _weights(
    err: NDArray[np.float64],
    t: NDArray[np.float64],
    level: NDArray[np.float64],
    used: NDArray[np.bool_],
    floor: float,
) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(used, err / (level[:, None] * t), np.nan)
    weight = np.zeros(level.size)
    rows = used.any(axis=1) & np.isfinite(level)
    weight[rows] = 1 / (np.nanmedian(relative[rows], axis=1) ** 2 + floor**2)
    return weight


def _transparency(
    flux: NDArray[np.float64],
    level: NDArray[np.float64],
    weight: NDArray[np.float64],
    used: NDArray[np.bool_],
) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.where(used & np.isfinite(level)[:, None], weight[:, None], 0.0)
        ratio = np.where(w > 0, flux / level[:, None], 0.0)
        t = (w * ratio).sum(axis=0) / w.sum(axis=0)
    return np.where(t > 0, t, np.nan)


def _transparency_err(
    err: NDArray[np.float64], t: NDArray[np.float64], fit: _Fit
) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.where(fit.used, fit.weight[:, None], 0.0)
        noise = np.where(w > 0, np.hypot(err / fit.level[:, None], fit.floor * t), 0.0)
        return np.asarray(np.sqrt((w**2 * noise**2).sum(axis=0)) / w.sum(axis=0))


def _scatter(
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
    t: NDArray[np.float64],
    fit: _Fit,
    everything: NDArray[np.bool_],
) -> tuple[float, NDArray[np.float64]]:
    """Common scatter beyond the errors, and reduced chi-square of each star with it.

    A star of a large share of the weight pulls ``T`` along: its residual is divided by
    one minus its share. Values that were left out count as 5 sigma, so that one hit
    does not condemn a star, and a star that is often left out does not pass.
    """
    used = fit.used
    with np.errstate(invalid="ignore", divide="ignore"):
        model = fit.level[:, None] * t
        w = np.where(used, fit.weight[:, None], 0.0)
        total = w.sum(axis=0)
        alone = np.maximum(1 - w / total, 1e-6)
        rest = (flux / model - 1) / alone
        own = (err / model) ** 2
        part = np.where(used, w**2 * (own + fit.floor**2), 0.0)
        # Relative variance of the transparency that the other stars give.
        others = np.maximum(part.sum(axis=0) - part, 0.0) / (total * alone) ** 2
        var = own + others
        excess = np.where(used, rest**2 - var, 0.0)
        rows = used.sum(axis=1) > 1
        floor = 0.0
        if rows.sum() >= _MINIMUM:
            per_star = excess[rows].sum(axis=1) / used[rows].sum(axis=1)
            floor = float(np.sqrt(max(np.median(per_star), 0.0)))
        square = np.minimum(rest**2 / (var + floor**2), _CLIP_SIGMA**2)
    freedom = np.maximum(everything.sum(axis=1) - 1, 1)
    chi2 = np.where(everything & np.isfinite(square), square, 0.0).sum(axis=1) / freedom
    return floor, np.where(rows, chi2, np.nan)


def _outlying(
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
    t: NDArray[np.float64],
    level: NDArray[np.float64],
    floor: float,
) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore", divide="ignore"):
        model = level[:, None] * t
        sigma = np.hypot(err / model, floor)
        return np.asarray(np.abs(flux / model - 1) > _CLIP_SIGMA * sigma)


def _worst(
    chi2: NDArray[np.float64], members: NDArray[np.bool_], limit: float
) -> NDArray[np.bool_]:
    """Up to a tenth of the stars, the worst ones beyond the limit; three always stay."""
    out = np.zeros(chi2.size, bool)
    beyond = members & (chi2 > limit)
    spare = int(members.sum()) - _MINIMUM
    count = min(int(beyond.sum()), spare, max(int(members.sum()) // 10, 1))
    if count > 0:
        order = np.argsort(np.where(beyond, -chi2, np.inf), kind="stable")
        out[order[:count]] = True
    return out
