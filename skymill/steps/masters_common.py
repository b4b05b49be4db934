"""What the three kinds of master have in common: intake, comparison, combination.

A master is made in two passes. The first reads every frame once, measures its overscan
and keeps a sample of boxes for statistics. Frames that do not fit the group are
rejected and named. The second combines the others in bands of rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.errors import Outcome, ScienceFailure
from skymill.frame import MaskBit, Master, has_bits
from skymill.kernels.combine import Combined, Terms, combine
from skymill.robust import clipped_mean_std
from skymill.steps.masters_intake import (
    Intake,
    LoadedFrame,
    MasterFailed,
    RawInput,
    box_corners,
    check_master,
    sample_plane,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

#: Rejected fraction above which a frame is named; the noise model expects below 0.0005.
CLIPPED_MUCH = 0.02
#: Mask bits of masters that a corrected frame inherits.
PERMANENT = MaskBit.HOT | MaskBit.COLD | MaskBit.DEAD | MaskBit.LOW_FLAT


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
