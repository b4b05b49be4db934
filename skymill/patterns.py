"""Hypotheses about how two star lists lie on each other, and how good each one is.

Two ways lead to a hypothesis: the densest spot among all position differences (voting,
when little but a shift is unknown), and pairs of stars of equal separation (for
rotation, scale and mirror images). Each is judged by the number of equally good matches
that chance would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from skymill.affine import GAIN, KINDS, Affine
from skymill.kernels import hypotheses as kernels
from skymill.kernels.patterns import raster_votes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Points = NDArray[np.float64]

__all__ = ["Candidate", "Search", "confirm", "mutual_pairs", "rounds"]

#: Brightest stars used for voting, and for pairs in the rounds of one search.
_VOTE_STARS = (30, 250)
_PAIR_STARS = (15, 30, 50)

#: Ring around an expected position that tells the density of stars there (tolerances).
_RING = (3.0, 25.0)

#: Hypotheses that are examined in full.
_EXAMINED = 12

#: Kinds of maps that are fitted to a hypothesis, by the number that the kernels give them.
_KINDS = ("shift", "rigid", "similarity")


@dataclass(frozen=True, eq=False)
class Search:
    """What is tried: limits of the map from the source list to the reference list.

    Parameters
    ----------
    name : str
        Word for the record.
    base : Affine
        First guess, around which the limits hold.
    max_shift_px : float
        Largest displacement of the middle of the frame.
    max_rotation_deg : float
        Largest rotation; 180 is any.
    max_scale : float
        Largest relative change of scale.
    vote : bool
        Try voting; pairs are tried always.
    """

    name: str
    base: Affine
    max_shift_px: float
    max_rotation_deg: float
    max_scale: float
    vote: bool = True


@dataclass(frozen=True, eq=False)
class Candidate:
    """A hypothesis that was examined on the bright stars."""

    transform: Affine
    kind: str
    source: NDArray[np.intp]
    reference: NDArray[np.intp]
    inside: int
    tail: float

    @property
    def count(self) -> int:
        """Matched stars."""
        return len(self.source)


def rounds(
    source: Points, reference: Points, shape: tuple[int, int], search: Search, tol: float
) -> Iterator[tuple[list[Candidate], float]]:
    """Yield the examined candidates and the number of hypotheses of each round."""
    # The reference list may cover the surroundings that a shifted frame could show.
    widest = 1 + 2 * min(search.max_shift_px / max(shape), 0.5)
    plans = ((_vote, 1, _VOTE_STARS), (_pairs, 2, _PAIR_STARS))
    for propose, seeds, numbers in plans if search.vote else plans[1:]:
        before = (0, 0)
        for n in numbers:
            sizes = (min(n, len(source)), min(int(n * widest), len(reference)))
            if sizes == before:
                break
            before = sizes
            judge = _Judge(source[: sizes[0]], reference[: sizes[1]], shape, search, tol)
            maps, n_trials = propose(judge)
            yield judge.examine(maps, seeds), n_trials


def confirm(
    source: Points, reference: Points, shape: tuple[int, int], search: Search, tol: float,
    found: Candidate,
) -> tuple[list[Candidate], float]:  # fmt: skip
    """Examine one hypothesis on as many stars as the largest vote has.

    Returns
    -------
    candidates : list of Candidate
        One or none; none if there are no more stars than before.
    n_trials : float
        Number of hypotheses that the vote would have had.
    """
    widest = 1 + 2 * min(search.max_shift_px / max(shape), 0.5)
    least, most = ((min(n, len(source)), min(int(n * widest), len(reference))) for n in _VOTE_STARS)
    if not search.vote or least == most:
        return [], 0.0
    judge = _Judge(source[: most[0]], reference[: most[1]], shape, search, tol)
    start = found.transform.after(search.base.inverse())
    return judge.examine([start], 1), float(len(_differences(judge)))


class _Judge:
    """Examines hypotheses on one selection of stars."""

    def __init__(
        self, source: Points, reference: Points, shape: tuple[int, int], search: Search, tol: float
    ) -> None:
        self.source, self.reference, self.shape = source, reference, shape
        self.search, self.tol = search, tol
        self.first = search.base(source)
        self.middle = search.base(np.array([[(shape[1] - 1) / 2, (shape[0] - 1) / 2]]))

    def examine(self, maps: Sequence[Affine], seeds: int) -> list[Candidate]:
        """Refine distinct hypotheses; the least probable by chance comes first."""
        if not maps:
            return []
        base = self.search.base
        by_x = np.argsort(self.reference[:, 0], kind="stable")
        rx, ry = np.ascontiguousarray(self.reference[by_x].T)
        # The seeds agree by construction and prove nothing. A map may exceed its limits a bit.
        limits = np.array(
            [
                self.search.max_shift_px + 2 * self.tol,
                self.search.max_rotation_deg + 0.5,
                np.log1p(self.search.max_scale) + 0.005,
            ]
        )
        starts = np.array([_numbers(start.after(base)) for start in maps[:_EXAMINED]])
        found = kernels.examine(
            starts, np.ascontiguousarray(self.source), rx, ry, _numbers(base),
            _numbers(base.inverse()), self.middle[0], limits, float(self.tol), seeds,
            np.array([GAIN[1], GAIN[2]]),
        )  # fmt: skip
        out = [
            self._candidate(numbers, int(kind), pairs, by_x, rx, ry, seeds)
            for numbers, kind, pairs in zip(*found, strict=True)
        ]
        order = sorted(range(len(out)), key=lambda i: (out[i].tail, -out[i].count, i))
        return [out[i] for i in order]

    def _candidate(
        self,
        numbers: NDArray[np.float64],
        fitted: int,
        pairs: NDArray[np.intp],
        by_x: NDArray[np.intp],
        rx: NDArray[np.float64],
        ry: NDArray[np.float64],
        seeds: int,
    ) -> Candidate:
        transform = Affine(numbers[:4].reshape(2, 2).copy(), numbers[4:].copy())
        kind = _KINDS[fitted]
        one = np.flatnonzero(pairs >= 0)
        inside, tail = self._chance(transform, len(one), seeds, rx, ry)
        # The fit moves the map to where most stars agree: of k stars that can be brought
        # together, about k ways per fitted parameter lead there from different seeds.
        free = KINDS[kind][0] - seeds
        tail *= float(len(one)) ** max(free, 1)
        return Candidate(transform, kind, one, by_x[pairs[one]], inside, tail)

    def _chance(
        self,
        transform: Affine,
        count: int,
        seeds: int,
        rx: NDArray[np.float64],
        ry: NDArray[np.float64],
    ) -> tuple[int, float]:
        """Reference stars inside the frame, and the probability to match as many by chance.

        A star far from its own counterpart finds one by chance with probability ``p``:
        the largest of the value for a uniform density, that measured with the
        reference list displaced, and that of the density in rings around the expected
        positions (stars cluster, and a few hundred displaced positions seldom meet one
        even so; a ring of 25 tolerances holds as many stars as 600 of them). The tail of
        the binomial distribution leaves out the stars that made the hypothesis.
        """
        from scipy.special import betainc

        ny, nx = self.shape
        disc = np.pi * self.tol**2
        uniform = 1 - np.exp(-len(self.source) / (nx * ny) * disc)
        met, hits, around = kernels.chances(
            _numbers(transform.inverse()), rx, ry, *self._by_x, nx, ny, float(self.tol), _RING
        )
        local = 1 - np.exp(-around / (_RING[1] ** 2 - _RING[0] ** 2))
        inside = max(met, count)
        p = min(max(uniform, hits, local, 1e-9), 0.999)
        k, n = count - seeds, inside - seeds
        return inside, float(betainc(k, n - k + 1, p))

    @cached_property
    def _by_x(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = np.ascontiguousarray(self.source[np.argsort(self.source[:, 0], kind="stable")].T)
        return x, y


def _numbers(transform: Affine) -> NDArray[np.float64]:
    """Return a map as the kernels take it."""
    return np.concatenate([transform.matrix.ravel(), transform.offset])


def mutual_pairs(
    one: Points, other: Points, radius: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Match positions that are each other's nearest neighbour.

    Parameters
    ----------
    one, other : ndarray of float64, shapes (n, 2) and (m, 2)
        Positions in the same plane; rows that are not finite match nothing.
    radius : float
        Largest distance.

    Returns
    -------
    i, j : ndarray of int
        Indices into ``one`` (ascending) and ``other``.
    """
    from scipy.spatial import cKDTree

    empty = np.zeros(0, np.intp)
    good = np.flatnonzero(np.isfinite(one).all(axis=1))
    fine = np.flatnonzero(np.isfinite(other).all(axis=1))
    if not (len(good) and len(fine)):
        return empty, empty
    a, b = one[good], other[fine]
    distance, there = cKDTree(b).query(a, distance_upper_bound=radius)
    _, back = cKDTree(a).query(b)
    there, back = np.asarray(there), np.asarray(back)
    hit = np.flatnonzero(np.isfinite(distance))
    hit = hit[back[there[hit]] == hit]
    return good[hit], fine[there[hit]]


