"""Comparing the frames of a group with each other: noise, odd levels, uneven frames."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.robust import clipped_mean_std

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.steps.masters_intake import Intake

__all__ = [
    "ROUGH_VALUES",
    "AmplifierNoise",
    "frame_noise",
    "noise_between",
    "pair_noise",
    "reject_odd_levels",
    "shortest_half",
]

#: Pixels of a pair of frames, and of all pairs, that the noise is measured from: 0.1 %.
PAIR_VALUES, ALL_VALUES = 60_000, 1_000_000
#: Pixels of a pair that are enough for tolerances.
ROUGH_VALUES = 10_000
#: Sampled pixels of all frames that levels are compared with.
COMPARED_VALUES = 800_000


@dataclass(frozen=True)
class AmplifierNoise:
    """Noise of a pixel without light, by amplifier.

    Parameters
    ----------
    measured : tuple of float
        From differences of frames (ADU), NaN where it cannot be measured.
    adu : tuple of float
        Measured, or for want of that the declared one (ADU).
    """

    measured: tuple[float, ...]
    adu: tuple[float, ...]

    @property
    def typical_adu(self) -> float:
        """Root mean square of the amplifiers (ADU)."""
        return float(np.sqrt(np.mean(np.square(self.adu))))


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


def pair_noise(samples: NDArray[np.float32], most: int = PAIR_VALUES) -> float:
    """Noise of a pixel from differences of neighbouring frames (ADU).

    Parameters
    ----------
    samples : ndarray, shape (frames, pixels)
        The same pixels of each frame.
    most : int
        Largest number of pixels of a pair that are used.

    Returns
    -------
    float
        Root of the median over pairs of (clipped variance of the difference) / 2;
        NaN for fewer than two frames or no pixel. The fixed pattern cancels.
    """
    n, pixels = samples.shape
    if n < 2 or pixels < 2:
        return np.nan
    step = max(1, pixels // min(most, max(ALL_VALUES // (n - 1), 1000)))
    spread = [
        clipped_mean_std(after.astype(np.float64) - before, 4.0, 5, 0.4)[1]
        for before, after in itertools.pairwise(samples[:, ::step])
    ]
    return float(np.sqrt(np.median(np.square(spread)) / 2))


def noise_between(intake: Intake, most: int = PAIR_VALUES) -> AmplifierNoise:
    """Noise between the frames of a group, see `pair_noise`, by amplifier."""
    amplifiers = intake.amplifiers
    measured = tuple(pair_noise(intake.samples(amp), most) for amp in range(len(amplifiers)))
    adu = tuple(
        value if value > 0 else float(np.sqrt(one.dark_variance_adu2))
        for value, one in zip(measured, amplifiers, strict=True)
    )
    return AmplifierNoise(tuple(v if v > 0 else np.nan for v in measured), adu)


def frame_noise(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Noise of each frame by itself (ADU), from its scatter about the mean of the others.

    Parameters
    ----------
    samples : ndarray, shape (frames, pixels)
        The same pixels of each frame.

    Returns
    -------
    ndarray, shape (frames,)
        NaN for fewer than three frames.

    Notes
    -----
    With the variances ``v_i`` of ``N`` frames and their sum ``S`` the difference of a
    frame and the mean of the others has the variance ``v_i (1 - 1/(N-1)^2) + S/(N-1)^2``;
    the sum over the frames gives ``S``, that each ``v_i``.
    """
    n = len(samples)
    if n < 3 or samples.shape[1] < 2:
        return np.full(n, np.nan)
    part = samples[:, :: max(1, samples.shape[1] // min(PAIR_VALUES, max(ALL_VALUES // n, 1000)))]
    # hits in one frame must not make the others noisy: the median stands in at outliers
    middle = np.median(part, axis=0)
    scale = pair_noise(part)
    tame = np.clip(part.astype(np.float64), middle - 5 * scale, middle + 5 * scale)
    total = tame.sum(axis=0)
    spread = np.array(
        [clipped_mean_std(values - (total - values) / (n - 1), 5.0, 3, 0.4)[1] for values in tame]
    )
    share = 1.0 / (n - 1) ** 2
    whole = (spread**2).sum() / (1 - share + n * share)
    return np.asarray(np.sqrt(np.maximum((spread**2 - share * whole) / (1 - share), 0.0)))


def reject_odd_levels(
    intake: Intake,
    tolerance_sigma: float,
    noise_adu: float,
    jump_code: str,
    expected: Mapping[str, NDArray[np.floating[Any]]] | None = None,
) -> list[tuple[str, str]]:
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
    expected : mapping, optional
        By frame id, boxes of signal that is known to differ between the frames (ADU),
        shape (boxes, side, side); it is taken off before the comparison.

    Returns
    -------
    list of (code, message)
        Two frames that contradict each other: nothing tells which one is wrong.
    """
    frames = list(intake.loaded)
    stack = np.stack([frame.sample for frame in frames])
    if expected is not None:
        stack -= np.stack([expected[frame.source.frame_id] for frame in frames])
    stack = stack.reshape(*stack.shape[:2], -1)
    stack = stack[:, :, :: -(-stack.size // COMPARED_VALUES)]
    if len(frames) < 2 or not np.isfinite(stack).all(axis=0).any():
        return []
    if len(frames) == 2:
        gap = clipped_mean_std(stack[1] - stack[0], 4.0, 3, 0.3)[0]
        if abs(gap) <= tolerance_sigma * 0.1 * noise_adu:
            return []
        return [(jump_code, f"the two frames differ by {gap:.1f} ADU; take more frames.")]
    usual = np.median(stack, axis=0)  # NaN where a frame has no value
    typical_level = clipped_mean_std(usual, 4.0, 3, 0.3)[0]
    both = np.array([clipped_mean_std(values - usual, 4.0, 3, 0.3) for values in stack])
    levels, scatter = both[:, 0], both[:, 1]
    centre, sigma = shortest_half(levels)
    limit = tolerance_sigma * max(sigma, 0.1 * noise_adu)
    typical, width = shortest_half(scatter)
    spread_limit = max(tolerance_sigma * width, 0.2 * typical)
    off = np.abs(levels - centre) > limit
    steps = np.array([_unevenness(part - usual, intake.boxes, noise_adu) for part in stack])
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
    return []


def _unevenness(
    residual: NDArray[np.floating[Any]], boxes: Sequence[tuple[int, int, int]], noise: float
) -> float:
    """Range of the mean level over rows, columns or amplifiers of boxes (ADU)."""
    finite = np.isfinite(residual)
    if not finite.any():
        return 0.0
    filled = np.where(finite, residual, np.median(residual[finite])).astype(np.float64)
    centre = np.median(filled, axis=1, keepdims=True)
    # medians of integers jump; a mean around them, without the tails, does not
    level = centre[:, 0] + np.clip(filled - centre, -4 * noise, 4 * noise).mean(axis=1)
    worst = 0.0
    at = np.array(boxes)
    for axis in (0, 1):
        groups = [np.median(level[at[:, axis] == start]) for start in np.unique(at[:, axis])]
        worst = max(worst, float(np.ptp(groups)))
    amplifiers = [np.median(level[at[:, 2] == amp]) for amp in np.unique(at[:, 2])]
    return max(worst, float(np.ptp(amplifiers)))
