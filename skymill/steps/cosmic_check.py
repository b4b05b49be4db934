"""Cosmic rays against the next exposure: what is there again is no cosmic ray.

Two exposures of one field are compared where one has hits, without resampling either:
light in small boxes, shifted by what the stars say, and scaled by what they lost or won.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.errors import Result
from skymill.frame import Frame, MaskBit
from skymill.kernels.bits import count_bits
from skymill.kernels.cosmic_check import (
    CONFIRMED,
    REFUTED,
    UNDECIDED,
    best_cell,
    box_sums,
    find_peaks,
    groups,
    pairs_near,
    recentre,
    verdicts,
)
from skymill.steps._coarse_sky import CoarseSky, coarse_sky
from skymill.steps._star_shape import looks_like_a_star, stamps, star_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

__all__ = ["Checked", "Link", "Sight", "check_cosmics", "link", "settle", "sight"]

#: Peaks that tell the shift: so many sigma high, and the brightest of them.
_PEAK_SIGMA, _MOST_PEAKS = 10.0, 200
#: Largest shift (px along x or y), and distance of two peaks that are one star.
_REACH_PX, _SAME_STAR_PX = 512, 1.5
#: Ring around the shift that tells how many pairs are there by chance (px).
_RING_PX = (5.0, 25.0)
#: Maxima closer than this are one star.
_ONE_STAR_PX = 3.0
#: Fewest common stars; with fewer than the second, their scatter is taken as at least 10 %.
_FEWEST_STARS, _FEW_STARS, _FEW_SCATTER = 3, 6, 0.10
#: Half widths of the boxes (px), and sigma of the light of a star in one.
_HALVES = np.array([1.5, 2.5])
_STAR_SIGMA = 15.0
#: Scatter of the light of stars between two exposures: the least that is believed, and
#: the largest that still decides.
_LEAST_SCATTER, _MOST_SCATTER = 0.03, 0.25
#: A fault of the detector stays where it is; with shifts below this it is there again.
_FIXED_PX = 3.0

_BAD = np.uint16(int(MaskBit.bad() & ~MaskBit.COSMIC))
_HIT = np.uint16(int(MaskBit.COSMIC))


class Sight(NamedTuple):
    """What the comparison needs of an exposure.

    Attributes
    ----------
    frame : Frame
        Calibrated frame with its final mask.
    sky : CoarseSky
        Its sky.
    peaks : ndarray of float64, shape (n, 4)
        x, y, height and 1 if hit, of bright maxima, the brightest first.
    """

    frame: Frame
    sky: CoarseSky
    peaks: Plane


class Link(NamedTuple):
    """How an exposure follows from another.

    Attributes
    ----------
    dx, dy : float
        Shift of the stars in px.
    scatter_px : float
        Scatter of a star about it, per coordinate.
    x, y : ndarray of float64, shape (n,)
        Common stars in the first exposure, px.
    scales, scatters : ndarray of float64, shape (2,)
        Light in the second over that in the first, in boxes of 3 and 5 px, and its
        relative scatter from star to star.
    """

    dx: float
    dy: float
    scatter_px: float
    x: Plane
    y: Plane
    scales: Plane
    scatters: Plane


class Checked(NamedTuple):
    """Result of the check of one exposure.

    Attributes
    ----------
    refuted : ndarray of bool, shape (ny, nx)
        Pixels of groups that are no hits.
    n_confirmed, n_refuted, n_undecided : int
        Numbers of groups.
    """

    refuted: NDArray[np.bool_]
    n_confirmed: int
    n_refuted: int
    n_undecided: int


def sight(frame: Frame, bits: NDArray[np.uint16]) -> Sight:
    """Prepare an exposure for comparisons.

    Parameters
    ----------
    frame : Frame
        Calibrated frame.
    bits : ndarray of uint16, shape (ny, nx)
        Its final mask.
    """
    frame = frame.replace(mask=bits)
    sky = coarse_sky(frame, frame.mask)
    # peaks have at least the noise of the sky, give or take a factor of two
    floor = np.float32(sky.level.min() + 0.5 * _PEAK_SIGMA * sky.rms.min())
    peaks = find_peaks(
        frame.sci, frame.err, frame.mask, _BAD, _HIT, sky.level, sky.box, _PEAK_SIGMA, floor
    )
    peaks = peaks[np.argsort(-peaks[:, 2], kind="stable")]
    # enough that the brightest without hits are among them
    peaks = np.ascontiguousarray(peaks[: 10 * _MOST_PEAKS])
    recentre(frame.sci, sky.level, sky.box, peaks)
    return Sight(frame, sky, _brightest_of_each(peaks))


def link(one: Sight, other: Sight) -> Link | None:
    """Measure shift and throughput between two exposures from their stars.

    Parameters
    ----------
    one, other : Sight
        Exposures of one field and filter, not rotated against each other.

    Returns
    -------
    Link or None
        None if they are of different size, have fewer than five common stars, or if the
        light of the stars varies by more than a quarter between them: then nothing can be
        checked.

    Notes
    -----
    Each pair of peaks votes for an offset; peaks without hits vote first. Faults of the
    detector are where they were and would vote for no shift, but they are masked or hits.
    """
    if one.frame.shape != other.frame.shape:
        return None
    for flagged in (False, True):
        first, second = (
            s.peaks[(s.peaks[:, 3] == 0) | flagged][:_MOST_PEAKS] for s in (one, other)
        )
        found = _shift(first[:, :2], second[:, :2], one.frame.shape)
        if found is not None:
            dx, dy, scatter, stars = found
            known = _throughput(one, other, first[stars, 0], first[stars, 1], dx, dy)
            if known is not None:
                return Link(dx, dy, scatter, *known)
    return None


def check_cosmics(
    one: Sight, hits: NDArray[np.bool_], neighbours: Sequence[tuple[Sight, Link | None]]
) -> Checked:
    """Compare the hits of an exposure with its neighbours.

    Parameters
    ----------
    one : Sight
        The exposure.
    hits : ndarray of bool, shape (ny, nx)
        Its hits.
    neighbours : sequence of (Sight, Link or None)
        Exposures before and after it with what `link` found.

    Returns
    -------
    Checked
        A group is refuted if a neighbour shows it again and none lacks it, confirmed if
        one lacks it and none shows it again.
    """
    members, starts = groups(np.ascontiguousarray(hits, np.bool_))
    n = starts.size - 1
    gone, again = np.zeros(n, bool), np.zeros(n, bool)
    for other, known in neighbours:
        if known is not None and n:
            found = _verdicts(one, other, known, hits, members, starts)
            gone |= found == CONFIRMED
            again |= found == REFUTED
    refuted = np.zeros(hits.shape, np.bool_)
    flat = refuted.ravel()
    for g in np.flatnonzero(again & ~gone):
        flat[members[starts[g] : starts[g + 1]]] = True
    n_refuted = int(np.count_nonzero(again & ~gone))
    n_confirmed = int(np.count_nonzero(gone & ~again))
    return Checked(refuted, n_confirmed, n_refuted, n - n_confirmed - n_refuted)


def settle(
    result: Result[NDArray[np.uint16]], hits: NDArray[np.bool_], found: Checked
) -> Result[NDArray[np.uint16]]:
    """Return the result of the mask step without the hits that are none.

    Parameters
    ----------
    result : Result of ndarray of uint16, shape (ny, nx)
        As from `skymill.steps.mask.mask`. Not modified.
    hits : ndarray of bool, shape (ny, nx)
        The hits that were checked.
    found : Checked
        What came out.

    Returns
    -------
    Result
        The mask without COSMIC where refuted. Numbers that change follow; new are
        ``n_cosmics_confirmed``, ``n_cosmics_refuted``, ``n_cosmics_undecided``.
    """
    bits = result.value.copy()
    bits[found.refuted] &= np.uint16(0xFFFF ^ int(MaskBit.COSMIC))
    bits.flags.writeable = False
    n_bad = int(count_bits(bits, np.uint16(int(MaskBit.bad()))))
    numbers = {
        **result.numbers,
        "n_cosmics": found.n_confirmed + found.n_undecided,
        "n_cosmic_px": int(np.count_nonzero(hits & ~found.refuted)),
        "n_cosmics_confirmed": found.n_confirmed,
        "n_cosmics_refuted": found.n_refuted,
        "n_cosmics_undecided": found.n_undecided,
        "n_bad_px": n_bad,
        "masked_fraction": n_bad / bits.size,
    }
    return Result(bits, result.flags, numbers)


def _brightest_of_each(peaks: Plane) -> Plane:
    """Drop maxima next to a brighter one: noise makes several of a broad star."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(peaks[:, :2]).query_pairs(_ONE_STAR_PX, output_type="ndarray")
    kept = np.ones(len(peaks), bool)
    kept[pairs.max(axis=1)] = False  # the brighter ones come first
    return peaks[kept]


