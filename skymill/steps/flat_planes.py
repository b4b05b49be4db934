"""What is done to every flat before it is combined: bias, dark, linearity, illumination.

A detector with several amplifiers has one flat. Its amplifiers count in different units,
so every amplifier is first multiplied by its declared gain over the mean of the gains.
The flat is then continuous where the response is, and ``electron = gain I / F`` holds
with the gain of each amplifier. A wrong ratio of the declared gains enters flat and
calibrated frame alike and cancels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from skymill.steps.flat_statistics import LargeScale, illumination, level_of, sparse
from skymill.steps.masters_common import Intake, LoadedFrame, amplifier_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.frame import Master
    from skymill.pixel_store import StoredPixels
    from skymill.readout import Amplifier

__all__ = ["Corrections", "Pixels", "box_centres", "corrected_view"]


@dataclass(eq=False)
class Corrections:
    """Bias, dark, linearity and relative gain of a group of flats.

    Parameters
    ----------
    bias, dark : Master or None
        Masters; the dark holds the bias and is not linearised.
    amplifiers : tuple of Amplifier
        Of the group.
    bias_first : bool
        Subtract the bias from every flat. Without it a signal cannot be linearised: for
        amplifiers with a linearity correction the bias always comes first.
    """

    bias: Master | None
    dark: Master | None
    amplifiers: tuple[Amplifier, ...]
    bias_first: bool = True
    _charge: NDArray[np.float32] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.bias_first |= any(one.linearity is not None for one in self.amplifiers)

    @property
    def base(self) -> NDArray[np.float32] | None:
        """Plane subtracted from every flat (ADU)."""
        return None if self.bias is None or not self.bias_first else self.bias.sci

    @property
    def charge(self) -> NDArray[np.float32] | None:
        """Linear dark charge ``f(d - B)`` of the dark's exposure (ADU)."""
        if self.dark is None:
            return None
        if self._charge is None:
            plane = self.dark.sci if self.bias is None else self.dark.sci - self.bias.sci
            for one in self.amplifiers:
                if one.linearity is not None:
                    plane = np.array(plane)
                    at = one.place.slices
                    plane[at] = one.linearity(plane[at]).astype(np.float32)
            self._charge = plane
        return self._charge

    def relative_gain(self, amp: int) -> float:
        """Declared gain of an amplifier over the mean of all."""
        gains = [one.gain_e_adu for one in self.amplifiers]
        return float(gains[amp] / np.mean(gains))

    def tau(self, frame: LoadedFrame) -> float:
        """Exposure relative to the dark."""
        if self.dark is None:
            return 0.0
        return frame.exptime_s / float(self.dark.header["EXPTIME"])

    def quiet(self, amp: int) -> float | None:
        """Variance without light between the bias frames (ADU^2), if the bias knows it."""
        if self.bias is None:
            return None
        noise = amplifier_figure(self.bias.header, "RNADU", amp, len(self.amplifiers))
        return None if noise is None else noise**2

    def slopes(self, amp: int, level: float) -> tuple[float, float]:
        """``f'`` of an amplifier at a measured level of the flat, and at that of the dark."""
        rule = self.amplifiers[amp].linearity
        if rule is None:
            return 1.0, 1.0
        dark = 0.0
        if self.dark is not None:
            base = 0.0 if self.bias is None else self.bias.sci
            dark = float(np.nanmedian((self.dark.sci - base)[self.amplifiers[amp].place.slices]))
        found = rule.slope(np.array([level, dark]))
        return float(found[0]), float(found[1])

    def sample(self, intake: Intake, frame: LoadedFrame) -> NDArray[np.float64]:
        """Boxes of a frame: linear ADU of light, each amplifier in its own unit.

        Returns
        -------
        ndarray of float64, shape (boxes, side, side)
            NaN where not usable.
        """
        sample = frame.sample.astype(np.float64)
        if self.bias is not None:
            sample -= intake.sample_plane(self.bias.sci)
        for amp, one in enumerate(self.amplifiers):
            if one.linearity is not None:
                own = intake.of_amplifier(amp)
                linear = one.linearity(sample[own])
                sample[own] = np.where(np.isfinite(sample[own]), linear, np.nan)
        charge = self.charge
        if charge is not None:
            sample -= self.tau(frame) * intake.sample_plane(charge)
        return sample

    def unit(self, intake: Intake) -> NDArray[np.float64]:
        """Relative gain of the amplifier of each box, shape (boxes, 1, 1)."""
        gains = [self.relative_gain(amp) for amp in range(len(self.amplifiers))]
        return np.array([gains[box[2]] for box in intake.boxes])[:, None, None]

    def level(self, intake: Intake, frame: LoadedFrame, scale: str) -> float:
        """Level that a frame is divided by (ADU at the mean gain)."""
        if scale != "mode":
            sample = self.sample(intake, frame)
            if self.bias is not None and not self.bias_first:
                sample += intake.sample_plane(self.bias.sci)
            return level_of(sample * self.unit(intake), scale)
        image = np.empty(intake.shape, np.float32)
        pixels = Pixels(frame, self)
        for amp, one in enumerate(self.amplifiers):
            part = pixels.of(amp, 0, one.place.shape[0])
            image[one.place.slices] = part * np.float32(self.relative_gain(amp))
        return level_of(sparse(image), scale)


