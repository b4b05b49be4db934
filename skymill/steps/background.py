"""The sky under the sources: its level and its scatter.

The level of a cell is the clipped mean of its pixels after sources have been masked.
A mean, because photometry sums: the median of Poisson counts lies 1/6 electron below
their mean and the customary mode 0.4, which an aperture of 100 px multiplies by 100.
What makes the mean safe is the mask, so the sources are searched, masked with their
wings, and searched again on the better background. What is larger than cells shows in
the mesh: cells that stand out from the smooth sky belong to an object and are filled
from outside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.background_engines import as_background, estimate
from skymill.errors import Result, StepFailed
from skymill.frame import Background, Frame
from skymill.kernels.polynomial import degree_of, fit_polynomial, polynomial_at
from skymill.kernels.segments import SKIP, SKY
from skymill.steps._artefacts import band_amplitude
from skymill.steps._sky_mesh import Sky, measure_sky
from skymill.steps._sky_surface import fit_surface

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.kernels.cells import LineSums

__all__ = ["background"]

#: Variance of a mean clipped at 3 sigma, relative to the plain mean.
_CLIPPED_MEAN_VARIANCE = 1.030
#: A level that varies by more than this part of itself, and well above its noise, is steep.
_STEEP_FRACTION, _STEEP_SIGMA = 0.5, 5.0


class _Limits(NamedTuple):
    poor_fraction: float
    banding: float
    noise_ratio: float


def background(
    frame: Frame,
    *,
    engine: str = "skymill",
    model: str = "mesh",
    degree: int = 2,
    box_size_px: int = 64,
    filter_size: int = 3,
    protect_scale_px: float | None = None,
    source_sigma: float = 3.0,
    grow_px: int = 4,
    grow_factor: float = 1.5,
    iterations: int = 2,
    correct_global_offset: bool = False,
    minimum_cell_fraction: float = 0.15,
    poor_fraction: float = 0.5,
    banding_limit: float = 0.3,
    noise_ratio_limit: float = 0.15,
) -> Result[Background]:
    """Measure level and scatter of the sky.

    Parameters
    ----------
    frame : Frame
        Calibrated frame with its final mask. Not modified.
    engine : str
        ``skymill``, ``sep``, ``photutils`` or ``package.module:function``: who estimates
        the level outside the mask of the sources, which is ours in any case.
    model : str
        ``mesh``, ``constant`` or ``polynomial``.
    degree : int
        Total degree of the polynomial.
    box_size_px : int
        Side of a cell; a frame of fewer than four such cells gets smaller ones.
    filter_size : int
        Side of the median filter of the mesh in cells, odd; 1 does not filter.
    protect_scale_px : float, optional
        Objects up to this width are not subtracted, however many cells they fill; 0
        protects nothing that is larger than a cell. Default: half the shorter side.
    source_sigma : float
        Groups of pixels above this many sigma of the filtered image are masked.
    grow_px, grow_factor : float
        Masked is what is nearer to a group of radius r than
        ``(grow_factor - 1) r + grow_px``.
    iterations : int
        Rounds of masking.
    correct_global_offset : bool
        Add the median of what is left on the sky.
    minimum_cell_fraction : float
        A cell with a smaller fraction of usable pixels is filled from its neighbours.
    poor_fraction : float
        More filled cells than this fraction flag the frame BKG_POOR.
    banding_limit : float
        A stronger pattern of the rows' or columns' means, in units of the sky noise, flags
        the frame BANDING.
    noise_ratio_limit : float
        A measured scatter that differs by a larger part from the error plane flags the
        frame NOISE_RATIO.

    Returns
    -------
    Result of Background
        Numbers: ``sky_e``, ``sky_rms_e`` (medians of the cells), ``box_size_px``,
        ``source_fraction`` (masked as sources), ``filled_fraction`` (of the cells),
        ``extended_fraction`` (of the cells, those of extended objects),
        ``crowded_fraction`` (of cells without sky between grown sources), ``band_rows``
        and ``band_columns`` (pattern of their means in units of the noise),
        ``err_ratio`` (measured scatter / propagated error of the same sky pixels; 1 if
        the noise model is right), ``offset_e`` (added by ``correct_global_offset``).

    Raises
    ------
    StepFailed
        ALL_MASKED if no pixel is good, BKG_ENGINE if another engine fails.
    """
    if filter_size % 2 == 0:
        raise ValueError(f"filter_size must be odd, got {filter_size}")
    if model not in ("mesh", "constant", "polynomial"):
        raise ValueError(f"model must be mesh, constant or polynomial, got {model!r}")
    sky = measure_sky(
        frame,
        box_size_px=box_size_px,
        filter_size=filter_size,
        protect_scale_px=protect_scale_px,
        source_sigma=source_sigma,
        grow_px=grow_px,
        grow_factor=grow_factor,
        iterations=iterations,
        minimum_cell_fraction=minimum_cell_fraction,
    )
    if engine != "skymill":
        value = _by_engine(frame, sky, engine, filter_size)
    elif model == "mesh":
        value = _mesh_background(frame, sky, filter_size)
    else:
        value = _smooth_background(frame, sky, model, degree if model == "polynomial" else 0)
    offset = 0.0
    if correct_global_offset:
        offset = _offset(frame, sky, value)
        value = _shifted(value, offset)
    return _judged(value, sky, offset, _Limits(poor_fraction, banding_limit, noise_ratio_limit))


def _mesh_background(frame: Frame, sky: Sky, filter_size: int) -> Background:
    cells = filter_size**2
    # Median of n normal values: variance (pi/2) / (n - 1 + pi/2), exact at n = 1, 1 % at 9.
    filtered = (np.pi / 2) / (cells - 1 + np.pi / 2)
    return Background(
        level=sky.level.astype(np.float32),
        rms=sky.rms.astype(np.float32),
        shape=frame.shape,
        box_size_px=sky.box_size_px,
        level_err=_cell_error(sky) * float(np.sqrt(filtered)),
    )


def _cell_error(sky: Sky) -> float:
    """Error of the level of one cell before any filter."""
    pixels = float(np.median(sky.n[~sky.filled]))
    return float(np.median(sky.rms)) * float(np.sqrt(_CLIPPED_MEAN_VARIANCE / pixels))


def _smooth_background(frame: Frame, sky: Sky, model: str, degree: int) -> Background:
    """Fit a polynomial to the cells, weighted by their pixels."""
    use = ~sky.filled
    weights = np.where(use, sky.n, 0).astype(np.float64)
    mesh = fit_surface(sky.raw_level, use, degree, weights)
    coefficients = _on_frame(mesh, sky.level.shape, sky.box_size_px, frame.shape)
    ny, nx = frame.shape
    v, u = (
        (2 * ((np.indices(sky.level.shape)[axis] + 0.5) * sky.box_size_px)) / n - 1
        for axis, n in ((0, ny), (1, nx))
    )
    return Background(
        level=polynomial_at(coefficients, u, v).astype(np.float32),
        rms=sky.rms.astype(np.float32),
        shape=frame.shape,
        box_size_px=sky.box_size_px,
        # Mean variance of a fit: that of a cell times coefficients over cells.
        level_err=_cell_error(sky) * float(np.sqrt(len(coefficients) / max(use.sum(), 1))),
        model=model,
        coefficients=tuple(float(c) for c in coefficients),
    )


def _on_frame(
    coefficients: NDArray[np.float64],
    cells: tuple[int, ...],
    box: int,
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Coefficients in the coordinates of the frame; those of a mesh reach beyond cut cells."""
    degree = degree_of(len(coefficients))
    if degree == 0:
        return coefficients
    places = np.linspace(-1, 1, 2 * degree + 3)
    v, u = (a.ravel() for a in np.meshgrid(places, places, indexing="ij"))
    scale_y, scale_x = (n / (c * box) for n, c in zip(shape, cells, strict=True))
    values = polynomial_at(coefficients, (u + 1) * scale_x - 1, (v + 1) * scale_y - 1)
    found = fit_polynomial(u, v, values, np.ones_like(values), degree)
    if found is None:
        raise AssertionError("a regular grid determines every polynomial")
    return found


