"""The first pass over the raw frames of a master: read, check, sample, keep or drop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.assembly import Exposure, assemble
from skymill.errors import FrameRejected, Outcome, ScienceFailure, StepFailed
from skymill.pixel_store import PixelStore, StoredPixels
from skymill.readout import Images, Readout, as_images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.frame import Master
    from skymill.overscan import OverscanLevel
    from skymill.readout import Amplifier

__all__ = [
    "Intake",
    "LoadedFrame",
    "MasterFailed",
    "RawInput",
    "box_layout",
    "check_master",
    "sample_plane",
]

#: Largest and smallest side of the boxes that statistics are made of (px), and their
#: number along an axis of the frame.
BOX_PX, SMALL_PX, BOXES = 40, 12, 9
#: Largest number of sampled pixels of all frames together.
SAMPLE_VALUES = 8_000_000

Box = tuple[int, int, int]


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
        Returns the raw image (native uint16 or float32, shape (ny, nx)) or the images by
        HDU, and the header. May raise `FrameRejected`. Called once.
    """

    frame_id: str
    row: Mapping[str, Any]
    read: Callable[[], tuple[NDArray[Any] | Images, fits.Header]]


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
        Amplifiers, gain, noise.
    levels : tuple of OverscanLevel
        Electronic level of each amplifier. A level that is not one per row is kept as
        its mean; it has been subtracted from the pixels.
    sample : ndarray of float32, shape (boxes, side, side)
        Overscan-subtracted boxes (ADU), NaN where saturated or not finite.
    parts : list of StoredPixels
        The pixels of each amplifier: raw values, or if ``prepared`` without their level
        and free of crosstalk, infinite where saturated.
    prepared : bool
        See ``parts``.
    saturated_fraction : float
        Fraction of the sample at or above saturation.
    dark_card_s : object
        Value of the card DARKTIME.
    numbers, flags
        For the outcome.
    """

    source: RawInput
    readout: Readout
    levels: tuple[OverscanLevel, ...]
    sample: NDArray[np.float32]
    parts: list[StoredPixels]
    prepared: bool
    saturated_fraction: float
    dark_card_s: Any = None
    numbers: dict[str, Any] = field(default_factory=dict)
    flags: list[tuple[str, str]] = field(default_factory=list)

    @property
    def overscan(self) -> OverscanLevel:
        """Level of the first amplifier."""
        return self.levels[0]

    @property
    def exptime_s(self) -> float:
        """Exposure time (s), NaN if unknown."""
        value = self.source.row.get("exptime_s")
        return np.nan if value is None else float(value)

    @property
    def darktime_s(self) -> float:
        """Time in which dark charge was collected (s): the card, or the exposure time."""
        told = self.dark_card_s
        good = isinstance(told, (int, float)) and not isinstance(told, bool)
        # a value that was left over from another frame helps nobody
        if good and self.exptime_s <= told <= 2 * self.exptime_s + 60:
            return float(told)
        return self.exptime_s

    def row_level(self, amp: int) -> NDArray[np.float64]:
        """Level still inside the pixels of an amplifier (ADU), one value per row."""
        ny = self.readout.amplifiers[amp].place.shape[0]
        if self.prepared:
            return np.zeros(ny)
        return np.array(np.broadcast_to(self.levels[amp].level[:, 0], ny))

    def saturation(self, amp: int) -> float:
        """Pixels of an amplifier at or above it are saturated."""
        return np.inf if self.prepared else self.readout.amplifiers[amp].saturation_adu

    def image(self) -> NDArray[np.float32]:
        """Return the whole frame without its level (ADU), NaN where saturated."""
        out = np.empty(self.readout.shape, np.float32)
        for amp, one in enumerate(self.readout.amplifiers):
            raw = self.parts[amp].rows(0, one.place.shape[0])
            good = (raw < self.saturation(amp)) & np.isfinite(raw)
            out[one.place.slices] = np.where(good, raw - self.row_level(amp)[:, None], np.nan)
        return out


def box_layout(readout: Readout, n_frames: int = 1) -> tuple[list[Box], int]:
    """Return the sample boxes of a frame and their side.

    Parameters
    ----------
    readout : Readout
        How the frame was read.
    n_frames : int
        Frames of the group: the more there are, the smaller are the boxes, then the
        fewer, so that all samples together stay within 8 million pixels.

    Returns
    -------
    boxes : list of tuple
        Lower corner and amplifier ``(y, x, amplifier)`` of each box; none straddles two
        amplifiers.
    side : int
        Side (px).
    """
    places = [one.place for one in readout.amplifiers]
    share = SAMPLE_VALUES // max(n_frames, 1)
    side = int(np.clip(int((share / BOXES**2) ** 0.5), SMALL_PX, BOX_PX))
    side = min(side, *(size for place in places for size in place.shape))
    for most in range(BOXES, 0, -1):
        boxes = [
            (place.y0 + y, place.x0 + x, amp)
            for amp, place in enumerate(places)
            for y in _starts(place.shape[0], readout.shape[0], side, most)
            for x in _starts(place.shape[1], readout.shape[1], side, most)
        ]
        if len(boxes) * side**2 <= share:
            break
    return boxes, side


def _starts(size: int, whole: int, side: int, most: int) -> list[int]:
    """Evenly spread starts of boxes along an axis of an amplifier."""
    number = max(1, min(round(most * size / whole), size // side))
    return [int(v) for v in np.linspace(0, size - side, number).round()]


def sample_plane(plane: NDArray[Any], boxes: Sequence[Box], side: int) -> NDArray[np.float32]:
    """Return the boxes of a plane, shape (boxes, side, side)."""
    return np.stack([plane[y : y + side, x : x + side] for y, x, _ in boxes]).astype(np.float32)


class Intake:
    """The first pass over the frames of a group. Every file is opened once.

    Parameters
    ----------
    step : str
        Name of the step, for outcomes.
    frames : sequence of RawInput
        The group.
    overscan : mapping
        Settings of `skymill.overscan.fit_overscan`.
    memory_mb : float
        Memory for raw pixels. If those of the whole group need more they go to a
        scratch file.
    electronics : mapping, optional
        Linearity and crosstalk of the instrument, see `skymill.readout.Readout.from_row`.
    scratch : str or Path, optional
        Folder for the scratch file.

    Attributes
    ----------
    loaded : list of LoadedFrame
        Frames that are still in the group.
    failures : dict
        Why the others are not, by frame id.
    """

    def __init__(
        self,
        step: str,
        frames: Sequence[RawInput],
        overscan: Mapping[str, Any],
        memory_mb: float,
        electronics: Mapping[str, Any] | None = None,
        scratch: str | Path | None = None,
    ) -> None:
        self.step = step
        self.inputs = list(frames)
        self.electronics = electronics
        self.store = PixelStore(memory_mb * 1e6, scratch)
        self.loaded: list[LoadedFrame] = []
        self.failures: dict[str, ScienceFailure] = {}
        for source in self.inputs:
            try:
                self.loaded.append(self._load(source, overscan))
            except ScienceFailure as failure:
                self.failures[source.frame_id] = failure
        self._same_size()

    def _load(self, source: RawInput, overscan: Mapping[str, Any]) -> LoadedFrame:
        raw_images, header = source.read()
        images = as_images(raw_images, source.row)
        exposure = assemble(images, source.row, overscan=overscan, electronics=self.electronics)
        readout, levels = exposure.readout, exposure.levels
        prepared = bool(readout.crosstalk) or any(one.level.shape[1] > 1 for one in levels)
        sample, saturated = self._sample(exposure, images)
        self._has_values(exposure, sample, saturated)
        raw = [_own(exposure.pixels[one.place.slices]) for one in readout.amplifiers]
        if prepared:
            raw = [_prepared(exposure, images, amp) for amp in range(len(raw))]
        if not self.store.parts:
            self.store.expect(sum(part.nbytes for part in raw) * len(self.inputs))
        loaded = LoadedFrame(
            source=source, readout=readout, levels=tuple(_compact(one) for one in levels),
            sample=sample, parts=[self.store.put(part) for part in raw],
            prepared=prepared, saturated_fraction=float(saturated.mean()),
            dark_card_s=header.get("DARKTIME"),
        )  # fmt: skip
        if any(one.overscans for one in readout.amplifiers):
            noise = np.array([one.noise_adu for one in levels])
            loaded.numbers["overscan_adu"] = float(np.mean([one.mean_adu for one in levels]))
            loaded.numbers["overscan_noise_adu"] = float(np.sqrt(np.nanmean(noise**2)))
        return loaded

    def _sample(
        self, exposure: Exposure, images: Images
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Boxes without their level, NaN where not usable, and where they are saturated."""
        boxes, side = box_layout(exposure.readout, len(self.inputs))
        values, full = [], []
        for y, x, amp in boxes:
            one = exposure.readout.amplifiers[amp]
            at = np.s_[y : y + side, x : x + side]
            inside = np.s_[y - one.place.y0 :, x - one.place.x0 :]
            level = np.broadcast_to(exposure.levels[amp].level, one.place.shape)
            box = exposure.pixels[at].astype(np.float64)
            # crosstalk moves values; saturation is that of the raw ones
            raw = one.cut(images[one.hdu])[inside][:side, :side]
            full.append(raw >= one.saturation_adu)
            box -= level[inside][:side, :side]
            box[full[-1] | ~np.isfinite(box)] = np.nan
            values.append(box.astype(np.float32))
        return np.stack(values), np.stack(full)

    def _has_values(
        self, exposure: Exposure, sample: NDArray[np.float32], saturated: NDArray[np.bool_]
    ) -> None:
        good = sample[np.isfinite(sample)]
        if good.size == 0 and not saturated.any():
            raise FrameRejected("ALL_NAN", "no pixel has a value.")
        first = exposure.pixels[:1, :1]
        if good.size and good.min() == good.max() and (exposure.pixels == first).all():
            raise FrameRejected("CONSTANT", f"all pixels are {first[0, 0]}.")

    def _same_size(self) -> None:
        if not self.loaded:
            return
        places = [tuple(one.place for one in frame.readout.amplifiers) for frame in self.loaded]
        shapes = [
            (frame.readout.shape, place) for frame, place in zip(self.loaded, places, strict=True)
        ]
        usual = Counter(shapes).most_common(1)[0][0]
        for frame, shape in zip(list(self.loaded), shapes, strict=True):
            if shape[0] != usual[0]:
                self.reject(
                    frame, "WRONG_SIZE",
                    f"{shape[0]} px (y, x), most of the group has {usual[0]}.",
                )  # fmt: skip
            elif shape != usual:
                self.reject(
                    frame, "WRONG_SIZE",
                    f"{len(shape[1])} amplifiers, or at other places than in most of the "
                    f"group, which has {len(usual[1])}.",
                )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of the assembled frames."""
        return self.loaded[0].readout.shape

    @property
    def amplifiers(self) -> tuple[Amplifier, ...]:
        """Amplifiers as the first frame describes them."""
        return self.loaded[0].readout.amplifiers

    @property
    def boxes(self) -> list[Box]:
        """Lower corner and amplifier ``(y, x, amplifier)`` of each sample box."""
        return box_layout(self.loaded[0].readout, len(self.inputs))[0]

    @property
    def side(self) -> int:
        """Side of the sample boxes (px)."""
        return box_layout(self.loaded[0].readout, len(self.inputs))[1]

    def sample_plane(self, plane: NDArray[Any]) -> NDArray[np.float32]:
        """Return the boxes of a plane of the assembled frame, shape (boxes, side, side)."""
        boxes, side = box_layout(self.loaded[0].readout, len(self.inputs))
        return sample_plane(plane, boxes, side)

    def of_amplifier(self, amp: int | None) -> NDArray[np.bool_]:
        """Which boxes belong to an amplifier (all for None), shape (boxes,)."""
        return np.array([amp is None or box[2] == amp for box in self.boxes])

    def reject(self, frame: LoadedFrame, code: str, message: str, **numbers: Any) -> None:
        """Take a frame out of the group."""
        self.loaded.remove(frame)
        for part in frame.parts:
            self.store.drop(part)
        self.failures[frame.source.frame_id] = FrameRejected(
            code, f"{self.step}: {message}", **frame.numbers, **numbers
        )

    def samples(self, amp: int | None = None) -> NDArray[np.float32]:
        """Sample of all frames at the pixels valid in each, shape (frames, pixels).

        Parameters
        ----------
        amp : int, optional
            Only the boxes of this amplifier.
        """
        use = self.of_amplifier(amp)
        stack = np.stack([frame.sample[use].ravel() for frame in self.loaded])
        valid = np.isfinite(stack).all(axis=0)
        if valid.all():
            return stack
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


def _own(part: NDArray[Any]) -> NDArray[Any]:
    """Return the pixels without the rest of the raw image that a view would keep alive."""
    whole = part.flags.c_contiguous and (
        part.base is None or getattr(part.base, "nbytes", -1) == part.nbytes
    )
    return part if whole else part.copy()


def _prepared(exposure: Exposure, images: Images, amp: int) -> NDArray[np.float32]:
    """Pixels of an amplifier without their level, infinite where saturated."""
    one = exposure.readout.amplifiers[amp]
    out = (exposure.pixels[one.place.slices] - exposure.levels[amp].level).astype(np.float32)
    out[one.cut(images[one.hdu]) >= one.saturation_adu] = np.inf
    return out


def _compact(level: OverscanLevel) -> OverscanLevel:
    """A level of one value per row at most; planes of many frames would fill the memory."""
    if level.level.shape[1] == 1 and level.variance.shape[1] == 1:
        return level
    mean = np.full((1, 1), level.level.mean())
    return replace(level, level=mean, variance=np.full((1, 1), level.variance.mean()))


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