def box_centres(intake: Intake) -> NDArray[np.float64]:
    """Centres (y, x) of the sample boxes, -1 to 1 over the frame, shape (boxes, 2)."""
    corners = np.array([box[:2] for box in intake.boxes], np.float64)
    return (corners + 0.5 * intake.side) / np.array(intake.shape) * 2 - 1


@dataclass(eq=False)
class Pixels:
    """Corrected pixels of one flat, computed row by row when they are needed.

    Parameters
    ----------
    frame : LoadedFrame
        The flat.
    planes : Corrections
        Corrections of its group.
    surface : tuple of (coefficients, order), optional
        Illumination relative to the group, divided out.
    stars : mapping, optional
        By amplifier: flat indices, growing, of pixels that show stars; they become NaN.
    """

    frame: LoadedFrame
    planes: Corrections
    surface: tuple[NDArray[np.float64], int] | None = None
    stars: Mapping[int, NDArray[np.int64]] | None = None

    def of(self, amp: int, y0: int, y1: int) -> NDArray[np.float32]:
        """Rows of an amplifier: linear ADU of light, NaN where not usable."""
        frame, planes = self.frame, self.planes
        one = planes.amplifiers[amp]
        part = np.s_[one.place.y0 + y0 : one.place.y0 + y1, one.place.x0 : one.place.x1]
        raw = frame.parts[amp].rows(y0, y1)
        signal = raw - frame.row_level(amp)[y0:y1, None]
        if planes.base is not None:
            signal -= planes.base[part]
        if one.linearity is not None:
            signal = one.linearity(signal)
        if planes.charge is not None:
            signal -= planes.tau(frame) * planes.charge[part]
        out = signal.astype(np.float32)
        with np.errstate(invalid="ignore"):
            out[~(raw < frame.saturation(amp)) | ~np.isfinite(raw)] = np.nan
        if self.surface is not None:
            field_of = illumination(*self.surface, frame.readout.shape, part[0].start, part[0].stop)
            out /= field_of[:, part[1]].astype(np.float32)
        if self.stars is not None and amp in self.stars:
            nx = one.place.shape[1]
            found = self.stars[amp]
            first, last = np.searchsorted(found, [y0 * nx, y1 * nx])
            out.ravel()[found[first:last] - y0 * nx] = np.nan
        return out


@dataclass(eq=False)
class _Part:
    """Stands for the stored pixels of one amplifier."""

    pixels: Pixels
    amp: int

    def rows(self, y0: int, y1: int) -> NDArray[np.float32]:
        return self.pixels.of(self.amp, y0, y1)


def corrected_view(
    intake: Intake,
    planes: Corrections,
    *,
    frames: Sequence[int] | None = None,
    scale: LargeScale | None = None,
    stars: Sequence[Mapping[int, NDArray[np.int64]]] | None = None,
    silent: bool = False,
) -> Intake:
    """Return the group with corrected pixels in place of the raw ones.

    Parameters
    ----------
    intake : Intake
        The group; not changed.
    planes : Corrections
        Bias, dark, linearity.
    frames : sequence of int, optional
        Positions of the frames to keep.
    scale : LargeScale, optional
        Illumination of each frame, divided out.
    stars : sequence, optional
        Pixels with stars, one mapping per frame; see `Pixels`.
    silent : bool
        The combination leaves no trace in the outcomes of the frames.

    Returns
    -------
    Intake
        Its frames are ``prepared``: no level inside, NaN where not usable.
    """
    view = copy.copy(intake)
    view.loaded = []
    for i, frame in enumerate(intake.loaded):
        if frames is not None and i not in frames:
            continue
        pixels = Pixels(
            frame, planes,
            None if scale is None else (scale.coefficients[i], scale.order),
            None if stars is None else stars[i],
        )  # fmt: skip
        parts: Any = [_Part(pixels, amp) for amp in range(len(planes.amplifiers))]
        prepared = replace(frame, parts=cast("list[StoredPixels]", parts), prepared=True)
        view.loaded.append(replace(prepared, numbers={}, flags=[]) if silent else prepared)
    return view