def _by_engine(frame: Frame, sky: Sky, engine: str, filter_size: int) -> Background:
    image = np.where(sky.state == SKIP, np.float32(0), frame.sci)
    mask = sky.state != SKY
    mask |= sky.cells_of_objects(frame.shape)
    if mask.all():
        raise StepFailed(
            "ALL_MASKED", f"background: sources leave no sky to the engine {engine}.", n_good_px=0
        )
    maps = estimate(engine, image, mask, sky.box_size_px, filter_size)
    return as_background(maps, sky.rms, sky.box_size_px, _cell_error(sky))


def _offset(frame: Frame, sky: Sky, value: Background) -> float:
    """Median of what is left on the sky: light of sources that the mask misses hardly moves it."""
    use = sky.state == SKY
    use &= ~sky.cells_of_objects(frame.shape)
    if not use.any():
        return 0.0
    return float(np.median((frame.sci - value.level_map())[use]))


def _shifted(value: Background, offset: float) -> Background:
    coefficients = value.coefficients
    if coefficients:
        coefficients = (coefficients[0] + offset, *coefficients[1:])
    return replace(value, level=value.level + np.float32(offset), coefficients=coefficients)


def _judged(value: Background, sky: Sky, offset: float, limits: _Limits) -> Result[Background]:
    """Numbers and flags of a background."""
    used = ~sky.filled
    rms = float(np.median(sky.rms))
    ratio = float(np.median(sky.rms[used] / sky.err[used])) if used.any() else np.nan
    rows, columns = _bands(sky.lines, rms)
    numbers = {
        "sky_e": float(np.median(value.level)),
        "sky_rms_e": float(np.median(value.rms)),
        "box_size_px": sky.box_size_px,
        "level_err_e": value.level_err,
        "source_fraction": sky.source_fraction,
        "filled_fraction": float(sky.filled.mean()),
        "extended_fraction": float(sky.objects.mean()),
        "crowded_fraction": sky.crowded,
        "err_ratio": ratio if np.isfinite(ratio) else None,
        "offset_e": offset,
        "band_rows": rows,
        "band_columns": columns,
    }
    poor = _poor(sky, limits.poor_fraction)
    flags = [
        *poor,
        *_steep(value, rms),
        # Between crowded stars it is their light that scatters.
        *([] if poor else _noise(ratio, limits.noise_ratio)),
        *_banded(rows, columns, limits.banding),
    ]
    return Result(value, tuple(flags), numbers)


