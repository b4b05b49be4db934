"""Alignment of a frame by one to three stars: a shift, and how likely it is a wrong one.

With so few stars no rotation can be told, and a pattern proves little. Every pair of a
star of the frame and a star of the reference list proposes a shift; pairs that agree
with it within the tolerance, at the same ratio of fluxes, vote for it. What speaks for a
shift is counted as the number of equally good ones that chance would give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.affine import Affine, fit_best, identity
from skymill.matching import Match
from skymill.patterns import Search, mutual_pairs
from skymill.star_lists import Refusal, Stars

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.star_lists import Limits

    Points = NDArray[np.float64]

__all__ = ["FEW", "match_few"]

#: Frames with more stars are matched by their pattern.
FEW = 3
#: The brightest sources that propose and vote.
_VOTERS = 12
#: Two frames show a star with the ratio of fluxes of the other stars within this factor,
#: and the ratio itself is unknown within the other.
_SAME_RATIO = 2.0
_ANY_RATIO = 10.0
#: Stars brighter than F are at least as rare as F to the minus this power (0.3 dex/mag).
_COUNTS = 0.75
#: Matched stars hold this part of the light, else they are taken for hot pixels.
_LEAST_LIGHT = 0.3
#: A rival that chance explains no worse than this many times makes it ambiguous.
_RIVAL = 30.0


@dataclass(frozen=True, eq=False)
class _Vote:
    shift: Points
    source: NDArray[np.intp]
    reference: NDArray[np.intp]
    expected: float


def match_few(
    stars: Stars, reference: Stars, shape: tuple[int, int], limits: Limits, *, reach_px: float
) -> Match | Refusal:
    """Match a frame of few stars with where they are expected, by a shift alone.

    Parameters
    ----------
    stars, reference : Stars
        Stars of the frame, and where those of the reference are expected on it.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    limits : Limits
        tolerance_px, max_translation_px and max_false_few are used.
    reach_px : float
        Largest shift to be searched along each axis, if the limit is not smaller.

    Returns
    -------
    Match or Refusal
        ``expected_false`` is the expected number of chance shifts as good as this one.
    """
    if not (len(stars) and len(reference)):
        return Refusal("FEW_STARS", "no star to align by")
    reach = np.minimum(limits.max_translation_px, reach_px)
    votes = _votes(stars, reference, shape, limits.tolerance_px, reach)
    if not votes:
        return Refusal(
            "REGISTRATION",
            f"no two of {len(stars)} and {len(reference)} stars lie within "
            f"{reach[0]:g} x {reach[1]:g} px of each other",
        )
    best = votes[0]
    if best.expected > limits.max_false_few:
        return Refusal(
            "REGISTRATION",
            f"{len(best.source)} of {len(stars)} stars agree on a shift, and "
            f"{best.expected:.2g} such shifts are expected by chance "
            f"(at most {limits.max_false_few:g})",
        )
    for other in votes[1:]:
        apart = float(np.hypot(*(other.shift - best.shift)))
        if apart > 3 * limits.tolerance_px and other.expected <= _RIVAL * best.expected:
            return Refusal(
                "REGISTRATION",
                f"ambiguous: two shifts {apart:.1f} px apart explain the stars, with "
                f"{best.expected:.2g} and {other.expected:.2g} of them expected by chance",
            )
    i, j = best.source, best.reference
    fit = fit_best(
        stars.xy[i], reference.xy[j], np.hypot(stars.err[i], reference.err[j]), most="shift"
    )
    search = Search("few", identity(), float(np.hypot(*reach)), 0.0, 0.0)
    return Match(fit.transform, i, j, fit.residual, "shift", search, best.expected)


def _votes(
    stars: Stars, reference: Stars, shape: tuple[int, int], tol: float, reach: Points
) -> list[_Vote]:
    """All shifts that a pair of bright stars proposes; the least likely by chance first."""
    there, here = reference.xy[:_VOTERS], stars.xy[:_VOTERS]
    out: list[_Vote] = []
    for a in range(len(here)):
        for b in range(len(there)):
            shift = there[b] - here[a]
            if (np.abs(shift) <= reach + tol).all():
                vote = _vote(stars, reference, a, b, shape, tol, reach)
                if vote is not None and _light(stars, reference, vote, shape) >= _LEAST_LIGHT:
                    out.append(vote)
    return sorted(out, key=lambda v: (v.expected, -len(v.source), tuple(v.shift)))


def _light(stars: Stars, reference: Stars, vote: _Vote, shape: tuple[int, int]) -> float:
    """Part of the light that both frames should show which the matched stars hold.

    Hot pixels agree on no shift at all, and leave the light without a counterpart.
    """
    shares = []
    for one, matched, shift in (
        (stars, vote.source, vote.shift),
        (reference, vote.reference, -vote.shift),
    ):
        moved = one.xy + shift
        within = (moved >= 0) & (moved <= [shape[1] - 1, shape[0] - 1])
        inside = np.asarray(within.all(axis=1))
        inside[matched] = True
        light = np.clip(np.nan_to_num(one.flux), 0, None)
        shares.append(float(light[matched].sum() / light[inside].sum()))
    return min(shares)


def _vote(
    stars: Stars,
    reference: Stars,
    a: int,
    b: int,
    shape: tuple[int, int],
    tol: float,
    reach: Points,
) -> _Vote | None:
    ratio = _ratio(reference.flux[b], stars.flux[a])
    if not 1 / _ANY_RATIO <= ratio <= _ANY_RATIO:
        return None
    seed = reference.xy[b] - stars.xy[a]
    # The median of the agreeing pairs, so that one wrong neighbour does not pull it.
    shift = seed
    for _ in range(3):
        i, j = mutual_pairs(stars.xy + shift, reference.xy, tol)
        alike = [
            ratio / _SAME_RATIO <= _ratio(reference.flux[q], stars.flux[p]) <= ratio * _SAME_RATIO
            for p, q in zip(i, j, strict=True)
        ]
        i, j = i[alike], j[alike]
        if not len(i):
            return None
        shift = np.median(reference.xy[j] - stars.xy[i], axis=0)
    expected = _chance(stars, reference, i, j, Affine(np.eye(2), shift), shape, tol, reach)
    return _Vote(shift, i, j, expected)


def _ratio(one: float, other: float) -> float:
    return float(one / other) if one > 0 and other > 0 else math.nan


def _chance(
    stars: Stars,
    reference: Stars,
    i: NDArray[np.intp],
    j: NDArray[np.intp],
    move: Affine,
    shape: tuple[int, int],
    tol: float,
    reach: Points,
) -> float:
    """Expected number of equally good shifts if the two lists had nothing in common.

    The brightest matched star finds a partner as bright somewhere in the search area with
    the number density of such stars: those that were seen, and those that the counts of
    fainter ones predict. Each further star finds one within the tolerance by chance.
    """
    from scipy.special import betainc

    ny, nx = shape
    area = float(nx * ny)
    brightest = int(np.argmax(stars.flux[i]))
    fluxes = [np.clip(np.nan_to_num(one.flux), 0, None) for one in (stars, reference)]
    # A frame of a single star does not tell its own depth; the other one does.
    every = np.concatenate(fluxes)
    faintest = float(every[every > 0].min())
    most = float(max(len(flux) for flux in fluxes))
    seeds = 0.0
    for flux, k in zip(fluxes, (i[brightest], j[brightest]), strict=True):
        enough = float(flux[k]) / _SAME_RATIO
        others = int((flux >= enough).sum()) - 1
        seeds = max(seeds, others + most * min((faintest / enough) ** _COUNTS, 1.0))
    seeds *= min(1.0, float((2 * reach[0] + 1) * (2 * reach[1] + 1)) / area)
    expected = move.inverse()(reference.xy)
    inside = ((expected > -tol) & (expected < [nx - 1 + tol, ny - 1 + tol])).all(axis=1)
    n = max(min(int(inside.sum()), len(stars)), len(i)) - 1
    k = len(i) - 1
    if k == 0:
        return seeds
    dense = max(len(stars), int(inside.sum())) / area
    p = 1 - math.exp(-dense * math.pi * tol**2)
    return seeds * float(betainc(k, n - k + 1, min(max(p, 1e-9), 0.999)))