def _shift(
    first: Plane, second: Plane, shape: tuple[int, int]
) -> tuple[float, float, float, NDArray[np.int64]] | None:
    """Return shift, its scatter, and which of the first points have a partner."""
    if min(len(first), len(second)) < _FEWEST_STARS:
        return None
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    dx, dy = best_cell(first, second, _REACH_PX)
    circles = (2 * _REACH_PX) ** 2 / _SAME_STAR_PX**2
    density = np.pi * len(first) * len(second) / (shape[0] * shape[1])
    # the cells are coarse: the first circle is as large as they are
    for radius in (2 * _SAME_STAR_PX, _SAME_STAR_PX, _SAME_STAR_PX):
        near, partner, ring = pairs_near(first, second, dx, dy, radius, _RING_PX)
        stars = np.flatnonzero(partner)
        # what chance alone brings into the circle, and into one of 1 px
        chance = radius**2 * max(ring / (_RING_PX[1] ** 2 - _RING_PX[0] ** 2), density)
        # as many in any circle would be chance once in a thousand frames
        if stars.size < max(_FEWEST_STARS, 1 + _by_chance(1e-3 / circles, chance)):
            return None
        dx, dy = float(np.median(near[:, 0])), float(np.median(near[:, 1]))
    off = np.concatenate([near[:, 0] - dx, near[:, 1] - dy])
    return dx, dy, 1.4826 * float(np.median(np.abs(off))), stars


