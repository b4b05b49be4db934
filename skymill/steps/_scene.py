"""The frame as detection and measurement see it: signal, errors, and the noise of the sky.

Part of the step ``sources``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.frame import MaskBit
from skymill.kernels.sky_noise import positive_median, sky_noise, subtract_sky, variance_slope

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Background, Frame

__all__ = ["BRIGHT", "Scene", "make_scene"]

#: Detector bits that do not hide the light of a star from detection and centring.
BRIGHT = MaskBit.SATURATED | MaskBit.BLEED | MaskBit.NONLINEAR
#: About so many pixels tell how the variance follows the signal.
_SLOPE_PIXELS = 250_000


class Scene(NamedTuple):
    """The frame as the measurements see it.

    Attributes
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Background-subtracted signal and total error; 0 and 1 where there is none.
    mask : ndarray of uint16, shape (ny, nx)
        Final mask.
    hidden : ndarray of bool, shape (ny, nx)
        True where a pixel serves neither detection nor centring. Saturated pixels do.
    bad : ndarray of bool, shape (ny, nx)
        True where a pixel does not serve the fit of a profile either.
    noise : ndarray of float32, shape (ny, nx)
        Error that the sky alone would have.
    """

    sci: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]
    hidden: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    noise: NDArray[np.float32]


def make_scene(frame: Frame, background: Background) -> Scene | None:
    """Subtract the background and find the noise of the empty sky at every pixel.

    The error of a frame follows its own pixel values: a pixel that is low by chance has a
    small error. Taking the pixel's own excess out of the variance leaves that of the sky.
    In a mean of N frames the variance follows the pixel N times less. None if no pixel of
    the frame is good.
    """
    rms = background.rms_map()
    sci, err, hidden, bad, lost = subtract_sky(
        frame.sci, frame.err, frame.mask, background.level_map(),
        int(MaskBit.bad() & ~BRIGHT), int(MaskBit.bad()),
    )  # fmt: skip
    if lost.all():
        return None
    noise, ratios = sky_noise(sci, err, rms, _photons(sci, err, rms, lost))
    # Where the sky is noisier than the model says, believe the sky.
    ratio = positive_median(ratios, lost)
    if np.isfinite(ratio) and ratio > 1:
        noise *= np.float32(ratio)
    return Scene(sci, err, frame.mask, hidden, bad, noise)


def _photons(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    rms: NDArray[np.float32],
    lost: NDArray[np.bool_],
) -> float:
    """Return how the variance follows the pixels of the sky: electron^2 per electron.

    The slope of the variance against the signal within 3 sigma of the sky: 1 on a calibrated
    frame, 1/N on a mean of N frames, 0 where the error is that of a smooth model.
    """
    step = max(1, int(np.sqrt(sci.size / _SLOPE_PIXELS)))
    slope = variance_slope(sci, err, rms, lost, step)
    return round(float(np.clip(slope, 0.0, 1.0)), 3) if np.isfinite(slope) else 1.0
