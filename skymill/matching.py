"""Pattern matching of two star lists.

Searches go from what is likely to what is possible. Each hypothesis is judged by one
number, the expected count of equally good matches by chance among all hypotheses tried
so far; an answer that chance could give, or that has a rival, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from skymill.affine import Affine, fit_best, identity, mirror, turn
from skymill.patterns import Candidate, Search, confirm, mutual_pairs, rounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Points = NDArray[np.float64]

__all__ = ["Match", "Search", "match_lists", "mutual_pairs", "refine", "searches"]

#: Fewer residuals than this do not tell an outlier.
_FEWEST_CLIPPED = 5

#: Below this expected count of chance matches no other search is tried. It is so small
#: because the pattern of a turned list shares pairs with itself: chance matches then
#: come in twos, and their true probability is the root of what is computed.
_CERTAIN = 1e-12

#: Nothing else is tried after a round with an answer that chance gives so seldom, of so many
#: stars, of this fraction of those that should be there, while no other answer of the round
#: explains more than a fraction of it: every later round finds the same.
_BEYOND_DOUBT, _MANY, _NEARLY_ALL, _HARDLY_ANY = 1e-20, 12, 0.7, 0.4

#: A rival explains at least this fraction of the stars of the best hypothesis.
_RIVAL = 0.7


@dataclass(frozen=True, eq=False)
class Match:
    """Two matched lists.

    Parameters
    ----------
    transform : Affine
        From source to reference positions.
    source, reference : ndarray of int
        Indices of the matched stars, in order of the source list.
    residual : ndarray of float64, shape (n, 2)
        Reference minus transformed source.
    kind : str
        Terms that were fitted after ``search.base``, see `skymill.affine.KINDS`.
    search : Search
        The search that found it.
    expected_false : float
        Expected number of equally good matches by chance.
    """

    transform: Affine
    source: NDArray[np.intp]
    reference: NDArray[np.intp]
    residual: Points
    kind: str
    search: Search
    expected_false: float

    @property
    def rms(self) -> float:
        """Root mean square residual of the matched stars per axis."""
        return float(np.sqrt((self.residual**2).mean()))


def searches(
    shape: tuple[int, int],
    *,
    near_px: float,
    max_scale: float,
    rotated: bool = True,
    mirrored: bool = True,
) -> list[Search]:
    """Return the usual order of searches, from what is likely to what is possible.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx) of the source frame.
    near_px : float
        Offset that is expected, in pixels.
    max_scale : float
        Relative error of the scale that is allowed beyond the first search.
    rotated, mirrored : bool
        Go on with any rotation, and with mirror images.

    Returns
    -------
    list of Search
    """
    far = max(near_px, 0.75 * max(shape))
    small = min(0.02, max_scale)
    out = [
        Search("near", identity(), near_px, 2.0, small),
        Search("far", identity(), far, 5.0, max_scale),
    ]
    if rotated:
        out.append(Search("turned", turn(shape), far, 5.0, max_scale))
        out.append(Search("rotated", identity(), far, 180.0, max_scale, vote=False))
    if mirrored:
        out.append(Search("mirrored", mirror(shape), far, 180.0 if rotated else 5.0, max_scale))
    return out


def match_lists(
    source: Points,
    reference: Points,
    shape: tuple[int, int],
    plan: Sequence[Search],
    *,
    tolerance_px: float,
    minimum: int,
    max_false: float,
) -> tuple[Match | None, str]:
    """Match two lists of positions.

    Parameters
    ----------
    source : ndarray of float64, shape (n, 2)
        Positions (x, y) on the frame, the brightest first.
    reference : ndarray of float64, shape (m, 2)
        Positions where the reference stars are expected on the frame, or positions on
        a reference frame; the brightest first.
    shape : tuple of int
        Shape (ny, nx) of the source frame.
    plan : sequence of Search
        Tried in order until one answer is certain; otherwise all are tried.
    tolerance_px : float
        Distance within which two stars are the same.
    minimum : int
        Fewest matched stars, at least 2.
    max_false : float
        Largest expected number of chance matches, over everything tried so far.

    Returns
    -------
    match : Match or None
        On the brightest stars; `refine` takes it to all stars.
    why : str
        If there is none: the best that was found.
    """
    if min(len(source), len(reference)) < minimum:
        return None, f"{len(source)} and {len(reference)} stars, at least {minimum} are needed"
    trials, best, why = 0.0, 1.0, "no common pattern"
    accepted: list[tuple[float, Candidate, Search]] = []
    for search in plan:
        for found, n_new in rounds(source, reference, shape, search, tolerance_px):
            trials += n_new
            if found and found[0].tail < best:
                best, first = found[0].tail, found[0]
                why = (
                    f"the best is {first.count} of {first.inside} stars ({search.name}), and "
                    f"{first.tail * trials:.2g} such matches are expected by chance"
                )
            sure = _beyond_doubt(found, trials)
            if sure:
                more, n_more = confirm(source, reference, shape, search, tolerance_px, found[0])
                trials += n_more
                found.extend(more)
            accepted += [
                (item.tail * trials, item, search)
                for item in found
                if item.count >= minimum and item.tail * trials <= max_false
            ]
            if sure:
                return _decide(accepted, source, reference, tolerance_px, why)
        if accepted and min(accepted, key=_expected)[0] < _CERTAIN:
            break
    return _decide(accepted, source, reference, tolerance_px, why)


def _beyond_doubt(found: Sequence[Candidate], trials: float) -> bool:
    """Whether one answer of a round explains most stars, and no other one a fraction of them."""
    if not found or found[0].tail * trials > _BEYOND_DOUBT:
        return False
    first = found[0]
    others = [item.count for item in found[1:]]
    most = first.count >= max(_MANY, _NEARLY_ALL * first.inside)
    return most and max(others, default=0) < _HARDLY_ANY * first.count


def _expected(item: tuple[float, Candidate, Search]) -> float:
    return item[0]


def _decide(
    accepted: list[tuple[float, Candidate, Search]],
    source: Points,
    reference: Points,
    tol: float,
    why: str,
) -> tuple[Match | None, str]:
    """Take the least probable by chance, unless another map explains nearly as many stars."""
    if not accepted:
        return None, why
    expected, first, search = min(accepted, key=_expected)
    for _, item, other in accepted:
        apart = first.transform(source) - item.transform(source)
        distinct = np.median(np.hypot(apart[:, 0], apart[:, 1])) > 3 * tol
        if distinct and item.count >= _RIVAL * first.count:
            return None, (
                f"ambiguous: {first.count} stars match one way ({search.name}) and "
                f"{item.count} another ({other.name})"
            )
    residual = reference[first.reference] - first.transform(source[first.source])
    return Match(
        first.transform, first.source, first.reference, residual, first.kind, search, expected
    ), ""


def refine(
    source: Points,
    reference: Points,
    match: Match,
    *,
    tolerance_px: float,
    source_error: NDArray[np.float64],
    reference_error: NDArray[np.float64],
    clip_sigma: float = 4.0,
    most: str = "affine",
) -> Match:
    """Take a match to all stars of both lists and fit it by their errors.

    Parameters
    ----------
    source, reference : ndarray of float64, shapes (n, 2) and (m, 2)
        All positions, in the order that `match_lists` saw.
    match : Match
        Result of `match_lists`.
    tolerance_px : float
        Distance within which two stars are the same.
    source_error, reference_error : ndarray of float64, shapes (n,) and (m,)
        Error of each position per axis in pixels.
    clip_sigma : float
        Pairs further off than this many standard deviations are left out; the standard
        deviation is the assumed error times the ratio found from all pairs.
    most : str
        Largest kind of transformation, see `skymill.affine.KINDS`.

    Returns
    -------
    Match
    """
    base = match.search.base
    pairs = (match.source, match.reference)
    for _ in range(10):
        sigma = np.hypot(source_error[pairs[0]], reference_error[pairs[1]])
        fit = fit_best(source[pairs[0]], reference[pairs[1]], sigma, base=base, most=most)
        i, j = mutual_pairs(fit.transform(source), reference, tolerance_px)
        residual = reference[j] - fit.transform(source[i])
        keep = _consistent(residual, np.hypot(source_error[i], reference_error[j]), clip_sigma)
        again = (i[keep], j[keep])
        if np.array_equal(again[0], pairs[0]) and np.array_equal(again[1], pairs[1]):
            break
        if len(again[0]) < min(len(match.source), 3):
            break
        pairs = again
    sigma = np.hypot(source_error[pairs[0]], reference_error[pairs[1]])
    fit = fit_best(source[pairs[0]], reference[pairs[1]], sigma, base=base, most=most)
    return replace(
        match,
        transform=fit.transform,
        source=pairs[0],
        reference=pairs[1],
        residual=fit.residual,
        kind=fit.kind,
    )


def _consistent(
    residual: Points, sigma: NDArray[np.float64], clip_sigma: float
) -> NDArray[np.bool_]:
    """Say which pairs are close enough for their errors, scaled to the whole list."""
    ratio = np.sqrt((residual**2).sum(axis=1)) / sigma
    if len(ratio) < _FEWEST_CLIPPED:
        return np.ones(len(ratio), dtype=bool)
    # The median of a Rayleigh distribution is 1.1774 sigma.
    spread = max(float(np.median(ratio)) / 1.1774, 1e-3)
    return np.asarray(ratio <= clip_sigma * spread)