def _by_chance(probability: float, mean: float) -> float:
    """Return the number that a Poisson variable exceeds with at most this probability.

    As ``scipy.stats.poisson.isf``, whose import takes longer than the mask of a small frame.
    """
    from scipy.special import pdtr, pdtrik

    level = 1 - probability
    number = float(np.ceil(pdtrik(level, mean)))
    below = max(number - 1, 0.0)
    return below if pdtr(below, mean) >= level else number


def _sums(at: Sight, x: Plane, y: Plane, half: float) -> tuple[Plane, Plane]:
    f = at.frame
    return box_sums(f.sci, f.err, f.mask, _BAD, at.sky.level, at.sky.box, x, y, half)  # type: ignore[no-any-return]


def _throughput(
    one: Sight, other: Sight, x: Plane, y: Plane, dx: float, dy: float
) -> tuple[Plane, Plane, Plane, Plane] | None:
    """Return the common stars, and how their light changed in both boxes."""
    scales, scatters = np.ones(2), np.ones(2)
    x, y = np.rint(x), np.rint(y)  # boxes of the hits are centred on pixels, too
    kept = np.ones(x.size, bool)
    for k, half in enumerate(_HALVES):
        first, spread = _sums(one, x, y, half)
        second, more = _sums(other, x + dx, y + dy, half)
        with np.errstate(divide="ignore", invalid="ignore"):
            good = (first > _STAR_SIGMA * np.sqrt(spread)) & (second > 5 * np.sqrt(more))
            ratio = second / first
            noise = ratio * np.sqrt(spread / first**2 + more / second**2)
        if np.count_nonzero(good) < _FEWEST_STARS:
            return None
        kept &= good
        scales[k] = np.median(ratio[good])
        width = 1.4826 * float(np.median(np.abs(ratio[good] - scales[k])))
        excess = width**2 - float(np.median(noise[good])) ** 2
        least = _LEAST_SCATTER if np.count_nonzero(good) >= _FEW_STARS else _FEW_SCATTER
        scatters[k] = max(np.sqrt(max(excess, 0.0)) / scales[k], least)
    if scatters[0] > _MOST_SCATTER or not (scales > 0).all():
        return None
    return x[kept], y[kept], scales, scatters


def _verdicts(
    one: Sight,
    other: Sight,
    known: Link,
    hits: NDArray[np.bool_],
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.int64]:
    planes = [
        (s.frame.sci, s.frame.err, s.frame.mask, s.sky.level, s.sky.box) for s in (one, other)
    ]
    found: NDArray[np.int64] = verdicts(
        *planes, _BAD, members, starts, hits, known.dx, known.dy, _HALVES, known.scales,
        known.scatters, (one.sky.typical_rms, other.sky.typical_rms),
    )  # fmt: skip
    if np.hypot(known.dx, known.dy) < _FIXED_PX:
        there = np.flatnonzero(found == REFUTED)
        if there.size:
            found[there[~_like_stars(one, other, known, members, starts, there)]] = UNDECIDED
    return found


def _like_stars(
    one: Sight,
    other: Sight,
    known: Link,
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    which: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Tell which groups look like stars in both exposures."""
    nx = one.frame.shape[1]
    flat = one.frame.sci.ravel()
    peaks = np.array([
        group[np.argmax(flat[group])]
        for group in (members[starts[g] : starts[g + 1]] for g in which)
    ])  # fmt: skip
    x, y = (peaks % nx).astype(float), (peaks // nx).astype(float)
    like = np.ones(which.size, bool)
    for at, dx, dy in ((one, 0.0, 0.0), (other, known.dx, known.dy)):
        shape = star_shape(*_light(at, known.x + dx, known.y + dy))
        if shape is None:
            return np.zeros(which.size, bool)
        like &= looks_like_a_star(shape, *_light(at, x + dx, y + dy))
    return like


def _light(at: Sight, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Light above the sky and its error in 5 x 5 px; NaN outside."""
    from skymill.kernels.coarse_sky import value_at

    light, inside = stamps(at.frame.sci, x, y)
    noise, _ = stamps(at.frame.err, x, y)
    sky = np.array([value_at(at.sky.level, at.sky.box, v, u) for u, v in zip(x, y, strict=True)])
    light -= sky.reshape(-1, 1)
    light[~inside] = np.nan
    return light, noise
