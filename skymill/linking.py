"""Link detections of single frames to objects that move at a constant rate.

Every pair of detections that a rate within the limits can join is a seed. A seed is
extended from the frames next to it to those further away: where a detection lies at
the predicted place it is taken in and the motion is fitted again. A track is believed
only if chance would make less than a stated number of tracks that good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import betainc

from skymill.kernels import linking as kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Track", "fit_motion", "link", "stationary"]

#: Frames that are looked at before a seed with too few detections is given up.
_FIRST_LOOK = 6
#: Tracks that share more than this part of their detections are one object.
_SHARED = 0.3
#: Radius in tolerances within which the density of detections is taken.
_DENSITY_REACH = 20.0
#: Frames between the two detections of a seed, at most.
_SEED_SPAN = 4
#: A pair of detections that are in so many believed tracks each is not followed any more: an
#: object on many frames would be followed through all of them for each of its pairs.
_ALIKE = 100
#: Members of tracks that are followed at the same time (8 byte each).
_MEMBERS = 4_000_000


@dataclass(frozen=True)
class Track:
    """Detections that one motion explains.

    Parameters
    ----------
    detections : tuple of int
        Indices into the list of detections, by time.
    position : (float, float)
        Position at ``time_h`` in the plane of the detections.
    rate : (float, float)
        Motion along both axes per hour.
    time_h : float
        Mean time of the detections.
    covariance : ndarray of float64, shape (2, 2)
        Covariance of position and rate along one axis, for detections of unit error
        scaled by the scatter.
    rms : float
        Root mean square residual per axis.
    n_frames : int
        Frames that the object should be on.
    expected_false : float
        Tracks as good as this one that chance makes among all seeds.
    """

    detections: tuple[int, ...]
    position: tuple[float, float]
    rate: tuple[float, float]
    time_h: float
    covariance: Floats
    rms: float
    n_frames: int
    expected_false: float

    def at(self, time_h: Floats | float) -> Floats:
        """Positions at some times, shape (n, 2)."""
        dt = np.atleast_1d(np.asarray(time_h, np.float64)) - self.time_h
        return np.asarray(self.position) + dt[:, None] * np.asarray(self.rate)


def stationary(
    frame: NDArray[np.int64], xy: Floats, radius: float, *, minimum_frames: int = 3
) -> NDArray[np.bool_]:
    """Return which detections were seen at the same place in other frames, too.

    Parameters
    ----------
    frame : ndarray of int, shape (n,)
        Frame of each detection, from 0 on.
    xy : ndarray, shape (n, 2)
        Positions in a plane that all frames share.
    radius : float
        Largest distance.
    minimum_frames : int
        Frames, its own included, that make a detection a star.
    """
    frame, xy = np.asarray(frame, np.int64), np.asarray(xy, np.float64).reshape(-1, 2)
    if not len(xy):
        return np.zeros(0, bool)
    strips = _strips(xy, radius)
    order = strips.order
    found = kernels.seen_again(
        strips.x, strips.y, np.ascontiguousarray(frame[order]), strips.starts, strips.low,
        strips.height, float(radius), int(frame.max()) + 1, minimum_frames - 1,
    )  # fmt: skip
    out = np.empty(len(xy), bool)
    out[order] = found
    return out


class _Strips(NamedTuple):
    """Positions by strips of equal height in y, and by x within one."""

    order: NDArray[np.intp]
    x: Floats
    y: Floats
    starts: NDArray[np.int64]
    low: float
    height: float


def _strips(xy: Floats, radius: float) -> _Strips:
    """Sort positions so that all within a radius of one lie in three strips."""
    low = float(xy[:, 1].min())
    # One stray position far away must not make more strips than there are positions.
    height = max(float(radius), (float(xy[:, 1].max()) - low) / (4 * len(xy)))
    strip = ((xy[:, 1] - low) / height).astype(np.int64)
    order = np.lexsort((xy[:, 0], strip))
    starts = np.searchsorted(strip[order], np.arange(int(strip.max()) + 2))
    x, y = (np.ascontiguousarray(xy[order, axis]) for axis in (0, 1))
    return _Strips(order, x, y, starts.astype(np.int64), low, height)


def link(
    frame: NDArray[np.int64],
    xy: Floats,
    times_h: Floats,
    footprints: Floats,
    *,
    max_rate: float,
    tolerance: float,
    minimum_motion: float,
    minimum_detections: int = 4,
    minimum_fraction: float = 0.4,
    max_false: float = 1e-3,
    max_seeds: int = 2_000_000,
) -> list[Track]:
    """Return the objects that move through a series of frames.

    Parameters
    ----------
    frame : ndarray of int, shape (n,)
        Frame of each detection, an index into `times_h`.
    xy : ndarray of float64, shape (n, 2)
        Positions in a plane that all frames share (arcsec or pixels).
    times_h : ndarray of float64, shape (f,)
        Mid-times of the frames in hours.
    footprints : ndarray of float64, shape (f, v, 2)
        Border of each frame in that plane, as a polygon; NaN for one that covers nothing.
    max_rate : float
        Fastest motion per hour.
    tolerance : float
        Largest distance between prediction and detection.
    minimum_motion : float
        Motion over all detections that is needed to tell an object from a star.
    minimum_detections : int
        Fewest detections.
    minimum_fraction : float
        Fewest detections as a fraction of the frames that the object should be on.
    max_false : float
        Tracks that chance makes more often than this are not believed.
    max_seeds : int
        Most pairs that are followed.

    Returns
    -------
    list of Track
        Most detections first.

    Raises
    ------
    ValueError
        If there are more than `max_seeds` pairs: the limit of the rate is too large for
        so many detections.
    """
    frame = np.asarray(frame, np.int64)
    xy = np.ascontiguousarray(np.asarray(xy, np.float64).reshape(-1, 2))
    times_h = np.ascontiguousarray(times_h, np.float64)
    if np.unique(frame).size < minimum_detections:
        return []
    seeds = _seeds(frame, xy, times_h, max_rate, tolerance, max_seeds)
    if not len(seeds):
        return []
    follow = _Follower(frame, xy, times_h, footprints, tolerance)
    used = np.zeros(len(xy), np.int64)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats, NDArray[np.int64]]] = []
    for some in _portions(len(seeds), len(times_h)):
        # What many believed tracks hold already leads to the same objects again.
        fresh = some[used[seeds[some]].min(axis=1) < _ALIKE]
        if not fresh.size:
            continue
        members, looked, expected = follow(seeds[fresh])
        n = (members >= 0).sum(axis=1)
        p = expected / np.maximum(looked, 1)
        # Binomial tail: at least n - 2 of the frames beside the seed's two by chance.
        extra = np.maximum(n - 2, 1)
        tail = np.where(looked >= extra, betainc(extra, np.maximum(looked - extra + 1, 1), p), 0.0)
        false = np.where(n > 2, len(seeds) * tail, np.inf)
        enough = (n >= minimum_detections) & (n >= minimum_fraction * (looked + 2))
        good = np.flatnonzero(enough & (false <= max_false))
        if good.size:
            rows = members[good]
            used += np.bincount(rows[rows >= 0], minlength=len(xy))
            found.append((fresh[good], rows, false[good], looked[good] + 2))
    if not found:
        return []
    number, rows, false, looked = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(number)
    return _distinct(
        rows[order], false[order], looked[order], frame, xy, times_h, minimum_motion, tolerance
    )


def _portions(n: int, n_frames: int) -> Iterator[NDArray[np.intp]]:
    """Yield the seeds in portions, each of them from all over the series."""
    golden = (np.arange(n) * ((5**0.5 - 1) / 2)) % 1.0
    order = np.argsort(golden, kind="stable")
    # Small ones as long as a long series has much to tell about one object.
    size = max(min(_MEMBERS // n_frames, n // 64), _ALIKE)
    for start in range(0, n, size):
        yield order[start : start + size]


class _ByFrame(NamedTuple):
    """Detections by frames, and by x within one."""

    number: NDArray[np.int64]
    x: Floats
    y: Floats
    starts: NDArray[np.int64]


def _by_frame(frame: NDArray[np.int64], xy: Floats, n_frames: int) -> _ByFrame:
    number = np.lexsort((xy[:, 0], frame))
    starts = np.searchsorted(frame[number], np.arange(n_frames + 1)).astype(np.int64)
    x, y = (np.ascontiguousarray(xy[number, axis]) for axis in (0, 1))
    return _ByFrame(number.astype(np.int64), x, y, starts)


def _seeds(
    frame: NDArray[np.int64],
    xy: Floats,
    times_h: Floats,
    max_rate: float,
    tolerance: float,
    max_seeds: int,
) -> NDArray[np.int64]:
    """Pairs of detections in frames close in time, shape (n, 2), by time and number."""
    order = np.argsort(times_h, kind="stable").astype(np.int64)
    lists = _by_frame(frame, xy, len(times_h))
    rest = (lists.starts, times_h, order, _SEED_SPAN, float(max_rate), float(tolerance))
    # Counted first: too many would not fit in memory.
    n = kernels.pairs(lists.x, lists.y, lists.number, *rest, np.empty((0, 2), np.int64))
    if n > max_seeds:
        raise ValueError(
            f"{n} pairs of detections move slower than {max_rate:g} per hour, at most "
            f"{max_seeds} can be followed: lower the limit of the rate"
        )
    seeds = np.empty((n, 2), np.int64)
    kernels.pairs(lists.x, lists.y, lists.number, *rest, seeds)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    one, other = seeds[:, 0], seeds[:, 1]
    return np.asarray(seeds[np.lexsort((other, one, rank[frame[other]], rank[frame[one]]))])


class _Follower:
    """Follows seeds through all frames."""

    def __init__(
        self,
        frame: NDArray[np.int64],
        xy: Floats,
        times_h: Floats,
        footprints: Floats,
        tolerance: float,
    ) -> None:
        order = np.argsort(times_h, kind="stable").astype(np.int64)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        lists = _by_frame(frame, xy, len(times_h))
        # Spurious detections crowd at edges and bright stars: the density is local.
        radius = _DENSITY_REACH * tolerance
        strips = _strips(xy, radius)
        borders = np.ascontiguousarray(footprints, np.float64)
        self._n_frames = len(order)
        self._known = (
            frame, xy, times_h, order, rank, borders,
            lists.x, lists.y, lists.number, lists.starts,
            strips.x, strips.y, strips.starts, strips.low, strips.height,
            radius, float(tolerance), _FIRST_LOOK,
        )  # fmt: skip

    def __call__(
        self, seeds: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Follow some seeds.

        Returns
        -------
        members : ndarray of int, shape (n_seeds, n_frames)
            Detection that was taken in on each frame, -1 for none.
        looked : ndarray of int, shape (n_seeds,)
            Frames beside the two of the seed that the prediction lies on.
        expected : ndarray of float, shape (n_seeds,)
            Detections on them that chance would bring.
        """
        members = np.empty((len(seeds), self._n_frames), np.int64)
        looked, expected = kernels.follow(seeds, *self._known, members)
        return members, looked, expected


