"""Judging a master: its scatter against the noise model, unstable pixels, few frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.kernels.combine import Combined, Scatter
    from skymill.readout import Amplifier
    from skymill.steps.masters_intake import Intake

__all__ = ["ModelCheck", "check_model", "few_frames", "unstable_pixels"]

#: A pixel is unstable if this many standard deviations more scattered than the model,
Z_UNSTABLE = 6.0
#: or if this share of its values, and at least two, are outliers: cosmic rays are not
#: that faithful.
OUT_SHARE, OUT_LEAST = 0.2, 2
#: Fewer values of a pixel tell nothing of its stability.
ENOUGH = 5


@dataclass(frozen=True)
class ModelCheck:
    """Pooled sample variance over model variance, by amplifier.

    Parameters
    ----------
    ratios, errors : tuple of float
        Ratio and its standard error; NaN where nothing can be compared.
    names : tuple of str
        Amplifiers.
    """

    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    names: tuple[str, ...]

    @property
    def worst(self) -> int | None:
        """Number of the amplifier with the largest deviation."""
        off = [abs(ratio - 1) for ratio in self.ratios]
        return None if not np.isfinite(off).any() else int(np.nanargmax(off))

    @property
    def ratio(self) -> float | None:
        """Ratio of the worst amplifier."""
        return None if self.worst is None else self.ratios[self.worst]

    def flags(self, tolerance: float) -> tuple[tuple[str, str], ...]:
        """Flag MODEL_NOISE if the ratio is off by more than the tolerance and 3 errors."""
        if self.worst is None:
            return ()
        ratio, error = self.ratios[self.worst], self.errors[self.worst]
        if abs(ratio - 1) <= tolerance + 3 * error:
            return ()
        text = (
            f"the pixels of {self.names[self.worst]} scatter {np.sqrt(ratio):.2f} times as much "
            "as gain and read noise tell. Check both in the instrument file, and the frames."
        )
        return (("MODEL_NOISE", text),)


def check_model(
    intake: Intake,
    combined: Combined,
    mask: NDArray[np.uint16],
    factors: Sequence[float] | None = None,
) -> ModelCheck:
    """Compare the scatter of the values with the noise model, over all good pixels.

    Parameters
    ----------
    intake : Intake
        The group.
    combined : Combined
        Combination with its scatter.
    mask : ndarray of uint16, shape (ny, nx)
        Pixels with any bit are left out.
    factors : sequence of float, optional
        Model variance of the combination over that to compare with, by amplifier.

    Returns
    -------
    ModelCheck
        The ratio is ``sum chi^2 / sum (n - 1)``, over what an estimator other than the
        mean makes of it, with the standard error ``sqrt(2 / sum (n - 1))``.
    """
    amplifiers = intake.amplifiers
    names = tuple(one.label for one in amplifiers)
    nothing = ModelCheck((np.nan,) * len(names), (np.nan,) * len(names), names)
    if combined.scatter is None or len(intake.loaded) < 2:
        return nothing
    ratios, errors = [], []
    for amp, one in enumerate(amplifiers):
        ratio, error = _pooled(combined.scatter, mask, one)
        factor = 1.0 if factors is None else factors[amp]
        ratios.append(ratio * factor)
        errors.append(error * factor)
    return ModelCheck(tuple(ratios), tuple(errors), names)


def _pooled(scatter: Scatter, mask: NDArray[np.uint16], one: Amplifier) -> tuple[float, float]:
    at = one.place.slices
    n_in = scatter.n_in[at]
    use = (mask[at] == 0) & (n_in > 1)
    free = int(n_in[use].sum(dtype=np.int64)) - int(np.count_nonzero(use))
    if free < 1:
        return np.nan, np.nan
    total = float(scatter.chi2[at][use].sum(dtype=np.float64))
    return total / free / scatter.excess, float(np.sqrt(2 / free))


def unstable_pixels(combined: Combined, ratio: float | None = None) -> NDArray[np.bool_]:
    """Pixels whose values scatter beyond the noise model, such as telegraph noise.

    Parameters
    ----------
    combined : Combined
        Combination with its scatter.
    ratio : float, optional
        Pooled scatter of all pixels over the model: what is normal here.

    Returns
    -------
    ndarray of bool, shape (ny, nx)

    Notes
    -----
    The sum of squares is turned to a normal deviate by the cube root (Wilson and
    Hilferty 1931).
    """
    scatter = combined.scatter
    if scatter is None:
        return np.zeros(combined.value.shape, bool)
    n_in, n_out = scatter.n_in, scatter.n_out
    count = np.arange(int(n_in.max()) + 1)
    free = np.maximum(count - 1.0, 1.0)
    part = 2 / (9 * free)
    limit = free * (1 - part + Z_UNSTABLE * np.sqrt(part)) ** 3 * max(ratio or 1.0, 1.0)
    wild = scatter.chi2 > limit.astype(np.float32)[n_in]
    many = n_out >= OUT_LEAST
    wild[many] |= n_out[many] > OUT_SHARE * (n_in[many].astype(np.float64) + n_out[many])
    few = n_in < ENOUGH
    wild[few] &= n_in[few].astype(np.int64) + n_out[few] >= ENOUGH
    return np.asarray(wild)


def few_frames(intake: Intake) -> tuple[tuple[str, str], ...]:
    """Flag a master of one or two frames, in which no majority tells what an outlier is."""
    n = len(intake.loaded)
    if n > 2:
        return ()
    what = "one frame" if n == 1 else "two frames"
    text = f"made of {what} only: outliers cannot be told from good values. Take more frames."
    return (("FEW_FRAMES", text),)
