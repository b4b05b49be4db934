"""The detector: its fixed patterns, and how light becomes numbers in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from skymill.simulate.seeds import Stream, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.simulate.config import NightConfig

__all__ = ["Charge", "Detector", "bleed", "collect", "make_detector", "read_out"]


@dataclass(frozen=True, eq=False)
class Detector:
    """Fixed patterns of the image area, all of shape (ny, nx).

    Parameters
    ----------
    bias_adu : ndarray of float64
        Bias of the image area above the overscan.
    dark_e_s : ndarray of float64
        Dark current.
    hot : ndarray of bool
        Hot pixels.
    dead : ndarray of bool
        Pixels with a response below 0.3.
    response : ndarray of float64
        Response of the pixels to even light, dead ones included.
    """

    config: NightConfig
    bias_adu: NDArray[np.float64]
    dark_e_s: NDArray[np.float64]
    hot: NDArray[np.bool_]
    dead: NDArray[np.bool_]
    response: NDArray[np.float64]
    _flats: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def flat(self, band: str) -> NDArray[np.float64]:
        """True flat of a filter: optics times response, with a median of 1."""
        if band not in self._flats:
            optics = _optics(self.config, band)
            rng = generator(self.config.seed, Stream.FLAT, f"colour {band}")
            colour = 1.0 + 0.3 * self.config.prnu * rng.standard_normal(self.config.shape)
            flat = optics * colour * self.response
            self._flats[band] = flat / np.median(flat)
        return self._flats[band]


@dataclass(frozen=True, eq=False)
class Charge:
    """Electrons in the pixels at the end of an exposure, shape (ny, nx).

    ``saturated`` marks pixels that are full by their own light, ``bled`` those that
    took up charge of others.
    """

    electrons: NDArray[np.float64]
    saturated: NDArray[np.bool_]
    bled: NDArray[np.bool_]


def make_detector(config: NightConfig) -> Detector:
    """Make the fixed patterns from the seed."""
    nx = config.shape[1]
    rng = generator(config.seed, Stream.BIAS)
    v, u = _unit_grid(config.shape)
    columns = rng.standard_normal(nx)
    # A slope and a bow of full size, and columns that differ a little.
    bias = config.bias_structure_adu * (0.35 * u + 0.35 * v + 0.3 * (4.0 * u * u * v * v))
    bias = bias + 0.08 * config.bias_structure_adu * columns[None, :]

    rng = generator(config.seed, Stream.DARK)
    glow = 1.0 + 0.5 * ((0.5 + u) ** 2 * (0.5 + v) ** 2)
    dark = config.dark_e_s * glow
    hot = rng.random(config.shape) < config.hot_fraction
    low, high = config.hot_rate_e_s
    rates = low * (high / low) ** rng.random(config.shape)
    dark = np.where(hot, dark + rates, dark)

    rng = generator(config.seed, Stream.FLAT)
    response = 1.0 + config.prnu * rng.standard_normal(config.shape)
    dead = rng.random(config.shape) < config.dead_fraction
    response = np.where(dead, rng.uniform(0.0, 0.3, config.shape), response)
    return Detector(config, bias, dark, hot, dead, response)


def _unit_grid(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (v, u) from -0.5 to 0.5 along y and x, to be broadcast."""
    ny, nx = shape
    v = np.arange(ny, dtype=np.float64)[:, None] / (ny - 1) - 0.5
    u = np.arange(nx, dtype=np.float64)[None, :] / (nx - 1) - 0.5
    return v, u


def _optics(config: NightConfig, band: str) -> NDArray[np.float64]:
    """Vignetting, a little off the centre in each filter, and dust rings common to all."""
    ny, nx = config.shape
    v, u = _unit_grid(config.shape)
    shift = generator(config.seed, Stream.FLAT, f"optics {band}").uniform(-0.05, 0.05, 2)
    image = 1.0 - config.vignetting * 2.0 * ((u - shift[0]) ** 2 + (v - shift[1]) ** 2)

    rng = generator(config.seed, Stream.FLAT, "dust")
    y, x = np.arange(ny, dtype=np.float64)[:, None], np.arange(nx, dtype=np.float64)[None, :]
    for _ in range(config.n_dust):
        centre_x, centre_y = rng.uniform(0, nx), rng.uniform(0, ny)
        radius = rng.uniform(0.02, 0.06) * min(ny, nx)
        depth = config.dust_depth * rng.uniform(0.4, 1.0)
        distance = np.sqrt((x - centre_x) ** 2 + (y - centre_y) ** 2)
        # The shadow of a grain far from focus: a ring, darkest at its radius.
        offset = (distance - radius) / (0.45 * radius)
        image = image * (1.0 - depth / (1.0 + offset * offset * offset * offset))
    return image


