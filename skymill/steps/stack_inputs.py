"""Frames on their way into a stack: which are used, how each is read, mapped and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.engines import Rows, Warp, open_warp
from skymill.errors import Outcome, ScienceFailure, SkymillError, StepFailed
from skymill.frame import Background, Frame, MaskBit
from skymill.resample import PixelMap, pixel_map
from skymill.steps.stack_selection import choose_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.grid import Grid
    from skymill.steps.shared_errors import Calibration

__all__ = [
    "FrameLost",
    "FrameSource",
    "Member",
    "StackFrame",
    "StackInput",
    "StackRows",
    "member_of",
    "members_on_grid",
    "open_members",
    "reference_exptime",
    "select_frames",
    "steady_throughputs",
]

#: A throughput from so few stars is believed only if it agrees with the other frames.
_FEW_STARS = 2
#: It agrees within this many of its errors, and at least within this many magnitudes.
_AGREES_SIGMA, _AGREES_MAG = 3.0, 0.1


class FrameLost(SkymillError):
    """The pixels of a frame cannot be read: the stack goes on without it."""

    def __init__(self, frame_id: str, code: str, message: str) -> None:
        super().__init__(message)
        self.frame_id = frame_id
        self.code = code


class StackRows(NamedTuple):
    """Some rows of a calibrated frame with its final mask; the background is still in it."""

    sci: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]


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
        Its row of the sheet; used: exptime_s, mjd_mid, read_noise_e, saturation_e, ...
    wcs : astropy.wcs.WCS
        Solved world coordinates.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    photcal : mapping
        Its row of the photometric calibration; used: throughput, throughput_err, zp,
        zp_err, fwhm_px, n_reference. Missing or NaN means unknown.
    load : callable, optional
        Returns the `StackFrame`: for frames in memory, or if there is no ``read``.
    read : callable, optional
        Returns the `StackRows` from row ``y0`` to ``y1 - 1``. Called for the rows that a
        band of the grid needs, so that memory does not grow with the number of frames.
    background : callable, optional
        Returns the background; called once. Goes with ``read``.
    calibration : Calibration, optional
        Masters of the frame, see `skymill.steps.shared_errors`.
    """

    frame_id: str
    row: Mapping[str, Any]
    wcs: WCS
    shape: tuple[int, int]
    photcal: Mapping[str, Any]
    load: Callable[[], StackFrame] | None = None
    read: Callable[[int, int], StackRows] | None = None
    background: Callable[[], Background] | None = None
    calibration: Calibration | None = None

    def number(self, name: str) -> float:
        """A figure of the calibration, else of the sheet; NaN if unknown."""
        for source in (self.photcal, self.row):
            value = source.get(name)
            if isinstance(value, (int, float, np.integer, np.floating)) and np.isfinite(value):
                return float(value)
        return float("nan")