def _differences(judge: _Judge) -> Points:
    """Differences of position between all stars of both lists that a shift may have."""
    difference = (judge.reference[None, :, :] - judge.first[:, None, :]).reshape(-1, 2)
    limit = judge.search.max_shift_px
    return np.asarray(difference[(difference**2).sum(axis=1) <= limit**2])


def _vote(judge: _Judge) -> tuple[list[Affine], float]:
    """Shifts with many position differences in common, the most common first."""
    from scipy.spatial import cKDTree

    difference = _differences(judge)
    if not len(difference):
        return [], 0.0
    radius = 1.5 * judge.tol
    tree = cKDTree(difference)
    votes = np.asarray(tree.query_ball_point(difference, radius, return_length=True))
    shifts: list[Points] = []
    taken = np.zeros(len(difference), bool)
    for i in np.lexsort((np.arange(len(votes)), -votes)):
        if votes[i] < 2 and shifts:
            break
        if not taken[i]:
            shifts.append(difference[i])
            taken |= ((difference - difference[i]) ** 2).sum(axis=1) <= (2 * radius) ** 2
        if len(shifts) == _EXAMINED:
            break
    means = []
    for shift in shifts:
        near = np.sort(tree.query_ball_point(shift, radius))
        means.append(Affine(np.eye(2), difference[near].mean(axis=0)))
    return means, float(len(difference))