def collect(
    detector: Detector,
    light_e: NDArray[np.float64],
    exptime_s: float,
    rng: np.random.Generator,
    hits_e: NDArray[np.float64] | None = None,
) -> Charge:
    """Collect one exposure.

    Poisson noise is drawn of the expected light (already times the flat) and of the
    dark current together, before any gain; then the charge of cosmic rays comes, and
    what does not fit bleeds along the columns.

    Parameters
    ----------
    detector : Detector
        The detector.
    light_e : ndarray of float64, shape (ny, nx)
        Expected electrons by light, flat included.
    exptime_s : float
        Exposure in seconds.
    rng : numpy.random.Generator
        For the photons.
    hits_e : ndarray of float64, shape (ny, nx), optional
        Electrons by cosmic rays.
    """
    config = detector.config
    electrons = rng.poisson(light_e + detector.dark_e_s * exptime_s).astype(np.float64)
    if hits_e is not None:
        electrons += hits_e
    none = np.zeros(config.shape, dtype=bool)
    if config.full_well_e is None:
        return Charge(electrons, none, none)
    saturated = electrons >= config.full_well_e
    if not config.bleeding:
        return Charge(np.minimum(electrons, config.full_well_e), saturated, none)
    full, bled = bleed(electrons, config.full_well_e)
    return Charge(full, saturated, bled)


def bleed(
    electrons: NDArray[np.float64], full_well_e: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Spread the charge above the full well along its column, half up and half down.

    Each run of full pixels fills its neighbours in turn up to the full well until its
    charge is used; what reaches the border of the frame is lost.

    Returns
    -------
    electrons : ndarray of float64, shape (ny, nx)
        Nowhere above ``full_well_e``.
    bled : ndarray of bool, shape (ny, nx)
        Pixels that took up charge of others.
    """
    out = np.minimum(electrons, full_well_e)
    bled = np.zeros(electrons.shape, dtype=bool)
    over = electrons > full_well_e
    for x in np.flatnonzero(over.any(axis=0)):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], over[:, x].astype(np.int8), [0]))))
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            half = 0.5 * (electrons[first:end, x].sum() - full_well_e * (end - first))
            # Views of the pixels above and below the run, nearest first.
            _fill(half, full_well_e, out[end:, x], bled[end:, x])
            _fill(half, full_well_e, out[:first, x][::-1], bled[:first, x][::-1])
    return out, bled


def _fill(
    electrons: float, full_well_e: float, pixels: NDArray[np.float64], marks: NDArray[np.bool_]
) -> None:
    """Pour charge into pixels one after the other, in place, and mark those that took some."""
    room = full_well_e - pixels
    given = np.clip(electrons - (np.cumsum(room) - room), 0.0, room)
    pixels += given
    marks |= given > 0


def read_out(
    detector: Detector,
    charge: Charge | None,
    read_rng: np.random.Generator,
    drift_rng: np.random.Generator,
) -> tuple[NDArray[np.uint16], float, NDArray[np.bool_]]:
    """Read a frame out: gain, non-linearity, bias, read noise, rounding, ADC.

    Parameters
    ----------
    detector : Detector
        The detector.
    charge : Charge or None
        None for a bias frame.
    read_rng, drift_rng : numpy.random.Generator
        For the read noise and for the level of this frame.

    Returns
    -------
    raw : ndarray of uint16, shape (ny, prescan + nx + overscan)
        The raw frame.
    level_adu : float
        Mean level of the overscan.
    saturated : ndarray of bool, shape (ny, nx)
        Pixels at the end of the ADC or of the full well.
    """
    config = detector.config
    nx, left = config.shape[1], config.prescan_px
    width = left + nx + config.overscan_px
    level = config.bias_level_adu + config.overscan_drift_adu * drift_rng.standard_normal()
    slope = config.overscan_slope_adu * drift_rng.standard_normal()
    v, _ = _unit_grid(config.shape)
    frame = np.repeat(level + slope * v, width, axis=1)
    frame[:, left : left + nx] += detector.bias_adu
    if charge is not None:
        frame[:, left : left + nx] += _measured(
            charge.electrons / config.gain_e_adu, config.nonlinearity_per_adu
        )
    frame += (config.read_noise_e / config.gain_e_adu) * read_rng.standard_normal(frame.shape)
    counts = np.rint(frame)
    at_limit = counts[:, left : left + nx] >= config.adc_max_adu
    raw = np.clip(counts, 0, config.adc_max_adu).astype(np.uint16)
    saturated = at_limit if charge is None else at_limit | charge.saturated
    return raw, float(level), saturated


def _measured(linear: NDArray[np.float64], c2: float) -> NDArray[np.float64]:
    """Solve ``linear = m (1 + c2 m)`` for the measured value m."""
    if c2 == 0:
        return linear
    root = np.maximum(1.0 + 4.0 * c2 * linear, 0.0)
    return np.asarray(2.0 * linear / (1.0 + np.sqrt(root)))
