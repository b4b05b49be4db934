"""The second pass over flats: scaling, rejection of stars, shared errors, odd pixels."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.steps.flat_pixels import find_stars, nonlinear_pixels
from skymill.steps.flat_planes import Corrections, corrected_view
from skymill.steps.flat_selection import level_groups
from skymill.steps.masters_common import (
    Intake,
    LoadedFrame,
    combine_frames,
    stack_terms,
    with_changes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.kernels.combine import Combined, Terms
    from skymill.steps.flat_gain import Gains
    from skymill.steps.flat_statistics import LargeScale

__all__ = ["FlatRun"]

#: Neighbours of rejected pixels are judged by this threshold: wings of stars.
GROW_SIGMA = 2.5
#: Bright and faint flats are compared if the levels span this ratio and each group has so
#: many frames, of which stars and cosmic rays can be told.
NONLINEAR_RANGE, NONLINEAR_FRAMES = 2.0, 3
#: A pixel is not linear only if it is off by this many standard errors.
NONLINEAR_SIGMA = 6.0
#: A gain known better than this replaces the declared one in the noise model.
TRUSTED = 0.05


@dataclass(eq=False)
class FlatRun:
    """Combination of the flats that are left.

    Parameters
    ----------
    intake : Intake
        The group.
    planes : Corrections
        Bias, dark, linearity, relative gain.
    gains : Gains
        Measured gains; those that are well known set the noise.
    level_of : dict
        Level that each frame is divided by (ADU at the mean gain), by frame id.
    minimum, name
        For the failure if too few frames are left.
    options : dict
        Estimator and its thresholds.
    common : LargeScale or None
        Illumination to divide out.
    compared : bool
        Bright and faint flats could be compared.
    """

    intake: Intake
    planes: Corrections
    gains: Gains
    level_of: Mapping[str, float]
    minimum: int
    name: str
    options: Mapping[str, Any]
    common: LargeScale | None = None
    compared: bool = False
    _stars: list[dict[int, NDArray[np.int64]]] | None = field(default=None, repr=False)

    @property
    def levels(self) -> NDArray[np.float64]:
        """Levels of the frames (ADU at the mean gain)."""
        return np.array([self.level_of[one.source.frame_id] for one in self.intake.loaded])

    def combine(self, star_sigma: float) -> Combined:
        """Combine all frames.

        Parameters
        ----------
        star_sigma : float
            If positive, the frames are combined twice: stars are found in what single
            frames show beyond the first result, and left out of the second.

        Returns
        -------
        Combined
        """
        if star_sigma > 0 and len(self.intake.loaded) > 1:
            rough = self._of(None, silent=True)
            view = corrected_view(self.intake, self.planes, scale=self.common)
            terms = [
                self._terms(view.loaded, amp, prepared=True) for amp in range(self._amplifiers)
            ]
            self._stars = find_stars(view, rough, terms, self.planes.charge, star_sigma)
        return self._of(None, with_scatter=len(self.intake.loaded) > 1)

    def nonlinear(
        self, combined: Combined, split_adu: float, tolerance: float
    ) -> NDArray[np.bool_] | None:
        """Pixels that respond differently to much and to little light.

        Parameters
        ----------
        combined : Combined
            Result of `combine`; pixels without a value are left out.
        split_adu : float
            Border between bright and faint flats (ADU); 0: in the middle.
        tolerance : float
            Relative difference that is tolerated; 0: do not look.

        Returns
        -------
        ndarray of bool, shape (ny, nx), or None
            None if the levels span less than a factor of two, or a group has fewer than
            three frames.
        """
        levels = self.levels
        if tolerance <= 0 or levels.max() < NONLINEAR_RANGE * levels.min():
            return None
        groups = level_groups(levels, split_adu)
        if min(len(group) for group in groups) < NONLINEAR_FRAMES:
            return None
        self.compared = True
        high, low = (self._of(group, silent=True) for group in groups)
        return nonlinear_pixels(high, low, tolerance, NONLINEAR_SIGMA) & np.isfinite(combined.value)

    def shared_terms(self, combined: Combined) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Value and error with what bias and dark contribute.

        Their errors are common to all frames of the flat and do not average down:
        ``(sum w (f' - tau f'_D) / c)^2 v_B + (sum w tau f'_D / c)^2 v_d``, with the
        weights of the combination and the slopes ``f'`` at the levels of frame and dark.
        """
        planes = self.planes
        if planes.bias is None and planes.dark is None:
            return combined.value, combined.err
        value = combined.value.copy()
        variance = combined.err.astype(np.float64) ** 2
        level = self.levels
        even = self.options["method"] in ("median", "minmax")
        weight = np.ones_like(level) if even else level
        weight = weight / weight.sum()
        tau = np.array([planes.tau(frame) for frame in self.intake.loaded])
        for amp, one in enumerate(planes.amplifiers):
            at = one.place.slices
            both = [planes.slopes(amp, self._measured(f, amp)) for f in self.intake.loaded]
            slope, dark_slope = np.array(both).T
            share = weight * planes.relative_gain(amp) / level
            of_bias = float((share * (slope - tau * dark_slope)).sum())
            of_dark = float((share * tau * dark_slope).sum())
            if planes.bias is not None:
                if not planes.bias_first:
                    # the dark was taken off without its bias: all of the bias is still inside
                    value[at] -= planes.bias.sci[at] * np.float32(share.sum())
                variance[at] += of_bias**2 * planes.bias.err[at].astype(np.float64) ** 2
            if planes.dark is not None:
                variance[at] += of_dark**2 * planes.dark.err[at].astype(np.float64) ** 2
        return value, np.sqrt(variance).astype(np.float32)

    @property
    def _amplifiers(self) -> int:
        return len(self.planes.amplifiers)

    def _of(
        self, frames: Sequence[int] | None, *, silent: bool = False, with_scatter: bool = False
    ) -> Combined:
        """Combine some of the frames (None: all)."""
        prepared = self._stars is not None or self.common is not None
        if prepared:
            group = corrected_view(
                self.intake, self.planes, frames=frames, scale=self.common, stars=self._stars,
                silent=silent,
            )  # fmt: skip
        else:
            group = _some(self.intake, frames, silent=silent)
        return combine_frames(
            group,
            lambda kept, amp: self._terms(kept, amp, prepared=prepared),
            min(self.minimum, len(group.loaded)), self.name,
            base=None if prepared else self.planes.base, extra=self.planes.charge,
            linearise=not prepared, with_scatter=with_scatter, grow_sigma=GROW_SIGMA,
            **self.options,
        )  # fmt: skip

    def _terms(self, kept: Sequence[LoadedFrame], amp: int, *, prepared: bool) -> Terms:
        """Scales and noise of frames, for pixels in the linear unit of the amplifier."""
        planes = self.planes
        level = np.array([self.level_of[one.source.frame_id] for one in kept])
        slope = np.array([planes.slopes(amp, self._measured(one, amp))[0] for one in kept])
        tau = np.array([planes.tau(one) for one in kept])
        left = 0.0 if prepared else 1.0  # what is not subtracted yet
        gain, error = self.gains.value[amp], self.gains.error[amp]
        trusted = gain if gain > 0 and error < TRUSTED * gain else None
        terms = stack_terms(kept, amp, planes.quiet(amp), trusted)
        return with_changes(
            terms, noise=terms.noise * slope**2, scale=planes.relative_gain(amp) / level,
            weight=level, base=np.full(len(kept), left * planes.bias_first), extra=left * tau,
            charge=tau,
        )  # fmt: skip

    def _measured(self, frame: LoadedFrame, amp: int) -> float:
        """Level of an amplifier before linearisation (ADU above the bias)."""
        if self.planes.amplifiers[amp].linearity is None:
            return 0.0
        own = self.intake.of_amplifier(amp)
        sample = frame.sample[own].astype(np.float64)
        if self.planes.bias is not None:
            sample -= self.intake.sample_plane(self.planes.bias.sci)[own]
        return float(np.nanmedian(sample))


def _some(intake: Intake, frames: Sequence[int] | None, *, silent: bool) -> Intake:
    """Some frames of a group, if need be such that leave no trace in the outcomes."""
    if frames is None and not silent:
        return intake
    group = copy.copy(intake)
    group.loaded = [
        replace(frame, numbers={}, flags=[]) if silent else frame
        for i, frame in enumerate(intake.loaded)
        if frames is None or i in frames
    ]
    return group