def _pairs(judge: _Judge) -> tuple[list[Affine], float]:
    """Similarities from pairs of equal separation, those that fit most stars first."""
    source = judge.first[:, 0] + 1j * judge.first[:, 1]
    reference = judge.reference[:, 0] + 1j * judge.reference[:, 1]
    if min(len(source), len(reference)) < 2:
        return [], 0.0
    a, b = _pair_maps(source, reference, judge)
    if not len(a):
        return [], 0.0
    score = _score(a, b, source, judge)
    # Only distinct hypotheses are worth a closer look: compare two points of the frame.
    middle = judge.middle[0, 0] + 1j * judge.middle[0, 1]
    arm = max(judge.shape) / 2
    kept: list[int] = []
    ends = np.stack([a * middle + b, a * (middle + arm) + b])
    for i in np.argsort(-score, kind="stable")[: 40 * _EXAMINED]:
        if all(np.abs(ends[:, i] - ends[:, j]).max() > 3 * judge.tol for j in kept):
            kept.append(int(i))
        if len(kept) == _EXAMINED:
            break
    maps = [
        Affine(
            np.array([[a[i].real, -a[i].imag], [a[i].imag, a[i].real]]),
            np.array([b[i].real, b[i].imag]),
        )
        for i in kept
    ]
    return maps, float(len(a))


def _pair_maps(
    source: NDArray[np.complex128], reference: NDArray[np.complex128], judge: _Judge
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """All maps ``z -> a z + b`` that take a pair of stars to a pair of equal separation."""
    search, tol = judge.search, judge.tol
    i, j = np.triu_indices(len(reference), 1)
    k, l = np.nonzero(~np.eye(len(source), dtype=bool))  # noqa: E741
    v_ref, v_src = reference[j] - reference[i], source[l] - source[k]
    # Close pairs do not tell a rotation, so they make no hypothesis.
    shortest = 0.04 * min(judge.shape)
    far_r, far_s = np.abs(v_ref) > shortest, np.abs(v_src) > shortest
    i, v_ref, k, v_src = i[far_r], v_ref[far_r], k[far_s], v_src[far_s]
    order = np.argsort(np.abs(v_src), kind="stable")
    k, v_src = k[order], v_src[order]
    length, target = np.abs(v_src), np.abs(v_ref)
    stretch = 1 + search.max_scale
    low = np.searchsorted(length, target / stretch - tol, side="left")
    high = np.searchsorted(length, target * stretch + tol, side="right")
    number = high - low
    one = np.repeat(np.arange(len(target)), number)
    start = np.repeat(np.cumsum(number) - number, number)
    other = np.arange(len(one)) - start + np.repeat(low, number)
    a = v_ref[one] / v_src[other]
    turned = np.abs(np.angle(a))
    good = turned <= np.radians(search.max_rotation_deg) + 2 * tol / length[other]
    a, one, other = a[good], one[good], other[good]
    b = reference[i[one]] - a * source[k[other]]
    middle = judge.middle[0, 0] + 1j * judge.middle[0, 1]
    near = np.abs(a * middle + b - middle) <= search.max_shift_px + 2 * tol
    return a[near], b[near]


def _score(
    a: NDArray[np.complex128],
    b: NDArray[np.complex128],
    source: NDArray[np.complex128],
    judge: _Judge,
) -> NDArray[np.intp]:
    """Count the source stars that each map brings near a reference star (on a raster)."""
    tol = judge.tol
    low = judge.reference.min(axis=0) - 4 * tol
    size = np.ceil((judge.reference.max(axis=0) - low) / tol).astype(int) + 6
    raster = np.zeros((size[1], size[0]), dtype=bool)
    cell = np.floor((judge.reference - low) / tol).astype(int)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            raster[cell[:, 1] + dy, cell[:, 0] + dx] = True
    return np.asarray(raster_votes(a, b, source, complex(low[0], low[1]), float(tol), raster))
