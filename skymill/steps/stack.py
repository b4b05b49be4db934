"""Stack the frames of one field and filter on the grid of the field.

Every frame is brought to the flux scale of the field's reference frame, resampled, and
averaged with inverse-variance weights after clipping against the noise model. The
error of a pixel follows from the squared kernel; the correlation between pixels that
resampling makes is stored beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.errors import Outcome, Result, StepFailed
from skymill.frame import Frame, MaskBit
from skymill.steps.stack_header import stack_cards
from skymill.steps.stack_inputs import (
    Member,
    StackFrame,
    StackInput,
    member_of,
    members_on_grid,
    reference_exptime,
    resample_member,
    select_frames,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from skymill.grid import Grid

__all__ = ["StackFrame", "StackInput", "StackProduct", "select_frames", "stack"]

#: Rows beside a band: growth looks one row further, the structure two.
_HALO = 3
_CELL_PX = 64
_MAJORITY = MaskBit.SATURATED | MaskBit.BLEED | MaskBit.NONLINEAR


@dataclass(frozen=True)
class StackProduct:
    """A stack and what belongs to it.

    Parameters
    ----------
    frame : Frame
        SCI and ERR in electron of the reference exposure (header EXPTIME), MASK, WCS.
        Holes are NaN with NO_DATA.
    coverage : ndarray of uint16, shape (ny, nx)
        Frames that were used.
    outcomes : tuple of Outcome
        One per input frame, sorted by frame id.
    noise_correlation : ndarray of float32, shape (11, 11)
        Mean correlation of the noise at lags (dy, dx) of -5 to 5 px, centre 1.
    correlation_map : ndarray of float32, shape (ceil(ny / 64), ceil(nx / 64))
        Correlation factor of large apertures in cells of 64 px; NaN where there is no
        data. The phase of the pixels drifts over a grid, and with it this factor.
    """

    frame: Frame
    coverage: NDArray[np.uint16]
    outcomes: tuple[Outcome, ...]
    noise_correlation: NDArray[np.float32]
    correlation_map: NDArray[np.float32]


def stack(
    inputs: Sequence[StackInput],
    grid: Grid,
    *,
    engine: Literal["reproject"] = "reproject",
    convention: Literal["flux", "surface_brightness"] = "flux",
    clip_sigma: float = 4.5,
    grow_sigma: float = 2.5,
    structure_tolerance: float = 0.3,
    seeing_exponent: float = 1.0,
    max_fwhm_ratio: float = 3.0,
    minimum_throughput: float = 0.1,
    max_clipped_fraction: float = 0.01,
    memory_mb: float = 1500.0,
    reference: str | None = None,
    enabled: bool = True,
    pixel_scale_arcsec: float | None = None,
    orientation: str = "frame",
    max_mpix: float | None = None,
) -> Result[StackProduct]:
    """Return the clipped, inverse-variance weighted mean of frames on a grid.

    Parameters
    ----------
    inputs : sequence of StackInput
        Frames of one field and filter, in any order.
    grid : Grid
        Grid of the field; frames that it rejected are left out and named.
    engine : {"reproject"}
        What resamples.
    convention : {"flux", "surface_brightness"}
        ``flux``: values are multiplied by the pixel-area ratio, so that sums over a
        source are kept. ``surface_brightness``: values per pixel of the frame are kept.
    clip_sigma, grow_sigma : float
        Threshold in sigma of the noise model; threshold beside a rejected pixel.
    structure_tolerance : float
        Tolerance for changing seeing, as a fraction of the range of the 5 x 5
        neighbourhood.
    seeing_exponent : float
        Weights are multiplied by ``FWHM**-seeing_exponent``.
    max_fwhm_ratio, minimum_throughput : float
        Frames with worse seeing (relative to the median) or less throughput are left out.
    max_clipped_fraction : float
        Frames of which more is clipped are flagged CLIPPED_MUCH.
    memory_mb : float
        Bounds the resampled planes held at a time.
    reference : str, optional
        Frame whose exposure time the stack refers to; by default, or if it is not
        used, the lower median of the exposure times.
    enabled, pixel_scale_arcsec, orientation, max_mpix : bool, float, str, float
        Not used here: they belong to the plan and to `skymill.grid.field_grid`, but
        are settings of this step, which is given all of them.

    Returns
    -------
    Result of StackProduct

    Raises
    ------
    StepFailed
        NO_FRAMES if no frame is left. `select_frames` tells why.
    """
    del enabled, pixel_scale_arcsec, orientation, max_mpix
    if engine != "reproject":
        raise ValueError(f"engine must be 'reproject', got {engine!r}")
    chosen, outcomes = select_frames(
        inputs, grid, max_fwhm_ratio=max_fwhm_ratio, minimum_throughput=minimum_throughput
    )
    exptime = reference_exptime(chosen, reference)
    members = [member_of(item, exptime, seeing_exponent) for item in chosen]
    members, missed = members_on_grid(members, grid, convention)
    outcomes += missed
    if not members:
        raise StepFailed(
            "NO_FRAMES",
            f"none of {len(inputs)} frames could be stacked: "
            + (outcomes[0].message if outcomes else "there was none"),
            n_frames=len(inputs),
        )
    planes = _Planes(grid.shape, len(members))
    for row0, rows in _bands(grid.shape, len(members), memory_mb):
        _stack_band(
            members,
            grid,
            planes,
            rows=(row0, rows),
            clip=(clip_sigma, grow_sigma, structure_tolerance),
        )
    if not (planes.coverage > 0).any():
        raise StepFailed(
            "ALL_MASKED", f"no pixel of {len(members)} frames is good", n_frames=len(members)
        )
    used = [
        _used_outcome(member, int(planes.used[i]), int(planes.clipped[i]), max_clipped_fraction)
        for i, member in enumerate(members)
    ]
    scale = {"exptime": exptime, "convention": convention}
    return _finish(members, grid, planes, [*outcomes, *used], scale)


class _Planes:
    """Output planes and counters of a stack."""

    def __init__(self, shape: tuple[int, int], n: int) -> None:
        self.sci = np.full(shape, np.nan, np.float32)
        self.err = np.full(shape, np.nan, np.float32)
        self.mask = np.full(shape, int(MaskBit.NO_DATA), np.uint16)
        self.coverage = np.zeros(shape, np.uint16)
        self.clipped = np.zeros(n, np.int64)
        self.used = np.zeros(n, np.int64)
        self.squares = np.zeros(n, np.float64)
        cells = tuple(-(-size // _CELL_PX) for size in shape)
        self.white = np.zeros(cells, np.float64)
        self.variance = np.zeros(cells, np.float64)


def _bands(shape: tuple[int, int], n: int, memory_mb: float) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each band.

    A row of the grid costs 13 bytes a pixel and frame, and about 100 bytes a pixel
    while a frame is resampled.
    """
    ny, nx = shape
    rows = int(memory_mb * 1e6 / (nx * (13 * n + 100))) - 2 * _HALO
    rows = min(max(rows, 16), ny)
    count = -(-ny // rows)
    rows = -(-ny // count)
    for row0 in range(0, ny, rows):
        yield row0, min(rows, ny - row0)


def _stack_band(
    members: list[Member],
    grid: Grid,
    planes: _Planes,
    *,
    rows: tuple[int, int],
    clip: tuple[float, float, float],
) -> None:
    """Resample and combine some rows; ``rows`` is the first one and their number."""
    from skymill.kernels.resample import smooth_rows
    from skymill.kernels.stack import combine_band

    row0, count = rows
    ny, nx = grid.shape
    top, end = max(row0 - _HALO, 0), min(row0 + count + _HALO, ny)
    index = [i for i, m in enumerate(members) if m.rows[0] < end and m.rows[1] > top]
    if not index:
        return
    height, n = end - top, len(index)
    values = np.empty((n, height, nx), np.float32)
    variances = np.empty((n, height, nx), np.float32)
    k2 = np.empty((n, height, nx), np.uint8)
    masks = np.empty((n, height, nx), np.uint16)
    scale = np.empty((n, height, (nx + 7) // 8), np.float32)
    noise = np.empty_like(scale)
    for k, i in enumerate(index):
        member = members[i]
        step = member.mapping.step  # type: ignore[union-attr]
        scale[k] = smooth_rows(member.scale_nodes, step, top, height, nx)
        resample_member(member, grid, top, (values[k], variances[k], k2[k], masks[k]))
        noise[k] = smooth_rows(member.noise_nodes, step, top, height, nx)
    # A scale that is not defined (beyond the mapping) is never used: no pixel is valid there.
    np.nan_to_num(scale, copy=False, nan=1.0)
    clipped, used = np.zeros(n, np.int64), np.zeros(n, np.int64)
    squares = np.zeros(n, np.float64)
    window = slice(row0, row0 + count)
    combine_band(
        values,
        variances,
        k2,
        masks,
        scale,
        noise,
        np.array([members[i].weight for i in index]),
        np.array([members[i].tolerance for i in index]),
        row0 - top,
        count,
        *clip,
        int(MaskBit.NO_DATA),
        int(MaskBit.COSMIC),
        int(_MAJORITY),
        planes.sci[window],
        planes.err[window],
        planes.mask[window],
        planes.coverage[window],
        clipped,
        used,
        squares,
        _CELL_PX,
        row0,
        planes.white,
        planes.variance,
    )
    planes.clipped[index] += clipped
    planes.used[index] += used
    planes.squares[index] += squares


def _used_outcome(member: Member, used: int, clipped: int, limit: float) -> Outcome:
    fraction = clipped / max(used + clipped, 1)
    flags = []
    if used + clipped == 0:
        flags.append(("ALL_MASKED", "no good pixel of the frame lies on the grid"))
    if fraction > limit:
        flags.append(
            (
                "CLIPPED_MUCH",
                f"{100 * fraction:.2f} % of its pixels were clipped, more than {100 * limit:g} %: "
                "a trail, a wrong flux scale or a false registration",
            )
        )
    if not member.throughput_known:
        flags.append(("ZP_RELATIVE", "no throughput is known, taken as that of the other frames"))
    numbers = {
        "flux_scale": member.flux_scale,
        "clipped_fraction": fraction,
        "used_px": used,
        "map_error_px": member.mapping.error_px if member.mapping else None,
    }
    result = Result(None, tuple(flags), numbers)
    return Outcome.from_result(member.source.frame_id, "stack", result)


def _finish(
    members: list[Member],
    grid: Grid,
    planes: _Planes,
    outcomes: list[Outcome],
    scale: dict[str, Any],
) -> Result[StackProduct]:
    share = planes.squares / planes.squares.sum()
    correlation = np.sum(
        [s * m.correlation for s, m in zip(share, members, strict=True)], axis=0
    ).astype(np.float32)
    scales = np.array([float(np.nanmedian(m.scale_nodes)) for m in members])  # type: ignore[arg-type]
    noise = np.array([float(np.median(m.noise_nodes)) for m in members])  # type: ignore[arg-type]
    weights = np.array([m.weight for m in members]) / (scales**2 * noise)
    header, numbers = stack_cards(
        [m.source for m in members],
        grid,
        scales=scales,
        weights=weights / weights.sum(),
        level_errs=np.array([m.level_err for m in members]),
        correlation=correlation,
        throughput_known=np.array([m.throughput_known for m in members]),
        **scale,
    )
    numbers["n_rejected"] = len(outcomes) - len(members)
    numbers["coverage_median"] = float(np.median(planes.coverage[planes.coverage > 0]))
    numbers["hole_fraction"] = float((planes.coverage == 0).mean())
    frame = Frame(planes.sci, planes.err, planes.mask, header, grid.wcs, "electron")
    planes.coverage.flags.writeable = False
    correlation.flags.writeable = False
    ordered = tuple(sorted(outcomes, key=lambda item: item.frame_id))
    flags = []
    if not grid.celestial:
        flags.append(("WCS_RELATIVE", "the grid is that of a reference frame, not the sky"))
    if "zp" not in numbers:
        flags.append(("ZP_RELATIVE", "no absolute zero point; fluxes are on the reference's scale"))
    with np.errstate(invalid="ignore"):
        local = np.sqrt(planes.white / planes.variance).astype(np.float32)
    local.flags.writeable = False
    product = StackProduct(frame, planes.coverage, ordered, correlation, local)
    return Result(product, tuple(flags), numbers)
