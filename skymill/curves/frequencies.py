"""Light curves against frequency: Lomb-Scargle periodograms and power spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.curves.series import Series

__all__ = ["Periodogram", "PowerSpectrum", "periodogram", "power_spectrum"]

_DAY_S = 86400.0


@dataclass(frozen=True)
class Periodogram:
    """A Lomb-Scargle periodogram.

    Parameters
    ----------
    frequency : ndarray of float64
        Cycles per day.
    power : ndarray of float64
        Standard normalisation: 0..1, the part of the chi-square that a sine explains.
    model : astropy.timeseries.LombScargle
        What computed it: false-alarm levels, models, window functions.
    """

    frequency: NDArray[np.float64]
    power: NDArray[np.float64]
    model: Any

    @property
    def period(self) -> float:
        """Period of the highest peak in days."""
        return float(1 / self.frequency[int(np.argmax(self.power))])

    @property
    def false_alarm(self) -> float:
        """Probability that noise alone makes a peak as high (Baluev 2008)."""
        return float(self.model.false_alarm_probability(float(self.power.max())))

    def plot(self, ax: Any = None, **keywords: Any) -> Any:
        """Draw power against period; return the axes."""
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.subplots(figsize=(8, 4))[1]
        ax.semilogx(1 / self.frequency, self.power, **({"lw": 0.8} | keywords))
        ax.set_xlabel("period [d]")
        ax.set_ylabel("power")
        return ax


def periodogram(
    series: Series,
    *,
    minimum_period: float | None = None,
    maximum_period: float | None = None,
    samples_per_peak: int = 10,
    terms: int = 1,
) -> Periodogram:
    """Return the generalised Lomb-Scargle periodogram (floating mean, errors used).

    Parameters
    ----------
    series : Series
        The light curve.
    minimum_period, maximum_period : float, optional
        Range in days; twice the median step and the whole length by default.
    samples_per_peak : int
        Frequencies for each width of a peak.
    terms : int
        Sines of the model.

    Raises
    ------
    ValueError
        With fewer than five good points.
    """
    from astropy.timeseries import LombScargle

    points = series.used()
    if len(points) < 5:
        raise ValueError(f"a periodogram needs 5 good points, there are {len(points)}")
    length = float(np.ptp(points.time))
    shortest = minimum_period or 2 * points.step
    longest = maximum_period or length
    # The first time is taken off: a Julian date leaves too few digits for phases.
    model = LombScargle(points.time - points.time[0], points.value, points.err, nterms=terms)
    step = 1 / (samples_per_peak * length)
    n = max(int((1 / shortest - 1 / longest) / step) + 1, 2)
    frequency = 1 / longest + step * np.arange(n)
    return Periodogram(np.asarray(frequency, np.float64), np.asarray(model.power(frequency)), model)


@dataclass(frozen=True)
class PowerSpectrum:
    """Power against frequency, in fractional rms squared per hertz.

    The integral over frequency is the variance of the curve over the square of its mean.

    Parameters
    ----------
    frequency : ndarray of float64
        Hz, without zero.
    power, err : ndarray of float64
        Mean over the segments, and its one-sigma error.
    noise : float
        Level that the errors of the points lead to expect.
    n_segments : int
        Segments that were averaged.
    """

    frequency: NDArray[np.float64]
    power: NDArray[np.float64]
    err: NDArray[np.float64]
    noise: float
    n_segments: int

    def rebin(self, factor: float) -> PowerSpectrum:
        """Return means in bins whose width grows by `factor` (logarithmic bins).

        Raises
        ------
        ValueError
            If the factor is not above 1.
        """
        if not factor > 1:
            raise ValueError(f"bins must grow by more than 1, got {factor}")
        place = np.floor(np.log(self.frequency / self.frequency[0]) / np.log(factor)).astype(int)
        which = np.unique(place, return_inverse=True)[1]
        n = np.bincount(which)
        mean = np.bincount(which, self.power) / n
        err = np.sqrt(np.bincount(which, self.err**2)) / n
        frequency = np.bincount(which, self.frequency) / n
        return PowerSpectrum(frequency, mean, err, self.noise, self.n_segments)

    def plot(self, ax: Any = None, **keywords: Any) -> Any:
        """Draw power and the level of the noise; return the axes."""
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.subplots(figsize=(8, 4))[1]
        ax.loglog(self.frequency, self.power, **({"drawstyle": "steps-mid", "lw": 0.8} | keywords))
        ax.axhline(self.noise, color="0.6", ls="--")
        ax.set_xlabel("frequency [Hz]")
        ax.set_ylabel("power [(rms/mean)$^2$/Hz]")
        return ax


def power_spectrum(series: Series, *, segment: float | None = None) -> PowerSpectrum:
    """Return the power spectrum, averaged over segments without gaps.

    Parameters
    ----------
    series : Series
        Evenly sampled but for gaps; fluxes, not magnitudes.
    segment : float, optional
        Length of a segment in days; the longest stretch without a gap by default. What
        is shorter is not used.

    Returns
    -------
    PowerSpectrum

    Raises
    ------
    ValueError
        If no stretch is as long as a segment, or it holds fewer than four points.

    Notes
    -----
    ``P_k = 2 dt |sum_j (F_j - mean) exp(-2 pi i j k/n)|^2 / (n mean^2)``; the noise is
    ``2 dt mean(err^2)/mean^2``. A single periodogram has a relative error of 1.
    """
    stretches = [part for part in series.segments() if len(part) > 1]
    dt = series.step
    if segment is None:
        n = max((len(part) for part in stretches), default=0)
    else:
        n = round(segment / dt)
    if n < 4 or not any(len(part) >= n for part in stretches):
        raise ValueError(f"no stretch without a gap has the {max(n, 4)} points of a segment")
    powers, noises = [], []
    for part in stretches:
        for first in range(0, len(part) - n + 1, n):
            flux, err = part.value[first : first + n], part.err[first : first + n]
            mean = float(flux.mean())
            scale = 2 * dt * _DAY_S / (n * mean**2)
            powers.append(scale * np.abs(np.fft.rfft(flux - mean)[1:]) ** 2)
            noises.append(2 * dt * _DAY_S * float((err**2).mean()) / mean**2)
    power = np.mean(powers, axis=0)
    frequency = np.asarray(np.fft.rfftfreq(n, dt * _DAY_S)[1:], np.float64)
    return PowerSpectrum(
        frequency, power, power / np.sqrt(len(powers)), float(np.mean(noises)), len(powers)
    )
