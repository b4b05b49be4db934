"""Levels and scatters of the cells of a frame, sources and extended objects left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.errors import StepFailed
from skymill.frame import MaskBit
from skymill.kernels.cells import CellStatistics, LineSums, cell_statistics
from skymill.kernels.mesh import mesh_spline
from skymill.kernels.segments import (
    GROWN,
    SKY,
    filter_residual,
    find_segments,
    paint,
    pixel_states,
)
from skymill.steps._growth import filter_profile, growth
from skymill.steps._sky_surface import extended_cells, smooth_mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Frame

__all__ = ["BRIGHT_BITS", "Sky", "measure_sky", "states_of"]

#: A frame is divided into at least this many cells along its shorter side.
_MINIMUM_CELLS = 4
_SMALLEST_BOX_PX = 8
_REFERENCE_FILTER = 3
#: With more cells without sky than this, wings of sources are let into the level.
_CROWDED_FRACTION = 0.5
#: FWHM of the filter of the search for sources, and fewest pixels of one.
_FILTER_FWHM_PX, _MINIMUM_AREA_PX = 2.5, 5
#: Cells of this size are large enough for a first guess from every fourth pixel.
_LARGE_BOX_PX = 48
#: Bits of pixels that belong to a bright source: not sky, but wanted for finding it.
BRIGHT_BITS = MaskBit.SATURATED | MaskBit.BLEED | MaskBit.NONLINEAR


class Sky(NamedTuple):
    """What is known of the sky.

    Attributes
    ----------
    level, rms : ndarray of float64, shape (my, mx)
        Level and scatter of the cells, filled and filtered.
    raw_level : ndarray of float64, shape (my, mx)
        Level neither filled nor filtered.
    err : ndarray of float64, shape (my, mx)
        Root mean square of the propagated errors of the same pixels.
    n : ndarray of int64, shape (my, mx)
        Pixels used.
    filled, objects : ndarray of bool, shape (my, mx)
        Cells filled from their neighbours; those among them of extended objects.
    state : ndarray of uint8, shape (ny, nx)
        States of the pixels, see `skymill.kernels.segments`.
    lines : LineSums
        Sums of the sky along rows and columns.
    box_size_px : int
        Side of a cell.
    source_fraction, crowded : float
        Good pixels masked as sources; cells without enough sky between them.
    """

    level: NDArray[np.float64]
    rms: NDArray[np.float64]
    raw_level: NDArray[np.float64]
    err: NDArray[np.float64]
    n: NDArray[np.int64]
    filled: NDArray[np.bool_]
    objects: NDArray[np.bool_]
    state: NDArray[np.uint8]
    lines: LineSums
    box_size_px: int
    source_fraction: float
    crowded: float

    def cells_of_objects(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return True on the pixels of the cells of extended objects."""
        rows = np.repeat(self.objects, self.box_size_px, axis=0)[: shape[0]]
        return np.repeat(rows, self.box_size_px, axis=1)[:, : shape[1]]


class _Mesh(NamedTuple):
    level: NDArray[np.float64]
    #: Smooth in any case: what is subtracted before the next round. Its noise would else
    #: return in the next level, as the mean of a spline over a cell is not its central value.
    reference: NDArray[np.float64]
    rms: NDArray[np.float64]
    raw: NDArray[np.float64]
    statistics: CellStatistics
    filled: NDArray[np.bool_]
    objects: NDArray[np.bool_]


class _Rules(NamedTuple):
    filter_size: int
    smallest: float
    protect_cells: float


def states_of(frame: Frame) -> tuple[NDArray[np.uint8], int]:
    """Return the states of the pixels of a frame, and the number of good ones."""
    bright = int(BRIGHT_BITS)
    bad = int(MaskBit.bad()) & ~bright
    state, n = pixel_states(frame.sci, frame.err, frame.mask, np.uint16(bright), np.uint16(bad))
    return state, int(n)


