"""Growth curves and aperture corrections of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from skymill.kernels.circles import aperture_sums
from skymill.kernels.growth import clipped_means
from skymill.measure.rings import local_sky, mask_sources
from skymill.measure.stars import choose_stars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from scipy.interpolate import PchipInterpolator

__all__ = ["SMALL_FWHM", "GrowthCurve", "growth_curve"]

#: Radii of the curve and of its last point, in FWHM; ring of the sky beyond it.
_FIRST_FWHM, _LAST_FWHM, _STEPS = 0.3, 4.0, 24
_GAP_FWHM, _WIDTH_FWHM = 1.0, 3.0
#: Radius of the sums by which stars are chosen, in FWHM.
SMALL_FWHM = 1.25
#: Curves further than this from the median, in robust sigma, are left out at that radius.
_CLIP = 4.0


@dataclass(frozen=True, eq=False)
class GrowthCurve:
    """Light within a radius, as a part of that within the largest.

    Parameters
    ----------
    radii : ndarray of float64, shape (m,)
        Radii in px; the last is that of the total flux.
    fraction, fraction_err : ndarray of float64, shape (m,)
        Mean curve of the frame and its error, common to all sources of the frame. The
        last fraction is 1 by definition.
    curves : ndarray of float64, shape (n, m)
        The curve of each star, for plots.
    stars : ndarray of int64, shape (n,)
        Which sources they are.
    wing_fraction : float
        Part of all light beyond the last radius by a Moffat profile that fits the curve;
        NaN if none fits. It is a model: corrections do not contain it.
    beta : float
        Exponent of that profile.
    """

    radii: NDArray[np.float64]
    fraction: NDArray[np.float64]
    fraction_err: NDArray[np.float64]
    curves: NDArray[np.float64]
    stars: NDArray[np.int64]
    wing_fraction: float
    beta: float

    def correction(self, radius_px: float) -> tuple[float, float]:
        """Return the factor from the flux within a radius to the total flux, and its error.

        The error is common to all sources of the frame: it is no part of ``flux_err``.

        Raises
        ------
        ValueError
            If the radius lies outside the curve.
        """
        if not self.radii[0] <= radius_px <= self.radii[-1] * (1 + 1e-9):
            raise ValueError(
                f"the growth curve goes from {self.radii[0]:.2f} to {self.radii[-1]:.2f} px, "
                f"not to {radius_px:.2f}"
            )
        part = float(self._between(min(radius_px, self.radii[-1])))
        error = float(np.interp(radius_px, self.radii, self.fraction_err))
        return 1 / part, error / part**2

    @cached_property
    def _between(self) -> PchipInterpolator:
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(self.radii, self.fraction)


def growth_curve(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    *,
    fwhm_px: float,
    radii: ArrayLike | None = None,
    usable: ArrayLike | None = None,
    annulus: Sequence[float] | None = None,
    minimum_snr: float = 100.0,
    maximum: int = 100,
    light: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> GrowthCurve | None:
    """Measure the growth curve of a frame from its bright, isolated stars.

    Of each star ``G(r) = F(r) / F(R)`` with the sky of a ring beyond ``R``. At each radius
    curves that lie more than 4 robust sigma from the median are left out, and the others
    averaged with the weights of their errors,
    ``var(G) = ((1-G)**2 V(r) + G**2 (V(R) - V(r)) + (G n_R - n_r)**2 var(b)) / F(R)**2``.
    The error of the mean is the larger of that from the weights and that from the scatter.

    Parameters
    ----------
    sci, err, mask, x, y
        As for `measure_apertures`, of all sources of the frame (neighbours are masked).
    fwhm_px : float
        FWHM of the frame.
    radii : array_like of float, optional
        Radii in px; by default 24 from 0.3 to 4 FWHM. The largest is the total flux.
    usable : array_like of bool, optional
        Sources that may be used.
    annulus : (float, float), optional
        Ring of the sky in px; by default from 1 to 4 FWHM beyond the largest radius.
    minimum_snr : float
        Fewest S/N within 1.25 FWHM; if fewer than three stars reach it, half and a quarter
        of it are tried.
    maximum : int
        Most stars.
    light : (ndarray, ndarray), optional
        Sums within 1.25 FWHM of all sources and their errors, where they are known already.

    Returns
    -------
    GrowthCurve or None
        None if there is no star.
    """
    bits = np.zeros(np.shape(sci), np.uint16) if mask is None else mask
    px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
    grid = (
        fwhm_px * np.geomspace(_FIRST_FWHM, _LAST_FWHM, _STEPS)
        if radii is None
        else np.sort(np.atleast_1d(np.asarray(radii, np.float64)))
    )
    last = float(grid[-1])
    ring = annulus or (last + _GAP_FWHM * fwhm_px, last + (_GAP_FWHM + _WIDTH_FWHM) * fwhm_px)
    if light is None:
        small = aperture_sums(sci, err, bits, px, py, [SMALL_FWHM * fwhm_px])
        light = small.flux[:, 0], small.flux_err[:, 0]
    flux, error = light
    shape = (np.shape(sci)[0], np.shape(sci)[1])
    stars = np.zeros(0, np.int64)
    for snr in (minimum_snr, minimum_snr / 2, minimum_snr / 4):
        stars = choose_stars(
            shape, px, py, flux, error, separation_px=last + fwhm_px, margin_px=last,
            usable=usable, minimum_snr=snr, maximum=maximum,
        )  # fmt: skip
        if stars.size >= 3:
            break
    if not stars.size:
        return None
    others = np.ones(px.size, bool)
    others[stars] = False
    with np.errstate(invalid="ignore", divide="ignore"):
        snr_all = flux / error
    hidden = mask_sources(bits, px[others], py[others], snr_all[others], fwhm_px)
    quiet = mask_sources(hidden, px[stars], py[stars], snr_all[stars], fwhm_px)
    curves, variance = _curves(sci, err, hidden, quiet, px[stars], py[stars], grid, ring)
    fraction, fraction_err = clipped_means(curves, variance, _CLIP)
    good = np.isfinite(curves).all(axis=1)
    if not np.isfinite(fraction).all():
        return None
    wing, beta = _wings(grid, fraction, fwhm_px)
    return GrowthCurve(grid, fraction, fraction_err, curves[good], stars[good], wing, beta)


def _curves(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    hidden: NDArray[np.uint16],
    quiet: NDArray[np.uint16],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radii: NDArray[np.float64],
    ring: Sequence[float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Curves of single stars and their variances."""
    sums = aperture_sums(sci, err, hidden, x, y, radii, bad_bits=0xFFFF)
    sky = local_sky(sci, quiet, x, y, ring)
    flux = sums.flux - sums.area * sky.level[:, None]
    total = flux[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = flux / total
        inner, outer = sums.flux_err**2, sums.flux_err[:, -1:] ** 2
        ring_term = ((part * sums.area[:, -1:] - sums.area) * sky.level_err[:, None]) ** 2
        variance = (
            (1 - part) ** 2 * inner + part**2 * np.maximum(outer - inner, 0) + ring_term
        ) / total**2
    complete = np.abs(sums.area - np.pi * radii**2) < 0.01 * np.pi * radii**2
    bad = ~(complete & np.isfinite(part) & (total > 0) & ~sky.missing[:, None])
    bad |= bad.any(axis=1, keepdims=True)
    return np.where(bad, np.nan, part), np.where(bad, np.nan, variance)


def _wings(
    radii: NDArray[np.float64], fraction: NDArray[np.float64], fwhm_px: float
) -> tuple[float, float]:
    """Fit ``T G(r) = 1 - (1 + (r/alpha)**2)**(1 - beta)`` beyond a FWHM; return 1 - T, beta."""
    use = radii >= fwhm_px
    if use.sum() < 4:
        return float("nan"), float("nan")
    r, g = radii[use], fraction[use]
    betas = np.geomspace(1.5, 30.0, 120)[:, None]
    alpha = fwhm_px / (2 * np.sqrt(2 ** (1 / betas) - 1))
    model = 1 - (1 + (r / alpha) ** 2) ** (1 - betas)
    scale = (model * g).sum(axis=1) / (g * g).sum()
    best = int(np.argmin(((model - scale[:, None] * g) ** 2).sum(axis=1)))
    return max(1.0 - float(scale[best]), 0.0), float(betas[best, 0])