def _bands(lines: LineSums, rms: float) -> tuple[float, float]:
    return (
        band_amplitude(lines.rows, lines.n_rows, rms),
        band_amplitude(lines.columns, lines.n_columns, rms),
    )


def _poor(sky: Sky, limit: float) -> list[tuple[str, str]]:
    worst = max(float(sky.filled.mean()), sky.crowded)
    if worst <= limit:
        return []
    text = (
        f"background: {worst:.0%} of {sky.filled.size} cells have too few sky pixels (limit "
        f"{limit:.0%}, settings: background.poor_fraction); their level comes from neighbours "
        "or holds light of sources."
    )
    return [("BKG_POOR", text)]


def _steep(value: Background, rms: float) -> list[tuple[str, str]]:
    low, high = (float(v) for v in np.percentile(value.level, (5, 95)))
    if high - low <= max(_STEEP_FRACTION * abs(float(np.median(value.level))), _STEEP_SIGMA * rms):
        return []
    text = (
        f"background: the sky goes from {low:.0f} to {high:.0f} electron over the frame; "
        "twilight, moonlight, cloud or a large object."
    )
    return [("SKY_BRIGHT", text)]


def _noise(ratio: float, limit: float) -> list[tuple[str, str]]:
    if not np.isfinite(ratio) or abs(ratio - 1) <= limit:
        return []
    text = (
        f"background: the sky scatters {ratio:.2f} times as much as its error plane says (limit "
        f"1 +- {limit:g}, settings: background.noise_ratio_limit); gain or read noise of the "
        "instrument file are wrong, or the pixels have been smoothed."
    )
    return [("NOISE_RATIO", text)]


def _banded(rows: float, columns: float, limit: float) -> list[tuple[str, str]]:
    if max(rows, columns) <= limit:
        return []
    what, amplitude = ("rows", rows) if rows >= columns else ("columns", columns)
    text = (
        f"background: the {what} carry a pattern of {amplitude:.2f} of the sky noise (limit "
        f"{limit:g}, settings: background.banding_limit); interference or a bad overscan."
    )
    return [("BANDING", text)]
