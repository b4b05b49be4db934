"""The sky under the sources: its level and its scatter on a mesh.

The level of a cell is the clipped mean of its pixels after sources have been masked.
A mean, because photometry sums: the median of Poisson counts lies 1/6 electron below
their mean and the customary mode 0.4, which an aperture of 100 px multiplies by 100.
What makes the mean safe is the mask, so the sources are searched, masked with their
wings, and searched again on the better background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.frame import Background, Frame, MaskBit, has_bits
from skymill.kernels.detect import detect, gaussian_kernel, grow_segments
from skymill.kernels.mesh import CellStatistics, cell_statistics, expand_spline
from skymill.steps._artefacts import band_amplitude

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["background"]

#: Variance of a mean clipped at 3 sigma, relative to the plain mean.
_CLIPPED_MEAN_VARIANCE = 1.030
#: A frame is divided into at least this many cells along its shorter side.
_MINIMUM_CELLS = 4
_SMALLEST_BOX_PX = 8
_REFERENCE_FILTER = 3
#: With more cells without sky than this, wings of sources are let into the level.
_CROWDED_FRACTION = 0.5
#: A level that varies by more than this part of itself, and well above its noise, is steep.
_STEEP_FRACTION, _STEEP_SIGMA = 0.5, 5.0
#: Bits of pixels that belong to a bright source: not sky, but wanted for finding it.
_BRIGHT = MaskBit.SATURATED | MaskBit.BLEED | MaskBit.NONLINEAR


class _Mesh(NamedTuple):
    level: NDArray[np.float64]
    #: Smooth in any case: what is subtracted before the next round. Its noise would else
    #: return in the next level, as the mean of a spline over a cell is not its central value.
    reference: NDArray[np.float64]
    rms: NDArray[np.float64]
    err: NDArray[np.float64]
    n: NDArray[np.int64]
    filled: NDArray[np.bool_]


def background(
    frame: Frame,
    *,
    box_size_px: int = 64,
    filter_size: int = 3,
    source_sigma: float = 3.0,
    grow_px: int = 4,
    grow_factor: float = 1.5,
    iterations: int = 2,
    minimum_cell_fraction: float = 0.15,
    poor_fraction: float = 0.5,
    banding_limit: float = 0.3,
) -> Result[Background]:
    """Measure level and scatter of the sky on a mesh.

    Parameters
    ----------
    frame : Frame
        Calibrated frame with its final mask. Not modified.
    box_size_px : int
        Side of a cell; a frame of fewer than four such cells gets smaller ones.
    filter_size : int
        Side of the median filter of the mesh in cells, odd; 1 does not filter.
    source_sigma : float
        Groups of pixels above this many sigma of the filtered image are masked.
    grow_px, grow_factor : float
        Masked ellipses are the isophotes times the factor plus the pixels.
    iterations : int
        Rounds of masking.
    minimum_cell_fraction : float
        A cell with a smaller fraction of usable pixels is filled from its neighbours.
    poor_fraction : float
        More filled cells than this fraction flag the frame BKG_POOR.
    banding_limit : float
        A stronger pattern of the rows' or columns' means, in units of the sky noise, flags
        the frame BANDING.

    Returns
    -------
    Result of Background
        Numbers: ``sky_e``, ``sky_rms_e`` (medians of the cells), ``box_size_px``,
        ``source_fraction`` (masked as sources), ``filled_fraction`` (of the cells),
        ``crowded_fraction`` (of cells without sky between grown sources), ``band_rows``
        and ``band_columns`` (pattern of their means in units of the noise),
        ``err_ratio`` (measured scatter / propagated error of the same sky pixels; 1 if
        the noise model is right).

    Raises
    ------
    StepFailed
        ALL_MASKED if no pixel is good.
    """
    if filter_size % 2 == 0:
        raise ValueError(f"filter_size must be odd, got {filter_size}")
    good = frame.good
    if not good.any():
        raise StepFailed(
            "ALL_MASKED",
            "background: no pixel is good, so there is no sky to measure.",
            n_good_px=0,
        )
    box = _box_size(frame.shape, box_size_px)
    sci = np.where(np.isfinite(frame.sci), frame.sci, np.float32(0))
    err = np.where(good, frame.err, np.float32(1))
    smallest = minimum_cell_fraction * box * box
    mesh = _first_mesh(sci, err, good, box, filter_size, smallest)
    source = np.zeros_like(good)
    for _ in range(iterations):
        # Along the slope also in the outer half cells: held constant there, a tilted sky
        # would leave residuals that pull the outermost centres by 1/8 of the step of a cell.
        level = expand_spline(mesh.reference, frame.shape, box, extrapolate=True)
        rms = expand_spline(mesh.rms, frame.shape, box)
        residual = sci - level
        seeds, source = _sources(frame, residual, rms, source_sigma, grow_factor, grow_px)
        statistics, crowded = _statistics(residual, err, good, seeds, source, box, smallest)
        mesh = _next_mesh(mesh, statistics, filter_size, smallest)
    result = _result(frame, mesh, box, filter_size, source, good, crowded, poor_fraction)
    return _with_bands(result, sci, good & ~source, banding_limit)


def _with_bands(
    result: Result[Background],
    sci: NDArray[np.float32],
    sky: NDArray[np.bool_],
    limit: float,
) -> Result[Background]:
    """Add what the means of rows and columns tell."""
    sigma = float(result.numbers["sky_rms_e"])
    residual = sci - result.value.level_map()
    rows, columns = (band_amplitude(residual, sky, sigma, axis) for axis in (1, 0))
    flags = result.flags
    if max(rows, columns) > limit:
        what, amplitude = ("rows", rows) if rows >= columns else ("columns", columns)
        text = (
            f"background: the {what} carry a pattern of {amplitude:.2f} of the sky noise (limit "
            f"{limit:g}, settings: background.banding_limit); interference or a bad overscan."
        )
        flags = (*flags, ("BANDING", text))
    numbers = {**result.numbers, "band_rows": rows, "band_columns": columns}
    return Result(result.value, flags, numbers)


def _box_size(shape: tuple[int, int], wanted: int) -> int:
    """Cells of the wanted size, or smaller ones so that a small frame has a few."""
    return min(wanted, max(_SMALLEST_BOX_PX, min(shape) // _MINIMUM_CELLS))


def _first_mesh(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    good: NDArray[np.bool_],
    box: int,
    filter_size: int,
    smallest: float,
) -> _Mesh:
    """Sources are still in: the mode estimate, which leans away from them."""
    s = cell_statistics(sci, err, good, box)
    skewed = np.abs(s.mean - s.median) > 0.3 * s.scatter
    level = np.where(skewed, s.median, 2.5 * s.median - 1.5 * s.mean)
    return _mesh(level, s, filter_size, smallest)


def _next_mesh(before: _Mesh, s: CellStatistics, filter_size: int, smallest: float) -> _Mesh:
    """Add the mean of the residuals: a tilt inside a cell does no harm."""
    return _mesh(before.reference + s.mean, s, filter_size, smallest)


def _sources(
    frame: Frame,
    residual: NDArray[np.float32],
    rms: NDArray[np.float32],
    source_sigma: float,
    grow_factor: float,
    grow_px: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels of sources, without and with their wings."""
    skip = has_bits(frame.mask, MaskBit.bad() & ~_BRIGHT) | ~np.isfinite(frame.sci)
    usable = np.isfinite(rms) & (rms > 0)
    objects, segments, _ = detect(
        residual,
        np.where(usable, rms, np.float32(1)),
        skip | ~usable,
        threshold_sigma=source_sigma,
        minimum_area_px=5,
        kernel=gaussian_kernel(2.5),
    )
    return segments > 0, grow_segments(segments, objects, factor=grow_factor, grow_px=grow_px)


