"""The check of cosmic rays against the next exposure: simulated pairs of exposures.

Stars are sharp (FWHM 1.0 to 1.5 px), some of them wrongly flagged in both exposures; hits
are tracks. Shift, clouds and seeing differ between the two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from scipy import ndimage

from bench.cosmics import READ_NOISE_E, SKY_E, stars, tracks
from bench.runs import Figure
from skymill.frame import Frame, MaskBit, has_bits
from skymill.steps.cosmic_check import Checked, check_cosmics, link, sight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

COSMIC = np.uint16(int(MaskBit.COSMIC))
#: A star must be this many sigma bright in both exposures to be worth a verdict.
WORTH_SIGMA = 20.0


@dataclass(frozen=True)
class Exposed:
    """An exposure with its flags, and what it really holds."""

    frame: Frame
    bits: NDArray[np.uint16]
    hits: NDArray[np.bool_]
    x: Plane
    y: Plane


@dataclass(frozen=True)
class Case:
    """How the second exposure differs: shift in px, FWHM of both in px, throughput."""

    shift: tuple[float, float]
    fwhm: float = 1.25
    next_fwhm: float = 1.25
    clouds: float = 1.0


def expose(
    rng: np.random.Generator, x: Plane, y: Plane, flux: Plane, fwhm: float, side: int, *,
    flagged: NDArray[np.bool_], hot: Sequence[tuple[int, int, float]] = (), clouds: float = 1.0,
) -> Exposed:  # fmt: skip
    """Draw an exposure; ``flagged`` names the stars whose cores are taken for hits."""
    shape = (side, side)
    light = stars(shape, x, y, clouds * flux, fwhm, None)
    track = tracks(shape, round(143 * side * side / 1e6), rng)
    warm = np.zeros(shape)
    for j, i, e in hot:
        warm[j, i] += e
    sci = rng.poisson(SKY_E + light + warm) + track + rng.normal(0, READ_NOISE_E, shape)
    err = np.sqrt(np.maximum(sci, 0) + READ_NOISE_E**2)
    sigma = np.sqrt(SKY_E + light + READ_NOISE_E**2)
    hit = track > 5 * sigma
    cores = np.zeros(shape, bool)
    for n in np.flatnonzero(flagged):
        i, j = round(x[n]), round(y[n])
        if 1 <= i < side - 1 and 1 <= j < side - 1:
            part = sci[j - 1 : j + 2, i - 1 : i + 2] - SKY_E
            cores[j - 1 : j + 2, i - 1 : i + 2] |= part > 0.4 * part.max()
    marked = hit | cores | (warm > 5 * sigma)
    bits = np.where(marked, COSMIC, np.uint16(0))
    frame = Frame(sci.astype(np.float32), err.astype(np.float32), bits, fits.Header())
    return Exposed(frame, bits, hit, x, y)


def pair(
    seed: int, case: Case, *, side: int = 1024, n: int = 500,
    hot: Sequence[tuple[int, int, float]] = (), part: float = 0.3,
) -> tuple[Exposed, Exposed, NDArray[np.bool_]]:  # fmt: skip
    """Two exposures of a field, and which stars are flagged and bright enough for a verdict."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-40, side + 40, n), rng.uniform(-40, side + 40, n)
    flux = 10 ** rng.uniform(2.7, 4.8, n)
    flagged = rng.uniform(size=n) < part
    shift, clouds = case.shift, case.clouds
    first = expose(rng, x, y, flux, case.fwhm, side, flagged=flagged, hot=hot)
    second = expose(rng, x + shift[0], y + shift[1], flux, case.next_fwhm, side,
                    flagged=flagged, hot=hot, clouds=clouds)  # fmt: skip
    noise = np.sqrt(9 * (SKY_E + READ_NOISE_E**2) + clouds * flux)
    return first, second, flagged & (clouds * flux > WORTH_SIGMA * noise)


