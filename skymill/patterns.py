"""Hypotheses about how two star lists lie on each other, and how good each one is.

Two ways lead to a hypothesis: the densest spot among all position differences (voting,
when little but a shift is unknown), and pairs of stars of equal separation (for
rotation, scale and mirror images). Each is judged by the number of equally good matches
that chance would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.affine import KINDS, Affine, fit_best
from skymill.kernels.patterns import raster_votes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from scipy.spatial import cKDTree

    Points = NDArray[np.float64]

__all__ = ["Candidate", "Search", "confirm", "mutual_pairs", "rounds"]

#: Brightest stars used for voting, and for pairs in the rounds of one search.
_VOTE_STARS = (30, 250)
_PAIR_STARS = (15, 30, 50)

#: Ring around an expected position that tells the density of stars there (tolerances).
_RING = (3.0, 25.0)

#: Hypotheses that are examined in full.
_EXAMINED = 12


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
        from scipy.spatial import cKDTree

        self.source, self.reference, self.shape = source, reference, shape
        self.search, self.tol = search, tol
        self.first = search.base(source)
        self.middle = search.base(np.array([[(shape[1] - 1) / 2, (shape[0] - 1) / 2]]))
        self.tree = cKDTree(reference)

    def examine(self, maps: Sequence[Affine], seeds: int) -> list[Candidate]:
        """Refine distinct hypotheses; the least probable by chance comes first."""
        out: list[Candidate] = []
        for start in maps[:_EXAMINED]:
            item = self._examine(start, seeds)
            if item is not None and not any(self._same(item, other) for other in out):
                out.append(item)
        order = sorted(range(len(out)), key=lambda i: (out[i].tail, -out[i].count, i))
        return [out[i] for i in order]

    def _same(self, one: Candidate, other: Candidate) -> bool:
        """Two maps are the same if they agree where the stars are."""
        both = one.transform(self.source) - other.transform(self.source)
        return bool(np.median(np.hypot(both[:, 0], both[:, 1])) < 3 * self.tol)

    def _examine(self, start: Affine, seeds: int) -> Candidate | None:
        transform, kind = start.after(self.search.base), "shift"
        reach = 1.5 * self.tol
        pairs = mutual_pairs(transform(self.source), self.reference, reach)
        for _ in range(6):
            if len(pairs[0]) <= seeds:
                return None  # the seeds agree by construction and prove nothing
            sigma = np.full(len(pairs[0]), 0.3 * self.tol)
            s, r = self.source[pairs[0]], self.reference[pairs[1]]
            fit = fit_best(s, r, sigma, base=self.search.base, most="similarity")
            transform, kind = fit.transform, fit.kind
            again = mutual_pairs(transform(self.source), self.reference, self.tol)
            if np.array_equal(again[0], pairs[0]) and np.array_equal(again[1], pairs[1]):
                break
            pairs = again
        if len(pairs[0]) <= seeds or not self._allowed(transform):
            return None
        inside, tail = self._chance(transform, len(pairs[0]), seeds)
        # The fit moves the map to where most stars agree: of k stars that can be brought
        # together, about k ways per fitted parameter lead there from different seeds.
        free = KINDS[kind][0] - seeds
        tail *= float(len(pairs[0])) ** max(free, 1)
        return Candidate(transform, kind, pairs[0], pairs[1], inside, tail)

    def _allowed(self, transform: Affine) -> bool:
        step = transform.after(self.search.base.inverse())
        moved = step(self.middle) - self.middle
        slack = 2 * self.tol
        return (
            float(np.hypot(moved[0, 0], moved[0, 1])) <= self.search.max_shift_px + slack
            and abs(step.rotation_deg) <= self.search.max_rotation_deg + 0.5
            and abs(np.log(step.scale)) <= np.log1p(self.search.max_scale) + 0.005
        )

    def _chance(self, transform: Affine, count: int, seeds: int) -> tuple[int, float]:
        """Reference stars inside the frame, and the probability to match as many by chance.

        A star far from its own counterpart finds one by chance with probability ``p``:
        the largest of the value for a uniform density, that measured with the
        reference list displaced, and that of the density around the expected positions
        (stars cluster). The tail of the binomial distribution leaves out the stars that
        made the hypothesis.
        """
        from scipy.spatial import cKDTree
        from scipy.special import betainc

        ny, nx = self.shape
        expected = transform.inverse()(self.reference)
        within = (
            (expected[:, 0] > -self.tol)
            & (expected[:, 0] < nx - 1 + self.tol)
            & (expected[:, 1] > -self.tol)
            & (expected[:, 1] < ny - 1 + self.tol)
        )
        inside = max(int(within.sum()), count)
        density = len(self.source) / (nx * ny)
        uniform = 1 - np.exp(-density * np.pi * self.tol**2)
        tree = cKDTree(self.source)
        shifts = [
            radius * self.tol * np.array([np.cos(angle), np.sin(angle)])
            for radius in (6.0, 11.0)
            for angle in np.arange(8) * (np.pi / 4) + 0.2
        ]
        moved = np.concatenate([expected[within] + shift for shift in shifts])
        hits = 0.0
        if len(moved):
            distance, _ = tree.query(moved, distance_upper_bound=self.tol)
            hits = float(np.isfinite(distance).mean())
        p = min(max(uniform, hits, self._local(tree, expected[within]), 1e-9), 0.999)
        k, n = count - seeds, inside - seeds
        return inside, float(betainc(k, n - k + 1, p))

    def _local(self, tree: cKDTree, expected: Points) -> float:
        """Chance of a counterpart by the mean density in rings around the expected positions.

        A few hundred displaced positions seldom meet a star even in a cluster; a ring of
        25 tolerances holds as many stars as 600 of them.
        """
        if not len(expected):
            return 0.0
        inner, outer = _RING[0] * self.tol, _RING[1] * self.tol
        count = tree.query_ball_point(expected, outer, return_length=True)
        count = count - tree.query_ball_point(expected, inner, return_length=True)
        density = float(np.mean(count)) / (np.pi * (outer**2 - inner**2))
        return float(1 - np.exp(-density * np.pi * self.tol**2))


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
    for i in np.lexsort((np.arange(len(votes)), -votes)):
        if votes[i] < 2 and shifts:
            break
        if all(((difference[i] - old) ** 2).sum() > (2 * radius) ** 2 for old in shifts):
            shifts.append(difference[i])
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
