"""Pixels of flats that must not be believed: stars, and response that is not linear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.kernels.combine import Combined, Terms
    from skymill.steps.masters_intake import Intake

__all__ = ["bright_spots", "find_stars", "local_level", "nonlinear_pixels"]

#: Height of the strips in which stars are searched, and their overlap (px).
STRIP, HALO = 256, 12
#: Sides of the boxes in which the light of stars is summed (px).
SCALES = (3, 9)
#: Margin around what is found (px).
MARGIN = 3
#: Side of the cells whose median is the local level (px).
CELL = 64
#: If more of a frame than this seems to be stars, it is something else (clouds, fringes).
TOO_MUCH = 0.25


def local_level(plane: NDArray[Any], cell: int = CELL) -> NDArray[np.float32]:
    """Medians of cells, interpolated linearly between their centres.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx)
        NaN is left out; cells without a value take the median of the others.
    cell : int
        Side of the cells (px).

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    ny, nx = plane.shape
    my, mx = max(1, round(ny / cell)), max(1, round(nx / cell))
    ys, xs = np.linspace(0, ny, my + 1).astype(int), np.linspace(0, nx, mx + 1).astype(int)
    level = np.full((my, mx), np.nan)
    for i in range(my):
        for j in range(mx):
            # every second pixel is enough for a median
            part = plane[ys[i] : ys[i + 1] : 2, xs[j] : xs[j + 1] : 2]
            part = part[np.isfinite(part)]
            if part.size:
                level[i, j] = np.median(part)
    known = np.isfinite(level)
    level[~known] = np.median(level[known]) if known.any() else 0.0
    down = _between(level, 0.5 * (ys[:-1] + ys[1:]), ny)
    return _between(down.T, 0.5 * (xs[:-1] + xs[1:]), nx).T.astype(np.float32)


def _between(nodes: NDArray[np.float64], centres: NDArray[np.float64], size: int) -> Any:
    """Interpolate along the first axis; constant beyond the outermost centres."""
    if len(nodes) == 1:
        return np.repeat(nodes, size, axis=0)
    at = np.arange(size) + 0.5
    first = np.clip(np.searchsorted(centres, at) - 1, 0, len(nodes) - 2)
    weight = np.clip((at - centres[first]) / np.diff(centres)[first], 0, 1)[:, None]
    return nodes[first] * (1 - weight) + nodes[first + 1] * weight


def find_stars(
    view: Intake,
    rough: Combined,
    terms: Sequence[Terms],
    charge: NDArray[np.float32] | None,
    sigma: float,
) -> list[dict[int, NDArray[np.int64]]]:
    """Find light in single flats that the others do not show.

    Parameters
    ----------
    view : Intake
        The group with corrected pixels.
    rough : Combined
        First combination of the group.
    terms : sequence of Terms
        Scales and noise of the frames, by amplifier.
    charge : ndarray of float32, shape (ny, nx), or None
        Dark charge, for its photon noise (ADU).
    sigma : float
        Threshold of sums of 3 x 3 and 9 x 9 pixels.

    Returns
    -------
    list of dict
        For each frame, by amplifier: growing flat indices of the pixels, with a margin
        of 3 px. Empty for a frame of which more than a quarter would be lost.

    Notes
    -----
    Clipping judges single pixels and leaves the wings of stars, which are faint but
    wide. Sums of pixels see them. Differences at large scale (gradients) are taken out
    before by the medians of cells of 64 px.
    """
    found: list[dict[int, NDArray[np.int64]]] = []
    for i, frame in enumerate(view.loaded):
        own: dict[int, NDArray[np.int64]] = {}
        total = 0
        for amp, one in enumerate(view.amplifiers):
            at = one.place.slices
            dark = None if charge is None else charge[at]
            own[amp] = _of_amplifier(
                frame.parts[amp], rough.value[at], terms[amp], i, dark, sigma
            )  # fmt: skip
            total += own[amp].size
        size = view.shape[0] * view.shape[1]
        frame.numbers["star_fraction"] = total / size
        found.append(own if total <= TOO_MUCH * size else {})
    return found


def _of_amplifier(
    part: Any, flat: NDArray[np.float32], terms: Terms, i: int,
    dark: NDArray[np.float32] | None, sigma: float,
) -> NDArray[np.int64]:  # fmt: skip
    ny, nx = flat.shape
    pieces = []
    for y0 in range(0, ny, STRIP):
        y1 = min(ny, y0 + STRIP)
        top, bottom = max(0, y0 - HALO), min(ny, y1 + HALO)
        expected = flat[top:bottom]
        excess = part.rows(top, bottom) * np.float32(terms.scale[i]) - expected
        light = expected / terms.scale[i]
        if dark is not None:
            light = light + terms.charge[i] * dark[top:bottom]
        with np.errstate(invalid="ignore"):
            noise = terms.scale[i] * np.sqrt(np.maximum(light, 0) / terms.gain[i] + terms.noise[i])
        excess -= local_level(excess)
        pull = (excess / noise).astype(np.float32)
        stars = bright_spots(pull, sigma)[y0 - top : y1 - top]
        pieces.append(np.flatnonzero(stars) + y0 * nx)
    return np.concatenate(pieces)


def bright_spots(
    pull: NDArray[np.float32], sigma: float, *, dark: bool = False
) -> NDArray[np.bool_]:
    """Pixels in boxes of 3 or 9 pixels a side whose sum is too bright, with a margin.

    Parameters
    ----------
    pull : ndarray of float32, shape (ny, nx)
        Excess over its standard deviation, NaN where not known.
    sigma : float
        Threshold of the sums.
    dark : bool
        Also boxes whose sum is too low.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    valid = np.isfinite(pull)
    whole = bool(valid.all())
    # a hot value must not stain its whole box: clipping removes it by itself
    filled = np.clip(pull, -2 * sigma, 2 * sigma).astype(np.float32)
    if not whole:
        filled[~valid] = 0
    out = np.zeros(pull.shape, np.bool_)
    for side in SCALES:
        limit: Any = sigma / side
        if not whole:
            number = uniform_filter(valid.astype(np.float32), side, mode="nearest")
            limit = limit * np.sqrt(np.maximum(number, 1 / side**2))
        mean = uniform_filter(filled, side, mode="nearest")
        out |= (np.abs(mean) if dark else mean) > limit
    if not out.any():
        return out
    grown: NDArray[np.bool_] = maximum_filter(out, 2 * MARGIN + 1)
    return grown


def nonlinear_pixels(
    high: Combined, low: Combined, tolerance: float, sigma: float
) -> NDArray[np.bool_]:
    """Pixels whose response differs between bright and faint flats.

    Parameters
    ----------
    high, low : Combined
        Flats of high and of low level.
    tolerance : float
        Relative difference from the surroundings that is tolerated.
    sigma : float
        The difference must also exceed this many standard errors.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        False where the frames of either group contradict each other.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = high.value / low.value
        error = np.abs(ratio) * np.hypot(high.err / high.value, low.err / low.value)
        ratio[(high.value <= 0) | (low.value <= 0)] = np.nan
        level = local_level(ratio)
        far = np.abs(ratio - level) > np.maximum(tolerance * np.abs(level), sigma * error)
    return np.asarray(far & ~high.conflict & ~low.conflict)