def _statistics(
    residual: NDArray[np.float32],
    err: NDArray[np.float32],
    good: NDArray[np.bool_],
    seeds: NDArray[np.bool_],
    source: NDArray[np.bool_],
    box: int,
    smallest: float,
) -> tuple[CellStatistics, float]:
    """Statistics outside the grown sources, and the fraction of cells without enough of it.

    If that is most of them, the field is crowded and only the sources themselves are left
    out of these cells: the wings are then part of the level, better than no level.
    """
    s = cell_statistics(residual, err, good & ~source, box)
    few = s.n < smallest
    crowded = float(few.mean())
    if crowded <= _CROWDED_FRACTION:
        return s, crowded
    t = cell_statistics(residual, err, good & ~seeds, box)
    return CellStatistics(*(np.where(few, b, a) for a, b in zip(s, t, strict=True))), crowded


def _mesh(
    level: NDArray[np.float64], s: CellStatistics, filter_size: int, smallest: float
) -> _Mesh:
    """Fill poor cells and filter the mesh, both on what a plane leaves over."""
    poor = ~((s.n >= smallest) & np.isfinite(level) & np.isfinite(s.scatter) & (s.scatter > 0))
    if poor.all():
        # A few good pixels somewhere: any cell that has a value at all must do.
        poor = ~(np.isfinite(level) & (s.n > 1))
    if poor.all():
        raise StepFailed(
            "ALL_MASKED", "background: no mesh cell holds two good pixels.", n_cells=int(poor.size)
        )
    err = np.where(s.n > 0, s.variance, np.nan) ** 0.5
    return _Mesh(
        level=_smooth(level, poor, filter_size),
        reference=_smooth(level, poor, max(filter_size, _REFERENCE_FILTER)),
        rms=_smooth(s.scatter, poor, filter_size),
        err=err,
        n=s.n,
        filled=poor,
    )


