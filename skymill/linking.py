"""Link detections of single frames to objects that move at a constant rate.

Every pair of detections that a rate within the limits can join is a seed. A seed is
extended from the frames next to it to those further away: where a detection lies at
the predicted place it is taken in and the motion is fitted again. A track is believed
only if chance would make less than a stated number of tracks that good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import betainc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Covers = Callable[[int, Floats], NDArray[np.bool_]]

__all__ = ["Track", "fit_motion", "link", "stationary"]

#: Frames that are looked at before a seed with too few detections is given up.
_FIRST_LOOK = 6
#: Tracks that share more than this part of their detections are one object.
_SHARED = 0.3
#: Radius in tolerances within which the density of detections is taken.
_DENSITY_REACH = 20.0
#: Frames between the two detections of a seed, at most.
_SEED_SPAN = 4


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
        Frame of each detection.
    xy : ndarray, shape (n, 2)
        Positions in a plane that all frames share.
    radius : float
        Largest distance.
    minimum_frames : int
        Frames, its own included, that make a detection a star.
    """
    from scipy.spatial import cKDTree

    if not len(xy):
        return np.zeros(0, bool)
    pairs = cKDTree(xy).query_pairs(radius, output_type="ndarray")
    pairs = pairs[frame[pairs[:, 0]] != frame[pairs[:, 1]]]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    # Two detections of one frame near the same place count once.
    seen = np.unique(np.column_stack([both[:, 0], frame[both[:, 1]]]), axis=0)
    count = np.bincount(seen[:, 0], minlength=len(xy))
    return np.asarray(count + 1 >= minimum_frames)