def checked(first: Exposed, second: Exposed) -> Checked:
    """Check the hits of the first exposure against the second."""
    one, other = sight(first.frame, first.bits), sight(second.frame, second.bits)
    return check_cosmics(one, has_bits(first.bits, MaskBit.COSMIC), [(other, link(one, other))])


def tally(
    first: Exposed, second: Exposed, worth: NDArray[np.bool_], shift: tuple[float, float]
) -> NDArray[np.int64]:
    """Refuted and all flagged stars; removed and all hit pixels."""
    side = first.hits.shape[0]
    found = checked(first, second).refuted
    i, j = np.rint(first.x).astype(int), np.rint(first.y).astype(int)
    k, m = np.rint(first.x + shift[0]).astype(int), np.rint(first.y + shift[1]).astype(int)
    # stars within both, whose group is theirs alone and that no track crosses
    inside = np.all([(v > 4) & (v < side - 5) for v in (i, j, k, m)], axis=0) & worth
    near = ndimage.maximum_filter(first.hits, 7), ndimage.maximum_filter(second.hits, 7)
    i, j, k, m = (v[inside] for v in (i, j, k, m))
    alone = ~near[0][j, i] & ~near[1][m, k]
    cores = ndimage.maximum_filter(found, 3)[j, i]
    return np.array([
        np.count_nonzero(cores & alone), np.count_nonzero(alone),
        np.count_nonzero(found & first.hits), np.count_nonzero(first.hits),
    ])  # fmt: skip


CASES = (
    Case((12.3, -7.6)),
    Case((0.0, 0.0)),
    Case((0.4, 0.3), 1.5, 1.5),
    Case((0.4, 0.3), 1.1, 1.1),
    Case((30.0, 30.0), 1.0, 1.0),
    Case((-29.5, 3.5), 1.0, 1.5, 0.6),
    Case((5.2, 4.9), 1.5, 1.0, 0.3),
    Case((2.5, -1.0), 1.5, 2.4, 0.8),
)


def tallies(number: int = 2) -> dict[Case, NDArray[np.int64]]:
    """Return the `tally` of ``number`` pairs of each case."""
    out = {}
    for index, case in enumerate(CASES):
        total = np.zeros(4, np.int64)
        for seed in range(number):
            first, second, worth = pair(50 + 10 * index + seed, case)
            total += tally(first, second, worth, case.shift)
        out[case] = total
    return out


def cost(repeats: int = 3, side: int = 2048) -> float:
    """CPU seconds of a frame of a block: it is looked at once and has two neighbours."""
    first, second, _ = pair(7, Case((9.0, 4.0)), side=side, n=3000)
    checked(first, second)
    hits = has_bits(first.bits, MaskBit.COSMIC)
    costs = []
    for _ in range(repeats):
        start = time.process_time()
        one, other = sight(first.frame, first.bits), sight(second.frame, second.bits)
        shared = time.process_time() - start
        start = time.process_time()
        check_cosmics(one, hits, [(other, link(one, other))])
        costs.append(shared / 2 + 2 * (time.process_time() - start))
    return min(costs)


def figures() -> list[Figure]:
    """Return the rows of the accuracy table."""
    refuted, all_stars, removed, all_hits = np.sum(list(tallies().values()), axis=0)
    return [
        Figure("cosmic_check_refuted", refuted / all_stars, ">= 0.9", "", int(all_stars),
               "flagged stars of FWHM 1.0 to 1.5 px that the next exposure clears; shifts of 0 "
               "to 42 px, clouds down to 0.3, other seeing"),
        Figure("cosmic_check_removed", removed / all_hits, "<= 0.005", "", int(all_hits),
               "pixels of hits above 5 sigma that it clears wrongly"),
        Figure("cosmic_check_2k_cpu_s", cost(), "<= 0.1", "CPU s", 3,
               "per frame of 2048 x 2048 px, both neighbours"),
    ]  # fmt: skip