def fit_motion(times_h: Floats, xy: Floats) -> tuple[Floats, Floats, float, Floats, float]:
    """Fit a constant motion by least squares.

    Parameters
    ----------
    times_h : ndarray, shape (n,)
        Times in hours.
    xy : ndarray, shape (n, 2)
        Positions.

    Returns
    -------
    position, rate : ndarray, shape (2,)
        Position at the mean time, motion per hour.
    time_h : float
        The mean time.
    covariance : ndarray, shape (2, 2)
        Of position and rate along one axis, from the scatter.
    rms : float
        Root mean square residual per axis.
    """
    mean_t = float(times_h.mean())
    dt = times_h - mean_t
    spread = float((dt**2).sum())
    position = xy.mean(axis=0)
    rate = (dt[:, None] * xy).sum(axis=0) / spread if spread > 0 else np.zeros(2)
    residual = xy - position - dt[:, None] * rate
    free = max(2 * len(dt) - 4, 1)
    variance = float((residual**2).sum()) / free
    rms = float(np.sqrt((residual**2).mean()))
    covariance = variance * np.diag([1 / len(dt), 1 / spread if spread > 0 else np.inf])
    return position, rate, mean_t, covariance, rms


def _distinct(
    members: NDArray[np.int64],
    false: Floats,
    n_frames: NDArray[np.int64],
    frame: NDArray[np.int64],
    xy: Floats,
    times_h: Floats,
    minimum_motion: float,
    tolerance: float,
) -> list[Track]:
    """Fit the tracks, best first, and leave out those that share detections."""
    fits = []
    # The pairs of an object lead to the same detections again and again.
    alike = {row.tobytes(): s for s, row in reversed(list(enumerate(members)))}
    for s in sorted(alike.values()):
        mine = members[s][members[s] >= 0]
        mine = mine[np.argsort(times_h[frame[mine]], kind="stable")]
        when = times_h[frame[mine]]
        fit = fit_motion(when, xy[mine])
        if np.hypot(*fit[1]) * (when[-1] - when[0]) >= minimum_motion:
            fits.append((-len(mine), fit[4], tuple(mine.tolist()), s, fit))
    taken: set[int] = set()
    tracks: list[Track] = []
    for _, rms, mine, s, (position, rate, time_h, covariance, _) in sorted(
        fits, key=lambda item: item[:3]
    ):
        if len(taken.intersection(mine)) > _SHARED * len(mine):
            continue
        ends = times_h[frame[[mine[0], mine[-1]]]]
        place = position + (ends - time_h)[:, None] * rate
        if any(np.hypot(*(place - other.at(ends)).T).max() < tolerance for other in tracks):
            continue  # a double detection of one object
        taken.update(mine)
        start, motion = (float(position[0]), float(position[1])), (float(rate[0]), float(rate[1]))
        tracks.append(
            Track(mine, start, motion, time_h, covariance, rms, int(n_frames[s]), float(false[s]))
        )
    return tracks
