"""Stack the frames of one field and filter on the grid of the field.

Every frame is brought to the flux scale of the field's reference frame, resampled, and
averaged with inverse-variance weights after clipping against the noise model. The
error of a pixel follows from the squared kernel; the correlation between pixels that
resampling makes, and what the errors of masters have in common, is stored beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.errors import Outcome, Result, StepFailed
from skymill.frame import Frame
from skymill.steps.stack_bands import Bands, How, Totals
from skymill.steps.stack_header import stack_cards
from skymill.steps.stack_inputs import (
    FrameLost,
    Member,
    StackFrame,
    StackInput,
    StackRows,
    member_of,
    members_on_grid,
    open_members,
    reference_exptime,
    select_frames,
    steady_throughputs,
)
from skymill.steps.stack_products import exposure_maps, noise_correlation, shared_terms
from skymill.steps.stack_selection import unknown_figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skymill.grid import Grid
    from skymill.steps.shared_errors import MasterCells, SharedPlanes
    from skymill.steps.stack_check import NoiseCheck

__all__ = ["StackFrame", "StackInput", "StackProduct", "StackRows", "select_frames", "stack"]


@dataclass(frozen=True)
class StackProduct:
    """A stack and what belongs to it.

    Parameters
    ----------
    frame : Frame
        SCI and ERR in electron of the reference exposure (header EXPTIME), MASK, WCS.
        Holes are NaN with NO_DATA.
    coverage, rejected : ndarray of uint16, shape (ny, nx)
        Frames that were used, and that were rejected.
    outcomes : tuple of Outcome
        One per input frame, sorted by frame id.
    noise_correlation : ndarray of float32, shape (11, 11)
        Mean correlation of the noise at lags (dy, dx) of -5 to 5 px, centre 1.
    correlation_map : ndarray of float32, shape (ceil(ny / 64), ceil(nx / 64))
        Correlation factor of large apertures in cells of 64 px; NaN where there is no
        data. The phase of the pixels drifts over a grid, and with it this factor.
    any_bits, all_bits : ndarray of uint16, shape (ny, nx)
        Mask bits of any, and of all, frames that cover the pixel.
    shared : ndarray of float32, shape of the correlation map, or None
        Error of empty sky that frames have in common (electron), part of ERR; None if the
        masters are not known.
    maps : mapping of str to ndarray of float32, shape (ny, nx)
        What was asked for of ``exposure`` (s), ``depth`` (mag), ``seeing`` (px).
    """

    frame: Frame
    coverage: NDArray[np.uint16]
    outcomes: tuple[Outcome, ...]
    noise_correlation: NDArray[np.float32]
    correlation_map: NDArray[np.float32]
    rejected: NDArray[np.uint16]
    any_bits: NDArray[np.uint16]
    all_bits: NDArray[np.uint16]
    shared: NDArray[np.float32] | None
    maps: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Task:
    """Settings of one stack, handed to its parts."""

    grid: Grid
    how: How
    engine: str
    kernel: str
    convention: str
    exptime: float
    match: Literal["off", "offset", "plane"]
    maps: tuple[str, ...]
    noise_check: int
    masters: Mapping[str, MasterCells] | None
    max_clipped: float
    select: Mapping[str, Any] | None
    scratch: str | Path | None


def stack(
    inputs: Sequence[StackInput],
    grid: Grid,
    *,
    engine: str = "skymill",
    kernel: str = "",
    convention: Literal["flux", "surface_brightness"] = "flux",
    combine: Literal["clipped", "weighted", "median", "mean", "sum"] = "clipped",
    clip_sigma: float = 4.5,
    grow_sigma: float = 2.5,
    structure_tolerance: float = 0.03,
    seeing_tolerance: float = 0.3,
    weights: Literal["depth", "depth_seeing"] = "depth_seeing",
    seeing_exponent: float = 1.0,
    max_fwhm_ratio: float = 3.0,
    minimum_throughput: float = 0.1,
    select: Mapping[str, Any] | None = None,
    max_clipped_fraction: float = 0.01,
    match_background: Literal["off", "offset", "plane"] = "off",
    maps: Sequence[str] = (),
    noise_check: int = 0,
    memory_mb: float = 1000.0,
    reference: str | None = None,
    masters: Mapping[str, MasterCells] | None = None,
    scratch: str | Path | None = None,
    threads: int = 1,
    enabled: bool = True,
    pixel_scale_arcsec: float | None = None,
    orientation: str = "frame",
    max_mpix: float | None = None,
) -> Result[StackProduct]:
    """Return the combination of frames on a grid.

    Parameters
    ----------
    inputs : sequence of StackInput
        Frames of one field and filter, in any order.
    grid : Grid
        Grid of the field; frames that it rejected are left out and named.
    engine, kernel : str
        What resamples, and how: a key and a value of `skymill.engines.ENGINES`.
    convention : {"flux", "surface_brightness"}
        ``flux``: values are multiplied by the pixel-area ratio, so that sums over a
        source are kept. ``surface_brightness``: values per pixel of the frame are kept.
    combine : {"clipped", "weighted", "median", "mean", "sum"}
        Inverse-variance weighted mean clipped against the noise model, or not clipped;
        median; plain mean; sum (the mean times the number of frames, so that holes in
        single frames do not change the level).
    clip_sigma, grow_sigma : float
        Threshold in sigma of the noise model; threshold beside a rejected pixel.
    structure_tolerance, seeing_tolerance : float
        Tolerance as a fraction of the range of the 7 x 7 neighbourhood, and what a frame of
        other seeing is granted beside it, see
        `skymill.steps.stack_bands.structure_tolerances`.
    weights : {"depth", "depth_seeing"}
        Weights are inverse variances, or these times ``FWHM**-seeing_exponent``.
    seeing_exponent : float
        See `weights`.
    max_fwhm_ratio, minimum_throughput : float
        Frames with worse seeing (relative to the median) or less throughput are left out.
    select : mapping, optional
        Further limits on the quality of frames, see `skymill.steps.stack_selection`.
    max_clipped_fraction : float
        Frames of which more is clipped are flagged CLIPPED_MUCH.
    match_background : {"off", "offset", "plane"}
        Match the levels of overlapping frames.
    maps : sequence of str
        Of ``exposure``, ``depth``, ``seeing``.
    noise_check : int
        Realisations of white noise that check the errors; 0 for none.
    memory_mb : float
        Bounds the resampled planes held at a time.
    reference : str, optional
        Frame whose exposure time the stack refers to; by default, or if it is not
        used, the lower median of the exposure times.
    masters : mapping, optional
        Errors of the masters that the frames' calibrations name.
    scratch : str or Path, optional
        Folder for temporary files of an engine.
    threads : int
        Frames resampled at a time by the engine skymill. The result does not depend on it.
    enabled, pixel_scale_arcsec, orientation, max_mpix : bool, float, str, float
        Not used here: they belong to the plan and to `skymill.grid`, but are settings of
        this step, which is given all of them.

    Returns
    -------
    Result of StackProduct

    Raises
    ------
    StepFailed
        NO_FRAMES if no frame is left: the outcomes tell why; ALL_MASKED without a good
        pixel; what the engine raises.
    """
    del enabled, pixel_scale_arcsec, orientation, max_mpix
    if combine not in ("clipped", "weighted", "median", "mean", "sum"):
        raise ValueError(f"combine must be clipped, weighted, median, mean, sum, got {combine!r}")
    chosen, outcomes = select_frames(
        inputs,
        grid,
        max_fwhm_ratio=max_fwhm_ratio,
        minimum_throughput=minimum_throughput,
        select=select,
    )
    how = How(
        combine, clip_sigma, grow_sigma, structure_tolerance, seeing_tolerance, memory_mb,
        threads if engine == "skymill" else 1,  # others keep state or run programs
    )  # fmt: skip
    task = _Task(
        grid, how, engine, kernel, convention, reference_exptime(chosen, reference),
        match_background, tuple(maps), noise_check, masters, max_clipped_fraction, select, scratch,
    )  # fmt: skip
    exponent = seeing_exponent if weights == "depth_seeing" else 0.0
    steady = steady_throughputs(chosen)
    members = [member_of(item, task.exptime, exponent, steady) for item in chosen]
    members, missed = members_on_grid(members, grid, convention)
    outcomes += missed
    return _combined(task, members, outcomes, len(inputs))


def _combined(
    task: _Task, members: list[Member], outcomes: list[Outcome], n_inputs: int
) -> Result[StackProduct]:
    """Open and combine the frames; begin again without a frame that cannot be read."""
    members, missed = open_members(
        members, task.grid, engine=task.engine, kernel=task.kernel,
        convention=task.convention, scratch=task.scratch,
    )  # fmt: skip
    outcomes = outcomes + missed
    try:
        while members:
            try:
                return _finished(task, members, outcomes)
            except FrameLost as lost:
                reason = (lost.code, str(lost))
                outcomes.append(Outcome(lost.frame_id, "stack", "rejected", *reason))
                for member in members:
                    if member.source.frame_id == lost.frame_id and member.warp is not None:
                        member.warp.close()
                members = [m for m in members if m.source.frame_id != lost.frame_id]
    finally:
        for member in members:
            if member.warp is not None:
                member.warp.close()
    first = f": {outcomes[0].frame_id}: {outcomes[0].message}" if outcomes else ": there was none"
    text = f"none of {n_inputs} frames could be stacked{first}"
    raise StepFailed("NO_FRAMES", text, n_frames=n_inputs)


def _finished(task: _Task, members: list[Member], outcomes: list[Outcome]) -> Result[StackProduct]:
    """Combine open frames and put the product together."""
    levels: dict[str, float] = {}
    if task.match != "off" and len(members) > 1:
        from skymill.steps.stack_background import match_levels

        levels = match_levels(members, task.grid.shape, task.match)
    check = _noise_check(task, members)
    exposures = exposure_maps(members) if task.maps else None
    bands = Bands(members, task.grid.shape, task.how, maps=exposures, check=check)
    totals = bands.run()
    if not (totals.planes.coverage > 0).any():
        raise StepFailed(
            "ALL_MASKED", f"no pixel of {len(members)} frames is good", n_frames=len(members)
        )
    used = [
        _used_outcome(member, int(totals.used[i]), int(totals.clipped[i]), task)
        for i, member in enumerate(members)
    ]
    return _product(task, members, totals, [*outcomes, *used], (levels, check))


def _noise_check(task: _Task, members: list[Member]) -> NoiseCheck | None:
    if not task.noise_check:
        return None
    from skymill.steps.stack_check import NoiseCheck

    return NoiseCheck(
        members, task.grid, task.noise_check, engine=task.engine, kernel=task.kernel,
        convention=task.convention, equal=task.how.equal, median=task.how.combine == "median",
    )  # fmt: skip


def _used_outcome(member: Member, used: int, clipped: int, task: _Task) -> Outcome:
    fraction = clipped / max(used + clipped, 1)
    flags = []
    if unknown := unknown_figures(member.source, task.select):
        text = f"{', '.join(unknown)} not known, so stack.select could not judge it"
        flags.append(("UNKNOWN_QUALITY", text))
    if used + clipped == 0:
        flags.append(("ALL_MASKED", "no good pixel of the frame lies on the grid"))
    if fraction > task.max_clipped:
        flags.append(
            (
                "CLIPPED_MUCH",
                f"{100 * fraction:.2f} % of its pixels were clipped, more than "
                f"{100 * task.max_clipped:g} %: a trail, a wrong flux scale or a false "
                "registration",
            )
        )
    if not member.throughput_known:
        flags.append(("ZP_RELATIVE", "no throughput is known, taken as that of the other frames"))
    if member.few_stars:
        flags.append(("FEW_STARS", member.few_stars))
    numbers = {
        "flux_scale": member.flux_scale,
        "clipped_fraction": fraction,
        "used_px": used,
        "map_error_px": member.mapping.error_px if member.mapping else None,
    }
    if task.match != "off":
        numbers["level_e"] = member.level[0]
    result = Result(None, tuple(flags), numbers)
    return Outcome.from_result(member.source.frame_id, "stack", result)


def _product(
    task: _Task,
    members: list[Member],
    totals: Totals,
    outcomes: list[Outcome],
    extras: tuple[dict[str, float], NoiseCheck | None],
) -> Result[StackProduct]:
    planes, grid = totals.planes, task.grid
    levels, check = extras
    median = task.how.combine == "median"
    correlation = noise_correlation(members, totals, median=median)
    factor = float(len(members)) if task.how.combine == "sum" else 1.0
    if factor != 1:
        planes.sci[...] *= np.float32(factor)
        planes.err[...] *= np.float32(factor)
    with np.errstate(invalid="ignore", divide="ignore"):
        local = np.sqrt(totals.white / totals.variance).astype(np.float32)
    whole = float(np.sqrt(max(float(correlation.astype(np.float64).sum()), 0.0)))
    if median and np.isfinite(local).any():
        # The map knows the mean stack; a median correlates less.
        local *= np.float32(whole / float(np.nanmedian(local)))
    checked = check.figures(planes.err, correlation, local, factor) if check else {}
    shared = shared_terms(members, task.masters, grid.shape, equal=task.how.equal)
    if shared is not None and shared.any:
        shared.add_to(planes.sci, planes.err, factor)
    header, numbers = _header(task, members, correlation, shared, factor)
    for name, value in {**checked, **levels}.items():
        numbers[name] = value
    for name, value in checked.items():
        if np.isfinite(value):
            key = f"NCHK{name.removeprefix('check_').upper()[:4]}"
            header[key] = (value, "noise realisations / claimed error")
    numbers["n_rejected"] = len(outcomes) - len(members)
    numbers["coverage_median"] = float(np.median(planes.coverage[planes.coverage > 0]))
    numbers["hole_fraction"] = float((planes.coverage == 0).mean())
    flags = []
    if not grid.celestial:
        flags.append(("WCS_RELATIVE", "the grid is that of a reference frame, not the sky"))
    if "zp" not in numbers:
        flags.append(("ZP_RELATIVE", "no absolute zero point; fluxes are on the reference's scale"))
    wanted = _maps(task, totals, correlation, header)
    if "depth" in wanted:
        numbers["depth_map_mag"] = float(np.nanmedian(wanted["depth"]))
    frame = Frame(planes.sci, planes.err, planes.mask, header, grid.wcs, "electron")
    apart = None
    if shared is not None:
        apart = (np.sqrt(np.maximum(shared.sky, 0)) * factor).astype(np.float32)
    product = StackProduct(
        frame, _locked(planes.coverage), tuple(sorted(outcomes, key=lambda o: o.frame_id)),
        _locked(correlation), _locked(local), _locked(planes.rejected),
        _locked(planes.any_bits), _locked(planes.all_bits), apart, wanted,
    )  # fmt: skip
    return Result(product, tuple(flags), numbers)


def _locked(plane: NDArray[Any]) -> NDArray[Any]:
    plane.flags.writeable = False
    return plane


def _header(
    task: _Task,
    members: list[Member],
    correlation: NDArray[np.float32],
    shared: SharedPlanes | None,
    factor: float,
) -> tuple[Any, dict[str, Any]]:
    scales = np.array([float(np.nanmedian(m.scale_nodes)) for m in members])  # type: ignore[arg-type]
    noise = np.array([float(np.median(m.noise_nodes)) for m in members])  # type: ignore[arg-type]
    weights = np.array([m.weight for m in members]) / (scales**2 * noise)
    if task.how.equal:
        weights = np.ones(len(members))
    error = None
    if shared is not None:
        error = factor * float(np.sqrt(max(float(np.median(shared.sky)), 0.0)))
    return stack_cards(
        [m.source for m in members],
        task.grid,
        scales=scales,
        weights=weights / weights.sum(),
        level_errs=np.array([m.level_err for m in members]),
        correlation=correlation,
        throughput_known=np.array([m.throughput_known and not m.few_stars for m in members]),
        exptime=task.exptime,
        convention=task.convention,
        combine=task.how.combine,
        engine=task.engine,
        kernel=members[0].warp.kernel if members[0].warp else task.kernel,
        shared=error,
    )


def _maps(
    task: _Task, totals: Totals, correlation: NDArray[np.float32], header: Any
) -> dict[str, NDArray[np.float32]]:
    """Maps that were asked for and can be made; a depth needs zero point and seeing."""
    out = {}
    if "exposure" in task.maps and totals.exposure is not None:
        out["exposure"] = totals.exposure
    if "seeing" in task.maps and totals.seeing is not None:
        out["seeing"] = totals.seeing
    if "depth" in task.maps and totals.seeing is not None and "ZP" in header:
        from skymill.steps.stack_check import depth_map

        out["depth"] = depth_map(
            totals.planes.err, totals.seeing, correlation,
            zp=float(header["ZP"]), exptime=float(header["EXPTIME"]),
        )  # fmt: skip
    return out
