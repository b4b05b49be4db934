"""The first pass over the raw frames of a master: read, check, sample, keep or drop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import FrameRejected, Outcome, ScienceFailure, StepFailed
from skymill.readout import OverscanLevel, Readout, fit_overscan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.frame import Master

__all__ = [
    "Intake",
    "LoadedFrame",
    "MasterFailed",
    "RawInput",
    "box_corners",
    "check_master",
    "sample_plane",
]

#: Side and largest number per axis of the boxes that statistics are made of.
BOX_PX, BOXES = 40, 9


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
