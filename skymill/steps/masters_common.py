"""What the three kinds of master have in common: intake, comparison, combination.

A master is made in two passes. The first reads every frame once, measures its overscan
and keeps a sample of boxes for statistics. Frames that do not fit the group are
rejected and named. The second combines the others in bands of rows.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.errors import FrameRejected, Outcome, ScienceFailure, StepFailed
from skymill.frame import MaskBit, Master, has_bits
from skymill.kernels.combine import Combined, Terms, combine
from skymill.readout import OverscanLevel, Readout, clipped_mean_std, fit_overscan

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Intake",
    "LoadedFrame",
    "MasterFailed",
    "MasterProduct",
    "RawInput",
    "check_master",
    "combine_frames",
    "pair_noise",
    "sample_plane",
    "shortest_half",
]

#: Side and largest number per axis of the boxes that statistics are made of.
BOX_PX, BOXES = 40, 9
#: Rejected fraction above which a frame is named; the noise model expects below 0.0005.
CLIPPED_MUCH = 0.02
#: Mask bits of masters that a corrected frame inherits.
PERMANENT = MaskBit.HOT | MaskBit.COLD | MaskBit.DEAD | MaskBit.LOW_FLAT


@dataclass(frozen=True, eq=False)
class RawInput:
    """A raw frame that has not been read yet.

    Parameters
    ----------
    frame_id : str
        Name of the frame.
    row : mapping
        Its row of the sheet.
    read : callable
        Returns the raw image (native uint16 or float32, shape (ny, nx)) and its header.
        May raise `FrameRejected`; called again if the frames do not fit into memory.
    """

    frame_id: str
    row: Mapping[str, Any]
    read: Callable[[], tuple[NDArray[Any], fits.Header]]


@dataclass(frozen=True, eq=False)
class MasterProduct:
    """A master, and what became of the frames that were meant for it.

    Parameters
    ----------
    master : Master
        The combined frame.
    outcomes : list of Outcome
        One per input, in the order of the inputs.
    numbers : dict
        Figures of the master.
    """

    master: Master
    outcomes: list[Outcome]
    numbers: dict[str, Any] = field(default_factory=dict)


class MasterFailed(StepFailed):
    """A master could not be made; carries the outcomes of its inputs.

    Parameters
    ----------
    code, message : str
        As for `StepFailed`.
    outcomes : sequence of Outcome
        One per input frame.
    **numbers
        Figures.
    """

    def __init__(
        self, code: str, message: str, outcomes: Sequence[Outcome], **numbers: Any
    ) -> None:
        super().__init__(code, message, **numbers)
        self.outcomes = list(outcomes)


@dataclass(eq=False)
class LoadedFrame:
    """A frame after the first pass.

    Attributes
    ----------
    source : RawInput
        Where it came from.
    readout : Readout
        Sections, gain, noise.
    overscan : OverscanLevel
        Its electronic level.
    sample : ndarray of float32, shape (boxes, side, side)
        Overscan-subtracted boxes (ADU), NaN where saturated or not finite.
    pixels : ndarray or None
        The trimmed raw image if there is memory for it.
    saturated_fraction : float
        Fraction of the sample at or above saturation.
    numbers, flags
        For the outcome.
    """

    source: RawInput
    readout: Readout
    overscan: OverscanLevel
    sample: NDArray[np.float32]
    pixels: NDArray[Any] | None
    saturated_fraction: float
    chunk_rows: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)
    flags: list[tuple[str, str]] = field(default_factory=list)
    _chunk: tuple[int, NDArray[Any]] | None = None

    def rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows of the trimmed raw image, reading the file again if need be."""
        if self.pixels is not None:
            kept: NDArray[Any] = self.pixels[y0:y1]
            return kept
        if self._chunk is None or not (
            self._chunk[0] <= y0 and y1 <= self._chunk[0] + len(self._chunk[1])
        ):
            image = self.readout.trim(self.source.read()[0])
            self._chunk = (y0, image[y0 : max(y1, y0 + self.chunk_rows)].copy())
        start, block = self._chunk
        part: NDArray[Any] = block[y0 - start : y1 - start]
        return part

    @property
    def exptime_s(self) -> float:
        """Exposure time (s), NaN if unknown."""
        value = self.source.row.get("exptime_s")
        return np.nan if value is None else float(value)