def measure_sky(
    frame: Frame,
    *,
    box_size_px: int,
    filter_size: int,
    protect_scale_px: float | None,
    source_sigma: float,
    grow_px: float,
    grow_factor: float,
    iterations: int,
    minimum_cell_fraction: float,
) -> Sky:
    """Measure the sky between sources; parameters as for `skymill.steps.background`.

    Raises
    ------
    StepFailed
        ALL_MASKED if no pixel is good, or no cell holds two.
    """
    base, n_good = states_of(frame)
    if n_good == 0:
        raise StepFailed(
            "ALL_MASKED",
            "background: no pixel is good, so there is no sky to measure.",
            n_good_px=0,
        )
    shape = frame.shape
    box = _box_size(shape, box_size_px)
    protect = min(shape) / 2 if protect_scale_px is None else protect_scale_px
    rules = _Rules(filter_size, minimum_cell_fraction * box * box, protect / box)
    mesh = _first_mesh(frame, base, box, rules)
    first = mesh.reference
    profile = filter_profile(_FILTER_FWHM_PX)
    filtered = filter_residual(frame.sci, base, mesh_spline(first, shape, box), profile)
    # Noise of the filtered image per noise of a pixel.
    narrowed = float(np.sum(profile.astype(np.float64) ** 2))
    state, crowded, lines = base, 0.0, LineSums.empty(shape)
    for left in reversed(range(iterations)):
        threshold = source_sigma * narrowed * mesh.rms + (mesh.reference - first)
        spline = mesh_spline(threshold, shape, box)
        segments = find_segments(filtered, base, spline, _MINIMUM_AREA_PX)
        reach, ellipses = growth(segments, factor=grow_factor, grow_px=grow_px)
        state = paint(base, segments, reach, ellipses)
        told = None if left else lines  # only of the last round anything is told
        statistics, crowded = _statistics(frame, state, mesh, box, rules, told)
        # The mean of the residuals is added: a tilt inside a cell does no harm.
        mesh = _mesh(mesh.reference + statistics.mean, statistics, rules)
    s = mesh.statistics
    return Sky(
        level=mesh.level,
        rms=mesh.rms,
        raw_level=mesh.raw,
        err=np.sqrt(np.where(s.n > 0, s.variance, np.nan)),
        n=s.n,
        filled=mesh.filled,
        objects=mesh.objects,
        state=state,
        lines=lines,
        box_size_px=box,
        source_fraction=1 - int(np.count_nonzero(state == SKY)) / n_good,
        crowded=crowded,
    )


def _box_size(shape: tuple[int, int], wanted: int) -> int:
    """Cells of the wanted size, or smaller ones so that a small frame has a few."""
    return min(wanted, max(_SMALLEST_BOX_PX, min(shape) // _MINIMUM_CELLS))


def _first_mesh(frame: Frame, state: NDArray[np.uint8], box: int, rules: _Rules) -> _Mesh:
    """Sources are still in: the mode estimate, which leans away from them."""
    step = 2 if box >= _LARGE_BOX_PX else 1
    s = cell_statistics(frame.sci, None, state, box, step=step)
    skewed = np.abs(s.mean - s.median) > 0.3 * s.scatter
    level = np.where(skewed, s.median, 2.5 * s.median - 1.5 * s.mean)
    return _mesh(level, s._replace(n=s.n * step**2), rules)


def _statistics(
    frame: Frame,
    state: NDArray[np.uint8],
    before: _Mesh,
    box: int,
    rules: _Rules,
    lines: LineSums | None,
) -> tuple[CellStatistics, float]:
    """Statistics outside the grown sources, and the fraction of cells without enough of it.

    If that is most of them, the field is crowded and only the sources themselves are left
    out of these cells: the wings are then part of the level, better than no level. Errors
    are taken only with ``lines``.
    """
    level = mesh_spline(before.reference, frame.shape, box)
    # Where the reference is not the cell's own, its residuals may lie anywhere.
    width = np.where(before.filled, 0.0, before.rms)
    start = np.stack([np.zeros_like(width), width])
    common = (frame.sci, None if lines is None else frame.err, state, box)
    s = cell_statistics(*common, level=level, start=start, lines=lines)
    few = s.n < rules.smallest
    crowded = float(few.mean())
    if crowded <= _CROWDED_FRACTION:
        return s, crowded
    t = cell_statistics(*common, level=level, start=0 * start, limit=GROWN)
    return CellStatistics(*(np.where(few, b, a) for a, b in zip(s, t, strict=True))), crowded


def _mesh(level: NDArray[np.float64], s: CellStatistics, rules: _Rules) -> _Mesh:
    """Fill poor cells and those of objects and filter the mesh."""
    poor = ~((s.n >= rules.smallest) & np.isfinite(level) & np.isfinite(s.scatter))
    poor |= ~(s.scatter > 0)
    if poor.all():
        # A few good pixels somewhere: any cell that has a value at all must do.
        poor = ~(np.isfinite(level) & (s.n > 1))
    if poor.all():
        raise StepFailed(
            "ALL_MASKED", "background: no mesh cell holds two good pixels.", n_cells=int(poor.size)
        )
    known = np.where(poor, 0.0, level)
    noise = float(np.median(s.scatter[~poor] / np.sqrt(s.n[~poor])))
    objects = extended_cells(known, ~poor, noise, rules.protect_cells)
    filled = poor | objects
    wide = max(rules.filter_size, _REFERENCE_FILTER)
    smooth = smooth_mesh(level, filled, rules.filter_size)
    return _Mesh(
        level=smooth,
        reference=smooth if wide == rules.filter_size else smooth_mesh(level, filled, wide),
        rms=smooth_mesh(s.scatter, filled, rules.filter_size),
        raw=level,
        statistics=s,
        filled=filled,
        objects=objects,
    )
