"""Frames on their way into a stack: which are used, how each is mapped and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Outcome
from skymill.frame import Background, Frame, MaskBit
from skymill.resample import PixelMap, pixel_map, reproject_rows, resampled_correlation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.grid import Grid

__all__ = [
    "Member",
    "StackFrame",
    "StackInput",
    "member_of",
    "members_on_grid",
    "reference_exptime",
    "resample_member",
    "select_frames",
]


@dataclass(frozen=True)
class StackFrame:
    """Pixels of one frame: with its final mask, and its background."""

    frame: Frame
    background: Background


@dataclass(frozen=True)
class StackInput:
    """What is known of one frame, and how to get its pixels.

    Parameters
    ----------
    frame_id : str
        The frame.
    row : mapping
        Its row of the sheet; used: exptime_s, mjd_mid.
    wcs : astropy.wcs.WCS
        Solved world coordinates.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    photcal : mapping
        Its row of the photometric calibration; used: throughput, throughput_err, zp,
        zp_err, fwhm_px. Missing or NaN means unknown.
    load : callable
        Returns the `StackFrame`. Called once per band of the grid, so that memory does
        not grow with the number of frames.
    """

    frame_id: str
    row: Mapping[str, Any]
    wcs: WCS
    shape: tuple[int, int]
    photcal: Mapping[str, Any]
    load: Callable[[], StackFrame]

    def number(self, name: str) -> float:
        """A figure of the calibration, else of the sheet; NaN if unknown."""
        for source in (self.photcal, self.row):
            value = source.get(name)
            if isinstance(value, (int, float, np.integer, np.floating)) and np.isfinite(value):
                return float(value)
        return float("nan")


@dataclass
class Member:
    """A frame on its way into the stack."""

    source: StackInput
    flux_scale: float
    weight: float
    tolerance: float
    throughput_known: bool
    mapping: PixelMap | None = None
    rows: tuple[int, int] = (0, 0)
    scale_nodes: NDArray[np.float64] | None = None
    noise_nodes: NDArray[np.float64] | None = None
    level_err: float = 0.0
    correlation: NDArray[np.float64] | None = None


def select_frames(
    inputs: Sequence[StackInput],
    grid: Grid,
    *,
    max_fwhm_ratio: float,
    minimum_throughput: float,
) -> tuple[list[StackInput], list[Outcome]]:
    """Return the frames to stack, sorted, and the outcomes of the others.

    Parameters are those of `stack`. If no frame has a throughput all are taken as
    equally transparent; if some have, the others are left out with NO_ZP.
    """
    turned_away = {name: (code, text) for name, code, text in grid.rejected}
    good: list[StackInput] = []
    outcomes: list[Outcome] = []
    ordered = sorted(inputs, key=lambda item: item.frame_id)
    with_scale = any(np.isfinite(item.number("throughput")) for item in ordered)
    sizes = [item.number("fwhm_px") for item in ordered]
    median = float(np.median([v for v in sizes if v > 0])) if any(v > 0 for v in sizes) else np.nan
    for item in ordered:
        fwhm, throughput = item.number("fwhm_px"), item.number("throughput")
        reason = turned_away.get(item.frame_id)
        if reason is None and not item.number("exptime_s") > 0:
            reason = ("MISSING_EXPTIME", "the exposure time is not known, so the flux scale is not")
        elif reason is None and with_scale and not np.isfinite(throughput):
            reason = ("NO_ZP", "its flux scale relative to the field's reference is not known")
        elif reason is None and throughput < minimum_throughput:
            reason = (
                "CLOUDY",
                f"throughput {throughput:.3f} of the reference frame, less than "
                f"stack.minimum_throughput = {minimum_throughput:g}",
            )
        elif reason is None and fwhm > max_fwhm_ratio * median:
            reason = (
                "POOR_SEEING",
                f"FWHM {fwhm:.2f} px is {fwhm / median:.2f} times the median {median:.2f} px, "
                f"more than stack.max_fwhm_ratio = {max_fwhm_ratio:g}",
            )
        if reason is None:
            good.append(item)
        else:
            outcomes.append(Outcome(item.frame_id, "stack", "rejected", *reason))
    return good, outcomes


def reference_exptime(inputs: Sequence[StackInput], reference: str | None) -> float:
    """Exposure time of the reference frame, else the lower median (s)."""
    times = sorted(item.number("exptime_s") for item in inputs)
    for item in inputs:
        if item.frame_id == reference:
            return item.number("exptime_s")
    return times[(len(times) - 1) // 2] if times else float("nan")


def member_of(source: StackInput, exptime: float, seeing_exponent: float) -> Member:
    """Return a frame with its flux scale ``t_ref / (t T)`` and the factor of its weight."""
    throughput = source.number("throughput")
    known = bool(np.isfinite(throughput))
    scale = exptime / source.number("exptime_s") / (throughput if known else 1.0)
    fwhm = source.number("fwhm_px")
    weight = fwhm**-seeing_exponent if fwhm > 0 else float("nan")
    relative = source.number("throughput_err") / throughput if known else 0.0
    return Member(source, scale, weight, relative if np.isfinite(relative) else 0.0, known)


def members_on_grid(
    members: list[Member], grid: Grid, convention: str
) -> tuple[list[Member], list[Outcome]]:
    """Map each frame; leave out what does not reach the grid."""
    kept, outcomes = [], []
    for member in members:
        mapping = pixel_map(grid.wcs, grid.shape, member.source.wcs)
        member.rows = mapping.rows_reached(member.source.shape)
        if member.rows[0] >= member.rows[1]:
            text = "the frame does not reach the grid of the field"
            outcomes.append(
                Outcome(member.source.frame_id, "stack", "rejected", "NO_OVERLAP", text)
            )
            continue
        member.mapping = mapping
        area = mapping.area if convention == "flux" else np.ones_like(mapping.area)
        member.scale_nodes = np.ascontiguousarray(member.flux_scale * area)
        member.correlation = resampled_correlation(mapping)
        kept.append(member)
    known = [m.weight for m in kept if np.isfinite(m.weight)]
    typical = float(np.median(known)) if known else 1.0
    for member in kept:
        if not np.isfinite(member.weight):
            member.weight = typical
    return kept, outcomes


def _noise_nodes(pixels: StackFrame, mapping: PixelMap) -> NDArray[np.float64]:
    """Smooth background-only variance at the nodes, electron^2.

    From the measured scatter of the background; a mesh without a positive scatter
    falls back to the error plane.
    """
    background = pixels.background
    variance = background.rms.astype(np.float64) ** 2
    good = np.isfinite(variance) & (variance > 0)
    if not good.all():
        frame = pixels.frame
        fill = (
            np.median(variance[good])
            if good.any()
            else np.median(frame.err[frame.good].astype(np.float64)) ** 2
        )
        variance = np.where(good, variance, fill if np.isfinite(fill) and fill > 0 else 1.0)
    my, mx = variance.shape
    box = background.box_size_px
    fx = np.clip(np.nan_to_num((mapping.x + 0.5) / box - 0.5), 0, mx - 1)
    fy = np.clip(np.nan_to_num((mapping.y + 0.5) / box - 0.5), 0, my - 1)
    ix, iy = np.minimum(fx.astype(int), max(mx - 2, 0)), np.minimum(fy.astype(int), max(my - 2, 0))
    jx, jy = np.minimum(ix + 1, mx - 1), np.minimum(iy + 1, my - 1)
    fx, fy = fx - ix, fy - iy
    low = variance[iy, ix] * (1 - fx) + variance[iy, jx] * fx
    high = variance[jy, ix] * (1 - fx) + variance[jy, jx] * fx
    return np.ascontiguousarray(low * (1 - fy) + high * fy)


def resample_member(
    member: Member,
    grid: Grid,
    row0: int,
    planes: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]],
) -> None:
    """Fill one frame's planes (signal, variance, k2, mask) of a band of rows."""
    from skymill.kernels.resample import resample_band

    pixels = member.source.load()
    frame, mapping = pixels.frame, member.mapping
    assert mapping is not None
    if frame.shape != tuple(member.source.shape):
        raise ValueError(
            f"{member.source.frame_id}: the frame has shape {frame.shape}, "
            f"its entry says {member.source.shape}"
        )
    if member.noise_nodes is None:
        member.noise_nodes = _noise_nodes(pixels, mapping)
        member.level_err = float(pixels.background.level_err)
    # Bad pixels are excluded by their mask; their value must not leak through rounding.
    image = np.where(frame.good, frame.sci - pixels.background.level_map(), np.float32(0))
    rows, nx = planes[0].shape
    raw = reproject_rows(image, member.source.wcs, grid.wcs, row0=row0, shape=(rows, nx))
    holes = np.where(np.isfinite(frame.sci), frame.err, np.float32(np.nan))
    resample_band(
        raw,
        holes,
        frame.mask,
        mapping.x,
        mapping.y,
        member.scale_nodes,
        mapping.step,
        row0,
        int(MaskBit.bad()),
        int(MaskBit.EDGE),
        int(MaskBit.NO_DATA),
        *planes,
    )
