"""Completeness: stars of known flux put into a frame, and how many are found again.

The fraction found falls from one to zero over a few tenths of a magnitude. Where it is
one half follows from theory, too: a star is found if ``minimum_area`` connected pixels
of the filtered image exceed the threshold, that is if its light in the weakest of them
is ``threshold`` times the noise of the filtered image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.depth import empty_positions
from skymill.kernels.detect import gaussian_kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from skymill.frame import Frame

    Floats = NDArray[np.float64]

__all__ = ["Completeness", "completeness", "expected_half", "moffat_stamp"]

#: Fluxes are tried this many magnitudes to both sides of the expected limit.
_SPAN_MAG = 1.2
_STEPS = 9
_OVERSAMPLE = 5
#: Stars beyond this radius in FWHM are cut.
_REACH_FWHM = 4.0


@dataclass(frozen=True)
class Completeness:
    """How many stars of each flux are found.

    Parameters
    ----------
    flux_e : ndarray, shape (m,)
        Total fluxes that were tried (electron), faintest first.
    fraction : ndarray, shape (m,)
        Fraction found.
    number : int
        Stars of each flux.
    half_e, half_err_mag : float
        Flux of which one half is found, and its error in magnitudes; NaN if the
        fractions do not cross one half.
    expected_e : float
        The same from theory.
    """

    flux_e: Floats
    fraction: Floats
    number: int
    half_e: float
    half_err_mag: float
    expected_e: float

    @property
    def offset_mag(self) -> float:
        """Magnitudes by which the frame goes less deep than theory."""
        return float(-2.5 * np.log10(self.expected_e / self.half_e))


def moffat_stamp(
    fwhm_px: float, beta: float, phase: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.float64]:
    """Return a Moffat star of total 1, averaged over the pixels.

    Parameters
    ----------
    fwhm_px, beta : float
        Full width at half maximum and exponent; an infinite exponent is a Gaussian.
    phase : (float, float)
        Offset (x, y) of the centre from that of the middle pixel.

    Returns
    -------
    ndarray of float64, odd square shape
    """
    half = int(np.ceil(_REACH_FWHM * fwhm_px))
    fine = (np.arange((2 * half + 1) * _OVERSAMPLE) + 0.5) / _OVERSAMPLE - half - 0.5
    r2 = (fine[:, None] - phase[1]) ** 2 + (fine[None, :] - phase[0]) ** 2
    if np.isfinite(beta):
        width2 = fwhm_px**2 / (4 * (2 ** (1 / beta) - 1))
        profile = (1 + r2 / width2) ** -beta
    else:
        profile = np.exp(-4 * np.log(2) * r2 / fwhm_px**2)
    size = 2 * half + 1
    stamp = profile.reshape(size, _OVERSAMPLE, size, _OVERSAMPLE).sum(axis=(1, 3))
    return np.asarray(stamp / stamp.sum())


def expected_half(
    noise_e: float, fwhm_px: float, beta: float, threshold_sigma: float, minimum_area_px: int
) -> float:
    """Return the total flux of which one half is detected, from theory (electron).

    Parameters
    ----------
    noise_e : float
        Noise of an empty pixel (electron).
    fwhm_px, beta : float
        Shape of the stars.
    threshold_sigma, minimum_area_px : float, int
        Detection.
    """
    from scipy.signal import fftconvolve

    kernel = gaussian_kernel(fwhm_px).astype(np.float64)
    sigma = noise_e * float(np.sqrt((kernel**2).sum()))
    weakest = []
    for x in (-0.375, -0.125, 0.125, 0.375):
        for y in (-0.375, -0.125, 0.125, 0.375):
            filtered = fftconvolve(moffat_stamp(fwhm_px, beta, (x, y)), kernel, mode="same")
            weakest.append(np.partition(filtered.ravel(), -minimum_area_px)[-minimum_area_px])
    return float(threshold_sigma * sigma / np.mean(weakest))


def completeness(
    frame: Frame,
    sources: Floats,
    detect: Callable[[Frame], Floats],
    *,
    noise_e: float,
    fwhm_px: float,
    beta: float,
    threshold_sigma: float,
    minimum_area_px: int,
    number: int = 200,
    seed: int = 0,
) -> Completeness:
    """Put stars into a frame and count how many are found.

    Parameters
    ----------
    frame : Frame
        Calibrated frame in electron with its final mask. Not modified.
    sources : ndarray, shape (n, 2)
        Positions (x, y) of its own sources, which the planted stars keep away from: the
        limit is that of empty sky.
    detect : callable
        ``detect(frame)`` returns positions (x, y) of the sources it finds, shape (n, 2).
    noise_e : float
        Noise of an empty pixel.
    fwhm_px, beta : float
        Shape of the planted stars.
    threshold_sigma, minimum_area_px : float, int
        Detection, for the expected limit.
    number : int
        Stars in all. They are spread over nine fluxes.
    seed : int
        Seed of positions, fluxes and photon noise.

    Returns
    -------
    Completeness

    Raises
    ------
    ValueError
        If there is no room for fifty stars.
    """
    rng = np.random.default_rng(seed)
    expected = expected_half(noise_e, fwhm_px, beta, threshold_sigma, minimum_area_px)
    reach = np.full(len(sources), 3.0 * fwhm_px)
    x, y = empty_positions(frame, sources, reach, radius_px=2.5 * fwhm_px, number=number, seed=seed)
    if len(x) < 50:
        raise ValueError(f"there is room for {len(x)} stars only, 50 are needed")
    level = np.arange(len(x)) % _STEPS
    offsets = np.linspace(_SPAN_MAG, -_SPAN_MAG, _STEPS)
    fluxes = expected * 10 ** (-0.4 * offsets)
    found = detect(_planted(frame, x, y, fluxes[level], fwhm_px, beta, rng))
    seen = _near(np.column_stack([x, y]), found, max(1.0, 0.5 * fwhm_px))
    fraction = np.array([seen[level == k].mean() for k in range(_STEPS)])
    half, error = _half(-offsets[level], seen)
    return Completeness(
        fluxes, fraction, len(x) // _STEPS, float(expected * 10 ** (0.4 * half)), error, expected
    )


def _planted(
    frame: Frame,
    x: Floats,
    y: Floats,
    flux: Floats,
    fwhm_px: float,
    beta: float,
    rng: np.random.Generator,
) -> Frame:
    """Return the frame with stars, their photon noise and its share of the error."""
    sci, variance = frame.sci.astype(np.float64), frame.err.astype(np.float64) ** 2
    for xs, ys, total in zip(x, y, flux, strict=True):
        i, j = int(np.rint(xs)), int(np.rint(ys))
        light = total * moffat_stamp(fwhm_px, beta, (xs - i, ys - j))
        half = light.shape[0] // 2
        j0, j1 = max(j - half, 0), min(j + half + 1, sci.shape[0])
        i0, i1 = max(i - half, 0), min(i + half + 1, sci.shape[1])
        part = light[j0 - j + half : j1 - j + half, i0 - i + half : i1 - i + half]
        sci[j0:j1, i0:i1] += rng.poisson(part)
        variance[j0:j1, i0:i1] += part
    return frame.replace(sci=sci.astype(np.float32), err=np.sqrt(variance).astype(np.float32))


def _near(planted: Floats, found: Floats, radius: float) -> NDArray[np.bool_]:
    from scipy.spatial import cKDTree

    if not len(found):
        return np.zeros(len(planted), bool)
    gap, _ = cKDTree(found).query(planted)
    return np.asarray(gap <= radius)


def _half(brightness: Floats, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit ``Phi((b - b_0) / w)`` by maximum likelihood: b_0 and its error (mag)."""
    from scipy.optimize import minimize
    from scipy.stats import norm

    if seen.all() or not seen.any():
        return float("nan"), float("nan")

    def cost(parameters: Floats) -> float:
        p = norm.cdf((brightness - parameters[0]) / np.exp(parameters[1]))
        p = np.clip(p, 1e-6, 1 - 1e-6)
        return float(-(np.log(p[seen]).sum() + np.log(1 - p[~seen]).sum()))

    best = minimize(cost, np.array([0.0, np.log(0.2)]), method="Nelder-Mead")
    middle, step = best.x, np.array([0.02, 0.0])
    curved = cost(middle + step) - 2 * cost(middle) + cost(middle - step)
    error = step[0] / np.sqrt(curved) if curved > 0 else float("nan")
    return float(middle[0]), float(error)