def _smooth(
    values: NDArray[np.float64], poor: NDArray[np.bool_], filter_size: int
) -> NDArray[np.float64]:
    """Fill and median-filter a mesh relative to its plane, so that a tilt keeps its edges."""
    plane = _plane(values, ~poor)
    rest = _fill(np.where(poor, np.nan, values - plane))
    reach = filter_size // 2
    padded = np.pad(rest, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (filter_size, filter_size))
    return np.asarray(plane + np.nanmedian(windows.reshape(*rest.shape, -1), axis=2))


def _plane(values: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Plane through the good cells, cells more than 3 robust sigma off left out."""
    y, x = np.indices(values.shape, dtype=float)
    x -= x.mean()
    y -= y.mean()
    use = good.copy()
    plane = np.full(values.shape, float(np.median(values[good])))
    if good.sum() < 12:
        return plane
    for _ in range(5):
        c = _least_squares_plane(x[use], y[use], values[use])
        if c is None:
            break
        plane = c[0] + c[1] * x + c[2] * y
        rest = values - plane
        limit = 3 * 1.4826 * float(np.median(np.abs(rest[use])))
        use = good & (np.abs(rest) <= max(limit, 1e-9))
        if use.sum() < 6:
            break
    return plane


def _least_squares_plane(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    """Coefficients of the plane a + b x + c y, None if the points lie on a line.

    By hand and not by LAPACK, whose last bits differ between machines.
    """
    mean_x, mean_y, mean_z = (float(np.mean(v)) for v in (x, y, z))
    dx, dy, dz = x - mean_x, y - mean_y, z - mean_z
    xx, yy, xy = float(np.sum(dx * dx)), float(np.sum(dy * dy)), float(np.sum(dx * dy))
    xz, yz = float(np.sum(dx * dz)), float(np.sum(dy * dz))
    det = xx * yy - xy * xy
    if det <= 1e-9 * max(xx * yy, 1e-300):
        return None
    b, c = (xz * yy - yz * xy) / det, (yz * xx - xz * xy) / det
    return mean_z - b * mean_x - c * mean_y, b, c


def _fill(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace NaN by the mean of the neighbours, from the rim of each hole inwards."""
    while np.isnan(values).any():
        padded = np.pad(values, 1, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        known = np.isfinite(windows)
        count = known.sum(axis=(2, 3))
        mean = np.where(known, windows, 0.0).sum(axis=(2, 3)) / np.maximum(count, 1)
        values = np.where(np.isnan(values) & (count > 0), mean, values)
    return values


def _result(
    frame: Frame,
    mesh: _Mesh,
    box: int,
    filter_size: int,
    source: NDArray[np.bool_],
    good: NDArray[np.bool_],
    crowded: float,
    poor_fraction: float,
) -> Result[Background]:
    used = ~mesh.filled
    rms = float(np.median(mesh.rms))
    pixels = float(np.median(mesh.n[used]))
    cells = filter_size**2
    # Median of n normal values: variance (pi/2) / (n - 1 + pi/2), exact at n = 1, 1 % at 9.
    filtered = (np.pi / 2) / (cells - 1 + np.pi / 2)
    level_err = rms * float(np.sqrt(_CLIPPED_MEAN_VARIANCE * filtered / pixels))
    value = Background(
        level=mesh.level.astype(np.float32),
        rms=mesh.rms.astype(np.float32),
        shape=frame.shape,
        box_size_px=box,
        level_err=level_err,
    )
    filled = float(mesh.filled.mean())
    sky = float(np.median(mesh.level))
    flags: list[tuple[str, str]] = []
    if max(filled, crowded) > poor_fraction:
        flags.append(
            (
                "BKG_POOR",
                f"background: {max(filled, crowded):.0%} of {mesh.filled.size} cells have too few "
                f"sky pixels (limit {poor_fraction:.0%}, settings: background.poor_fraction); "
                "their level comes from neighbours or holds light of sources.",
            )
        )
    low, high = (float(v) for v in np.percentile(mesh.level, (5, 95)))
    if high - low > max(_STEEP_FRACTION * abs(sky), _STEEP_SIGMA * rms):
        flags.append(
            (
                "SKY_BRIGHT",
                f"background: the sky goes from {low:.0f} to {high:.0f} electron over the frame; "
                "twilight, moonlight, cloud or a large object.",
            )
        )
    ratio = float(np.median(mesh.rms[used] / mesh.err[used]))
    numbers = {
        "sky_e": sky,
        "sky_rms_e": rms,
        "box_size_px": box,
        "level_err_e": level_err,
        "source_fraction": float(source[good].mean()),
        "filled_fraction": filled,
        "crowded_fraction": crowded,
        "err_ratio": ratio if np.isfinite(ratio) else None,
    }
    return Result(value, tuple(flags), numbers)