def link(
    frame: NDArray[np.int64],
    xy: Floats,
    times_h: Floats,
    covers: Covers,
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
    covers : callable
        ``covers(frame, xy)`` tells which positions lie on a frame.
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
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    if np.unique(frame).size < minimum_detections:
        return []
    order = np.argsort(times_h, kind="stable")
    index = [np.flatnonzero(frame == k) for k in range(len(times_h))]
    seeds = _seeds(index, xy, times_h, order, max_rate, tolerance)
    if len(seeds) > max_seeds:
        raise ValueError(
            f"{len(seeds)} pairs of detections move slower than {max_rate:g} per hour, at most "
            f"{max_seeds} can be followed: lower the limit of the rate"
        )
    if not len(seeds):
        return []
    members, looked, expected = _extend(seeds, index, frame, xy, times_h, order, covers, tolerance)
    found = (members >= 0).sum(axis=1)
    p = expected / np.maximum(looked, 1)
    # Binomial tail: at least found - 2 of the frames beside the seed's two by chance.
    extra = np.maximum(found - 2, 1)
    tail = np.where(looked >= extra, betainc(extra, np.maximum(looked - extra + 1, 1), p), 0.0)
    false = np.where(found > 2, len(seeds) * tail, np.inf)
    enough = (found >= minimum_detections) & (found >= minimum_fraction * (looked + 2))
    good = np.flatnonzero(enough & (false <= max_false))
    return _distinct(
        good, members, false, looked + 2, frame, xy, times_h, minimum_motion, tolerance
    )


def _seeds(
    index: Sequence[NDArray[np.int64]],
    xy: Floats,
    times_h: Floats,
    order: NDArray[np.intp],
    max_rate: float,
    tolerance: float,
) -> NDArray[np.int64]:
    """Pairs of detections in frames close in time, shape (n, 2)."""
    from scipy.spatial import cKDTree

    trees = {int(k): cKDTree(xy[index[k]]) for k in order if len(index[k])}
    found = []
    for a in range(len(order)):
        i = int(order[a])
        for b in range(a + 1, min(a + 1 + _SEED_SPAN, len(order))):
            j = int(order[b])
            dt = times_h[j] - times_h[i]
            if i not in trees or j not in trees or dt <= 0:
                continue
            near = trees[i].query_ball_tree(trees[j], max_rate * dt + tolerance)
            found += [(index[i][m], index[j][n]) for m, ns in enumerate(near) for n in sorted(ns)]
    return np.array(found, np.int64).reshape(-1, 2)


def _extend(
    seeds: NDArray[np.int64],
    index: Sequence[NDArray[np.int64]],
    frame: NDArray[np.int64],
    xy: Floats,
    times_h: Floats,
    order: NDArray[np.intp],
    covers: Covers,
    tolerance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Follow all seeds through all frames.

    Returns
    -------
    members : ndarray of int, shape (n_seeds, n_frames)
        Detection that was taken in on each frame, -1 for none.
    looked : ndarray of int, shape (n_seeds,)
        Frames beside the two of the seed that the prediction lies on.
    expected : ndarray of float, shape (n_seeds,)
        Detections on them that chance would bring.
    """
    from scipy.spatial import cKDTree

    n, rank = len(seeds), np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    members = np.full((n, len(index)), -1, np.int64)
    rows = np.arange(n)
    members[rows, frame[seeds[:, 0]]] = seeds[:, 0]
    members[rows, frame[seeds[:, 1]]] = seeds[:, 1]
    looked, expected = np.zeros(n, np.int64), np.zeros(n)
    trees: list[Any] = [cKDTree(xy[i]) if len(i) else None for i in index]
    everything: Any = cKDTree(xy)
    middle = (rank[frame[seeds[:, 0]]] + rank[frame[seeds[:, 1]]]) / 2
    # Each seed has its own order of frames: the nearest in time first.
    distance = np.abs(rank[None, :] - middle[:, None])
    queue = np.argsort(distance, axis=1, kind="stable")
    alive = np.ones(n, bool)
    for step in range(len(index)):
        for k in range(len(index)):
            here = np.flatnonzero(alive & (queue[:, step] == k) & (members[:, k] < 0))
            if not here.size:
                continue
            predicted, error = _predict(members[here], xy, times_h, times_h[k], tolerance)
            on = covers(k, predicted)
            here, predicted, error = here[on], predicted[on], error[on]
            looked[here] += 1
            reach = np.minimum(tolerance + error, 3 * tolerance)
            tree = trees[k]
            if tree is None or not here.size:
                continue
            # Spurious detections crowd at edges and bright stars: the density is local.
            around = everything.query_ball_point(
                predicted, _DENSITY_REACH * tolerance, return_length=True
            )
            density = np.asarray(around) / len(index) / (_DENSITY_REACH * tolerance) ** 2
            expected[here] += np.minimum(density * reach**2, 0.9)
            gap, nearest = tree.query(predicted)
            hit = gap <= reach
            members[here[hit], k] = index[k][nearest[hit]]
        if step == _FIRST_LOOK:
            alive = (members >= 0).sum(axis=1) > 2
    return members, looked, expected


def _predict(
    members: NDArray[np.int64], xy: Floats, times_h: Floats, when: float, tolerance: float
) -> tuple[Floats, Floats]:
    """Where each motion is at some time, and how uncertain that is."""
    have = members >= 0
    w = have.astype(np.float64)
    total = w.sum(axis=1)
    mean_t = (w * times_h).sum(axis=1) / total
    dt = (times_h[None, :] - mean_t[:, None]) * w
    spread = np.maximum((dt**2).sum(axis=1), 1e-12)
    places = xy[np.maximum(members, 0)] * w[:, :, None]
    mean = places.sum(axis=1) / total[:, None]
    rate = (places * dt[:, :, None]).sum(axis=1) / spread[:, None]
    ahead = when - mean_t
    # A third of the tolerance is about the error of one detection.
    error = tolerance / 3 * np.sqrt(1 / total + ahead**2 / spread)
    return mean + rate * ahead[:, None], error


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
    good: NDArray[np.intp],
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
    for s in good:
        mine = members[s][members[s] >= 0]
        mine = mine[np.argsort(times_h[frame[mine]], kind="stable")]
        when = times_h[frame[mine]]
        fit = fit_motion(when, xy[mine])
        if np.hypot(*fit[1]) * (when[-1] - when[0]) >= minimum_motion:
            fits.append((-len(mine), fit[4], tuple(int(m) for m in mine), int(s), fit))
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
