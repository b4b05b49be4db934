"""What hits a single frame: cosmic rays and satellite trails."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skymill.simulate.seeds import Stream, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.simulate.config import NightConfig

__all__ = ["cosmic_rays", "satellite_trail"]

#: Deposits per pixel of track length.
_STEPS_PER_PX = 8
#: Charge spreads by this much (1 sigma, px) while it is collected.
_DIFFUSION_PX = 0.25


def cosmic_rays(
    config: NightConfig, exptime_s: float, name: str, index: int
) -> NDArray[np.float64]:
    """Electrons that cosmic rays leave in one exposure.

    Straight tracks in random directions, lengths exponential with a mean of 4 px,
    charges log-normal around 900 electrons per hit plus 300 per px of track: the
    sharp points, worms and streaks of a thick CCD.

    Parameters
    ----------
    config : NightConfig
        The night.
    exptime_s : float
        Exposure in seconds.
    name, index : str, int
        Kind and number of the frame.

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        Whole electrons.
    """
    ny, nx = config.shape
    rng = generator(config.seed, Stream.COSMIC, name, index, config.night_index)
    image = np.zeros(config.shape)
    n_hits = int(rng.poisson(config.cosmic_rate_mpx_s * ny * nx / 1e6 * exptime_s))
    for _ in range(n_hits):
        x, y = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5)
        length = min(rng.exponential(4.0), 80.0)
        angle = rng.uniform(0.0, 2.0 * math.pi)
        electrons = math.exp(0.6 * rng.standard_normal()) * (900.0 + 300.0 * length)
        n = int(length * _STEPS_PER_PX) + _STEPS_PER_PX
        along = (np.arange(n) + 0.5) / n * length
        spread = rng.standard_normal((2, n)) * _DIFFUSION_PX
        column = np.rint(x + along * math.cos(angle) + spread[0]).astype(int)
        row = np.rint(y + along * math.sin(angle) + spread[1]).astype(int)
        inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
        np.add.at(image, (row[inside], column[inside]), electrons / n)
    return np.floor(image)


def satellite_trail(
    config: NightConfig, fwhm_px: float, name: str, index: int
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Expected electrons of a straight trail through the frame, and its description.

    The profile across is that of a star drawn out along a line, ``(1 + d^2/a^2)^-3``,
    with the width of the seeing.

    Returns
    -------
    image : ndarray of float64, shape (ny, nx)
        Expected electrons, flat not applied.
    description : dict
        ``x``, ``y`` (a point of the line), ``angle_deg``, ``peak_e``, ``fwhm_px``.
    """
    ny, nx = config.shape
    rng = generator(config.seed, Stream.TRAIL, name, index, config.night_index)
    x0, y0 = rng.uniform(0.3, 0.7) * nx, rng.uniform(0.3, 0.7) * ny
    angle_deg = rng.uniform(0.0, 180.0)
    angle = math.radians(angle_deg)
    y, x = np.arange(ny, dtype=np.float64)[:, None], np.arange(nx, dtype=np.float64)[None, :]
    distance = (y - y0) * math.cos(angle) - (x - x0) * math.sin(angle)
    core = fwhm_px / (2.0 * math.sqrt(2.0 ** (1.0 / 3.0) - 1.0))
    base = 1.0 + distance * distance / (core * core)
    description = {
        "x": round(float(x0), 3),
        "y": round(float(y0), 3),
        "angle_deg": round(float(angle_deg), 4),
        "peak_e": config.trail_peak_e,
        "fwhm_px": round(fwhm_px, 4),
    }
    return config.trail_peak_e / (base * base * base), description