class FrameSource:
    """Rows of a frame as an engine wants them: without background, bad pixels marked.

    Parameters
    ----------
    source : StackInput
        The frame.

    Raises
    ------
    FrameLost
        If its background or, later, its pixels cannot be read.
    """

    def __init__(self, source: StackInput) -> None:
        self.source = source
        self.shape = (int(source.shape[0]), int(source.shape[1]))
        found = self._guarded(source.background or (lambda: self._loaded().background))
        self.background: Background = found
        if self.background.shape != self.shape:
            raise ValueError(
                f"{source.frame_id}: the frame has shape {self.background.shape}, "
                f"its entry says {self.shape}"
            )
        self._spline: Any = None

    def rows(self, y0: int, y1: int) -> Rows:
        """Return the rows ``y0`` to ``y1 - 1``."""
        from skymill.kernels.stack_rows import prepare_rows

        read = self.source.read or self._from_memory
        found = self._guarded(lambda: read(y0, y1))
        shape = (y1 - y0, self.shape[1])
        if found.sci.shape != shape:
            raise ValueError(
                f"{self.source.frame_id}: the frame has rows of shape {found.sci.shape}, "
                f"its entry says {shape}"
            )
        value, err = np.empty(shape, np.float32), np.empty(shape, np.float32)
        mask = np.empty(shape, np.uint16)
        bits = (np.uint16(int(MaskBit.bad())), np.uint16(int(MaskBit.NO_DATA)))
        prepare_rows(*found, self._level(y0, y1), *bits, value, err, mask)
        return Rows(value, err, mask)

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Turn what is wrong with one file into the loss of one frame."""
        try:
            return action()
        except ScienceFailure as failure:
            raise FrameLost(self.source.frame_id, failure.code, failure.message) from None
        except (OSError, SkymillError) as error:
            text = f"the frame cannot be read ({type(error).__name__}: {error})"
            raise FrameLost(self.source.frame_id, "UNREADABLE", text) from None

    def _loaded(self) -> StackFrame:
        if self.source.load is None:
            raise ValueError(f"{self.source.frame_id}: no way to read the pixels was given")
        return self.source.load()

    def _from_memory(self, y0: int, y1: int) -> StackRows:
        frame = self._loaded().frame
        if frame.shape != self.shape:
            raise ValueError(
                f"{self.source.frame_id}: the frame has shape {frame.shape}, "
                f"its entry says {self.shape}"
            )
        return StackRows(frame.sci[y0:y1], frame.err[y0:y1], frame.mask[y0:y1])

    def _level(self, y0: int, y1: int) -> NDArray[np.float32]:
        """Background of some rows, electron."""
        background, (ny, nx) = self.background, self.shape
        if background.model != "mesh":
            from skymill.kernels.polynomial import polynomial_at

            u = (2 * np.arange(nx) + 1.0) / nx - 1
            v = (2 * np.arange(y0, y1) + 1.0) / ny - 1
            coefficients = np.array(background.coefficients)
            out = polynomial_at(coefficients, u[None, :], v[:, None])
            return np.ascontiguousarray(np.broadcast_to(out, (y1 - y0, nx)), np.float32)
        if background.box_size_px == 1:
            return np.ascontiguousarray(background.level[y0:y1], np.float32)
        from skymill.kernels.mesh import mesh_spline
        from skymill.kernels.stack_rows import expand_rows

        if self._spline is None:
            level = background.level.astype(np.float64)
            self._spline = tuple(mesh_spline(level, self.shape, background.box_size_px))
        return expand_rows(self._spline, y0, y1, nx)


@dataclass
class Member:
    """A frame on its way into the stack."""

    source: StackInput
    flux_scale: float
    weight: float
    tolerance: float
    throughput_known: bool
    few_stars: str = ""
    mapping: PixelMap | None = None
    rows: tuple[int, int] = (0, 0)
    scale_nodes: NDArray[np.float64] | None = None
    noise_nodes: NDArray[np.float64] | None = None
    level_err: float = 0.0
    pixels: FrameSource | None = None
    warp: Warp | None = None
    level: tuple[float, float, float] = (0.0, 0.0, 0.0)


def select_frames(
    inputs: Sequence[StackInput],
    grid: Grid,
    *,
    max_fwhm_ratio: float,
    minimum_throughput: float,
    select: Mapping[str, Any] | None = None,
) -> tuple[list[StackInput], list[Outcome]]:
    """Return the frames to stack, sorted, and the outcomes of the others.

    Parameters are those of `stack`; see `skymill.steps.stack_selection.choose_frames`.
    """
    return choose_frames(
        inputs,
        rejected=grid.rejected,
        max_fwhm_ratio=max_fwhm_ratio,
        minimum_throughput=minimum_throughput,
        select=select,
    )


def reference_exptime(inputs: Sequence[StackInput], reference: str | None) -> float:
    """Exposure time of the reference frame, else the lower median (s)."""
    times = sorted(item.number("exptime_s") for item in inputs)
    for item in inputs:
        if item.frame_id == reference:
            return item.number("exptime_s")
    return times[(len(times) - 1) // 2] if times else float("nan")


def steady_throughputs(inputs: Sequence[StackInput]) -> dict[str, tuple[float, str]]:
    """Return throughputs that replace those from one or two stars, and why.

    One or two stars can be variable, saturated or wrongly matched, and their error says
    nothing of that. Such a throughput is kept if it agrees with the median of the frames
    that have more stars, else that median is taken.

    Parameters
    ----------
    inputs : sequence of StackInput
        The frames; used: throughput, throughput_err, n_reference (stars of the
        throughput), n_stars if that is not known.

    Returns
    -------
    dict
        Frame id to (throughput, sentence) of each frame with few stars.
    """
    few, values = [], []
    for item in inputs:
        value, err = item.number("throughput"), item.number("throughput_err")
        stars = item.number("n_reference")
        stars = stars if np.isfinite(stars) else item.number("n_stars")
        if not value > 0:
            continue
        if 0 < stars <= _FEW_STARS and err != 0:  # the reference frame has no error
            few.append((item.frame_id, value, err, int(stars)))
        else:
            values.append(value)
    out: dict[str, tuple[float, str]] = {}
    median = float(np.median(values)) if values else float("nan")
    for name, value, err, stars in few:
        text = f"its throughput {value:.3f} comes from {stars} star{'s' * (stars > 1)} only"
        error_mag = 1.0857 * err / value if err > 0 else 0.0
        if not values:
            out[name] = (value, f"{text}, and no frame has more")
        elif abs(2.5 * np.log10(value / median)) <= max(_AGREES_SIGMA * error_mag, _AGREES_MAG):
            out[name] = (value, f"{text}; it agrees with the median {median:.3f} of the others")
        else:
            out[name] = (median, f"{text} and contradicts the others; their median {median:.3f} "
                         "was taken")  # fmt: skip
    return out


def member_of(
    source: StackInput,
    exptime: float,
    seeing_exponent: float,
    steady: Mapping[str, tuple[float, str]] | None = None,
) -> Member:
    """Return a frame with its flux scale ``t_ref / (t T)`` and the factor of its weight."""
    throughput = source.number("throughput")
    known = bool(np.isfinite(throughput))
    relative = source.number("throughput_err") / throughput if known else 0.0
    relative = relative if np.isfinite(relative) else 0.0
    text = ""
    if steady and source.frame_id in steady:
        throughput, text = steady[source.frame_id]
        relative = max(relative, _AGREES_MAG / 1.0857)
    scale = exptime / source.number("exptime_s") / (throughput if known else 1.0)
    fwhm = source.number("fwhm_px")
    weight = fwhm**-seeing_exponent if fwhm > 0 else float("nan")
    if seeing_exponent == 0:
        weight = 1.0
    return Member(source, scale, weight, relative, known, text)


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
        kept.append(member)
    known = [m.weight for m in kept if np.isfinite(m.weight)]
    typical = float(np.median(known)) if known else 1.0
    for member in kept:
        if not np.isfinite(member.weight):
            member.weight = typical
    return kept, outcomes


def open_members(
    members: list[Member],
    grid: Grid,
    *,
    engine: str,
    kernel: str,
    convention: str,
    scratch: str | Path | None = None,
) -> tuple[list[Member], list[Outcome]]:
    """Open the frames; leave out what cannot be read or has no noise.

    Raises
    ------
    StepFailed
        What the engine raises, for example TOOL_MISSING.
    """
    kept, outcomes = [], []
    for member in members:
        source = member.source
        try:
            pixels = FrameSource(source)
            assert member.mapping is not None
            member.noise_nodes = _noise_nodes(pixels, member.mapping)
        except FrameLost as lost:
            outcomes.append(Outcome(lost.frame_id, "stack", "rejected", lost.code, str(lost)))
            continue
        except StepFailed as failure:
            reason = (failure.code, failure.message)
            outcomes.append(Outcome(source.frame_id, "stack", "rejected", *reason))
            continue
        member.pixels = pixels
        member.level_err = float(pixels.background.level_err)
        member.warp = open_warp(
            engine, kernel, pixels, source.wcs, grid.wcs, grid.shape, mapping=member.mapping,
            flux_scale=member.flux_scale, convention=convention, scratch=scratch,
        )  # fmt: skip
        kept.append(member)
    return kept, outcomes


def _noise_nodes(pixels: FrameSource, mapping: PixelMap) -> NDArray[np.float64]:
    """Smooth background-only variance at the nodes, electron^2.

    From the measured scatter of the background; a cell without a positive scatter gets
    the median of the others.

    Raises
    ------
    StepFailed
        CONSTANT if no cell scatters: a blank frame would outweigh all others.
    """
    background = pixels.background
    variance = background.rms.astype(np.float64) ** 2
    good = np.isfinite(variance) & (variance > 0)
    if not good.any():
        raise StepFailed("CONSTANT", "the background does not scatter anywhere: a blank frame")
    if not good.all():
        variance = np.where(good, variance, np.median(variance[good]))
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