def box_corners(shape: tuple[int, int]) -> tuple[list[tuple[int, int]], int]:
    """Return the lower corners (y, x) and the side of the sample boxes of a frame."""
    side = min(BOX_PX, *shape)
    starts = []
    for size in shape:
        number = max(1, min(BOXES, size // side))
        starts.append([int(v) for v in np.linspace(0, size - side, number).round()])
    return [(y, x) for y in starts[0] for x in starts[1]], side


def sample_plane(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Return the boxes of a plane, shape (boxes, side, side)."""
    corners, side = box_corners((plane.shape[0], plane.shape[1]))
    boxes = [plane[y : y + side, x : x + side] for y, x in corners]
    return np.stack(boxes).astype(np.float32)


class Intake:
    """The first pass over the frames of a group.

    Parameters
    ----------
    step : str
        Name of the step, for outcomes.
    frames : sequence of RawInput
        The group.
    overscan : mapping
        Settings of `fit_overscan`.
    memory_mb : float
        Memory for raw pixels.
    """

    def __init__(
        self, step: str, frames: Sequence[RawInput], overscan: Mapping[str, Any], memory_mb: float
    ) -> None:
        self.step = step
        self.inputs = list(frames)
        self.memory = memory_mb * 1e6
        self.loaded: list[LoadedFrame] = []
        self.failures: dict[str, ScienceFailure] = {}
        for source in self.inputs:
            try:
                self.loaded.append(self._load(source, overscan))
            except ScienceFailure as failure:
                self.failures[source.frame_id] = failure
        self._same_size()

    def _load(self, source: RawInput, overscan: Mapping[str, Any]) -> LoadedFrame:
        raw, _ = source.read()
        readout = Readout.from_row(source.row, raw)
        level = fit_overscan(raw, readout, **overscan)
        image = readout.trim(raw)
        sample = sample_plane(image)
        corners, side = box_corners(readout.image.shape)
        offsets = np.stack([level.level[y : y + side, None] for y, _ in corners])
        saturated = sample >= readout.saturation_adu
        sample = np.where(saturated | ~np.isfinite(sample), np.nan, sample - offsets)
        good = sample[np.isfinite(sample)]
        if good.size == 0 and not saturated.any():
            raise FrameRejected("ALL_NAN", "no pixel has a value.")
        if good.size and good.min() == good.max() and image.min() == image.max():
            raise FrameRejected("CONSTANT", f"all pixels are {image[0, 0]}.")
        need = image.nbytes * len(self.inputs)
        chunk = max(1, int(self.memory / (len(self.inputs) * image[0].nbytes)))
        loaded = LoadedFrame(
            source=source, readout=readout, overscan=level, sample=sample.astype(np.float32),
            pixels=image.copy() if need <= self.memory else None,
            saturated_fraction=float(saturated.mean()), chunk_rows=chunk,
        )  # fmt: skip
        if readout.overscan is not None:
            loaded.numbers["overscan_adu"] = level.mean_adu
            loaded.numbers["overscan_noise_adu"] = level.noise_adu
        return loaded

    def _same_size(self) -> None:
        if not self.loaded:
            return
        shapes = Counter(frame.readout.image.shape for frame in self.loaded)
        usual = max(shapes, key=lambda shape: shapes[shape])
        for frame in list(self.loaded):
            if frame.readout.image.shape != usual:
                self.reject(
                    frame, "WRONG_SIZE",
                    f"{frame.readout.image.shape} px (y, x), most of the group has {usual}.",
                )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of the trimmed frames."""
        return self.loaded[0].readout.image.shape

    def reject(self, frame: LoadedFrame, code: str, message: str, **numbers: Any) -> None:
        """Take a frame out of the group."""
        self.loaded.remove(frame)
        frame.pixels = None
        self.failures[frame.source.frame_id] = FrameRejected(
            code, f"{self.step}: {message}", **frame.numbers, **numbers
        )

    def samples(self) -> NDArray[np.float32]:
        """Sample of all frames at the pixels valid in each, shape (frames, pixels)."""
        stack = np.stack([frame.sample.ravel() for frame in self.loaded])
        valid = np.isfinite(stack).all(axis=0)
        return stack[:, valid] if valid.any() else stack[:, :0]

    def require(self, minimum: int, name: str, code: str = "TOO_FEW") -> None:
        """Raise `MasterFailed` if fewer than ``minimum`` frames are left."""
        if len(self.loaded) >= max(minimum, 1):
            return
        reasons = Counter(failure.code for failure in self.failures.values())
        lost = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items())) or "none"
        group = f"group {name}" if name else "the group"
        raise self.failed(
            code,
            f"{group} has {len(self.loaded)} usable of {len(self.inputs)} frames, "
            f"needs {max(minimum, 1)} (settings: {self.step}.minimum). Rejected: {lost}. "
            "Take more frames or lower the minimum.",
            n_frames=len(self.inputs),
            n_used=len(self.loaded),
            minimum=minimum,
        )

    def failed(self, code: str, message: str, **numbers: Any) -> MasterFailed:
        """Return the failure of the whole group; frames that were sound are blocked by it."""
        text = f"{self.step}: {message}"
        return MasterFailed(code, text, self.outcomes(blocked=True), **numbers)

    def check(self, master: Master | None, kind: str) -> None:
        """Raise `MasterFailed` if a master does not fit the frames."""
        try:
            check_master(master, kind, "adu", self.shape)
        except FrameRejected as failure:
            raise self.failed(failure.code, failure.message) from None

    def outcomes(self, *, blocked: bool = False) -> list[Outcome]:
        """Return one outcome per input, in their order."""
        kept = {frame.source.frame_id: frame for frame in self.loaded}
        result = []
        for source in self.inputs:
            name = source.frame_id
            if name in self.failures:
                result.append(Outcome.from_failure(name, self.step, self.failures[name]))
                continue
            frame = kept[name]
            codes = ";".join(dict.fromkeys(code for code, _ in frame.flags))
            text = " ".join(message for _, message in frame.flags)
            status = "degraded" if frame.flags else "ok"
            if blocked:
                status, codes = "blocked", "MASTER_FAILED"
                text = "the frame is sound, but its master could not be made."
            result.append(Outcome(name, self.step, status, codes, text, dict(frame.numbers)))
        return result


def shortest_half(values: NDArray[Any]) -> tuple[float, float]:
    """Centre and robust sigma from the shortest interval that holds half of the values.

    Unlike median and MAD it stays with one camp when the values fall into two.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Finite values, n > 0.

    Returns
    -------
    centre, sigma : float
        Sigma is enlarged by ``1 + 4/n``: half-samples of few values are too narrow.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n = ordered.size
    half = max((n + 1) // 2, 1)
    widths = ordered[half - 1 :] - ordered[: n - half + 1]
    start = int(np.argmin(widths))
    inside = ordered[start : start + half]
    return float(np.median(inside)), float(widths[start]) / 2 / 0.6745 * (1 + 4 / n)


def pair_noise(samples: NDArray[np.float32]) -> float:
    """Noise of a pixel from differences of neighbouring frames (ADU).

    Parameters
    ----------
    samples : ndarray, shape (frames, pixels)
        The same pixels of each frame.

    Returns
    -------
    float
        Root of the median over pairs of (clipped variance of the difference) / 2;
        NaN for fewer than two frames or no pixel. The fixed pattern cancels.
    """
    if len(samples) < 2 or samples.shape[1] < 2:
        return np.nan
    spread = [
        clipped_mean_std(after.astype(np.float64) - before, 4.0, 5, 0.4)[1]
        for before, after in itertools.pairwise(samples)
    ]
    return float(np.sqrt(np.median(np.square(spread)) / 2))


def reject_odd_levels(
    intake: Intake, tolerance_sigma: float, noise_adu: float, jump_code: str
) -> None:
    """Reject frames whose level, scatter or evenness does not fit their group.

    Parameters
    ----------
    intake : Intake
        The group; changed.
    tolerance_sigma : float
        Tolerance in robust sigma of the group, which is at least a tenth of the noise.
    noise_adu : float
        Noise of a pixel.
    jump_code : str
        Code for several frames at one other level, and for a step within a frame.
    """
    frames = list(intake.loaded)
    stack = intake.samples().astype(np.float64)
    if len(frames) < 3 or stack.shape[1] == 0:
        return
    median = np.median(stack, axis=0)
    typical_level = clipped_mean_std(median, 4.0, 3, 0.3)[0]
    both = np.array([clipped_mean_std(values - median, 4.0, 3, 0.3) for values in stack])
    levels, scatter = both[:, 0], both[:, 1]
    centre, sigma = shortest_half(levels)
    limit = tolerance_sigma * max(sigma, 0.1 * noise_adu)
    typical, width = shortest_half(scatter)
    spread_limit = max(tolerance_sigma * width, 0.2 * typical)
    off = np.abs(levels - centre) > limit
    boxes = np.stack([frame.sample for frame in frames])
    boxes = boxes.reshape(*boxes.shape[:2], -1)
    usual = np.median(boxes, axis=0)
    steps = np.array([_unevenness(part - usual, intake.shape, noise_adu) for part in boxes])
    step_centre, step_sigma = shortest_half(steps)
    step_limit = max(limit, step_centre + tolerance_sigma * step_sigma)
    for i, frame in enumerate(frames):
        frame.numbers["level_adu"] = float(typical_level + levels[i])
        frame.numbers["scatter_adu"] = float(scatter[i])
        if off[i]:
            # one level shared by several frames is a jump of the electronics
            together = (np.abs(levels[off] - levels[i]) <= limit).sum() > 1
            intake.reject(
                frame, jump_code if together else "BAD_LEVEL",
                f"the level differs by {levels[i] - centre:+.1f} ADU from the group, "
                f"tolerance {limit:.1f} ADU ({tolerance_sigma:g} robust sigma).",
                level_offset_adu=float(levels[i] - centre),
            )  # fmt: skip
        elif abs(scatter[i] - typical) > spread_limit:
            intake.reject(
                frame, "BAD_LEVEL",
                f"the scatter about the group is {scatter[i]:.2f} ADU, that of the others "
                f"{typical:.2f} ADU.",
            )  # fmt: skip
        elif steps[i] > step_limit:
            intake.reject(
                frame, jump_code,
                f"parts of the frame differ by {steps[i]:.1f} ADU from the group's pattern, "
                f"tolerance {step_limit:.1f} ADU.",
            )  # fmt: skip


def _unevenness(residual: NDArray[np.float64], shape: tuple[int, int], noise: float) -> float:
    """Range of the mean level over rows, or over columns, of boxes (ADU)."""
    corners, _ = box_corners(shape)
    rows = len({y for y, _ in corners})
    finite = np.isfinite(residual)
    if not finite.any():
        return 0.0
    filled = np.where(finite, residual, np.median(residual[finite]))
    centre = np.median(filled, axis=1, keepdims=True)
    # medians of integers jump; a mean around them, without the tails, does not
    near = np.clip(filled - centre, -4 * noise, 4 * noise).mean(axis=1)
    grid = (centre[:, 0] + near).reshape(rows, -1)
    return float(max(np.ptp(np.median(grid, axis=1)), np.ptp(np.median(grid, axis=0))))


class _LostFrameError(Exception):
    """A frame could be read in the first pass, but not in the second."""

    def __init__(self, frame: LoadedFrame, failure: ScienceFailure) -> None:
        super().__init__(str(failure))
        self.frame = frame
        self.failure = failure


def _reader(frame: LoadedFrame) -> Callable[[int, int], NDArray[Any]]:
    def read(y0: int, y1: int) -> NDArray[Any]:
        try:
            return frame.rows(y0, y1)
        except ScienceFailure as failure:
            raise _LostFrameError(frame, failure) from None

    return read


def combine_frames(
    intake: Intake,
    terms: Callable[[Sequence[LoadedFrame]], Terms],
    minimum: int,
    name: str,
    **options: Any,
) -> Combined:
    """Second pass: combine what is left, dropping frames that can no longer be read."""
    while True:
        intake.require(minimum, name)
        frames = list(intake.loaded)
        readers = [_reader(frame) for frame in frames]
        try:
            combined = combine(readers, intake.shape, terms(frames), **options)
        except _LostFrameError as lost:
            intake.loaded.remove(lost.frame)
            intake.failures[lost.frame.source.frame_id] = lost.failure
            continue
        for frame, fraction in zip(frames, combined.rejected, strict=True):
            frame.numbers["rejected_fraction"] = float(fraction)
            if options.get("method", "clipped") == "clipped" and fraction > CLIPPED_MUCH:
                text = (
                    f"{100 * fraction:.1f} % of the pixels were rejected against the noise "
                    "model; look at this frame."
                )
                frame.flags.append(("CLIPPED_MUCH", text))
        return combined


def base_header(
    kind: str, name: str, intake: Intake, combined: Combined, method: str
) -> fits.Header:
    """Cards common to all masters."""
    readout = intake.loaded[0].readout
    header = fits.Header()
    header["IMAGETYP"] = (f"MASTER {kind.upper()}", "kind of frame")
    if name:
        header["MASTERID"] = (name, "name of this master")
    header["NCOMBINE"] = (len(intake.loaded), "frames combined")
    header["COMBINE"] = (method, "estimator")
    header["GAIN"] = (readout.gain_e_adu, "[electron/adu] declared gain")
    header["RDNOISE"] = (readout.read_noise_e, "[electron] declared read noise")
    header["OVSCAN"] = (intake.loaded[0].overscan.method, "overscan: statistic and fit")
    header["TRIMSEC"] = (str(readout.image), "section of the raw image")
    header["MAXREJ"] = (float(combined.rejected.max()), "largest rejected fraction of a frame")
    return header


def base_mask(combined: Combined) -> NDArray[np.uint16]:
    """Mask of the combination: no value, or values in conflict."""
    mask = np.zeros(combined.value.shape, np.uint16)
    mask[~np.isfinite(combined.value)] |= np.uint16(MaskBit.NO_DATA)
    mask[combined.conflict] |= np.uint16(MaskBit.COSMIC)
    return mask


def check_master(master: Master | None, kind: str, unit: str, shape: tuple[int, int]) -> None:
    """Refuse a master of the wrong unit or size.

    Raises
    ------
    FrameRejected
        ``WRONG_SIZE``; the message names both sizes or both units.
    """
    if master is None:
        return
    if master.unit != unit:
        raise FrameRejected(
            "WRONG_SIZE", f"the master {kind} has unit {master.unit!r}, expected {unit!r}."
        )
    if master.shape != shape:
        raise FrameRejected(
            "WRONG_SIZE",
            f"the master {kind} has {master.shape} px (y, x), the trimmed frame {shape}.",
        )


def stack_terms(
    frames: Sequence[LoadedFrame], quiet: float | None = None, gain: float | None = None
) -> Terms:
    """Levels and noise of frames; ``quiet`` and ``gain`` replace the declared figures."""
    noise = [
        (frame.readout.dark_variance_adu2 if quiet is None else quiet)
        + float(frame.overscan.variance.mean())
        for frame in frames
    ]
    return Terms(
        level=np.stack([frame.overscan.level for frame in frames]),
        noise=np.array(noise),
        gain=np.array([frame.readout.gain_e_adu if gain is None else gain for frame in frames]),
        saturation=np.array([frame.readout.saturation_adu for frame in frames]),
    )


def with_changes(terms: Terms, **changes: Any) -> Terms:
    """Return terms with some entries replaced."""
    return replace(terms, **changes)


def permanent(master: Master | None, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Bits of a master that everything corrected with it inherits."""
    if master is None:
        return np.zeros(shape, np.uint16)
    return master.mask & np.uint16(PERMANENT)


def good_median(plane: NDArray[np.float32], mask: NDArray[np.uint16]) -> float:
    """Median of the finite pixels without a disqualifying bit; NaN if there is none."""
    good = np.isfinite(plane) & ~has_bits(mask, MaskBit.bad())
    return float(np.median(plane[good])) if good.any() else np.nan
