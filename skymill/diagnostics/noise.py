"""The noise of an aperture by its sources, and what is measured beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.diagnostics.figures import COLOURS, Diagnostic, new_figure

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["TERMS", "NoiseModel", "plot_noise"]

_MAG = 2.5 / np.log(10)
#: Terms of the model in the order of the legend.
TERMS = ("shot", "sky", "dark", "read", "bias", "flat", "annulus", "scintillation")
#: Those that are the same in each frame as long as a star stays on its pixels.
SHARED = ("bias", "flat")


@dataclass(frozen=True)
class NoiseModel:
    """What the error of an aperture's flux is made of; everything in electron.

    With ``n = sum(w)`` and ``n2 = sum(w**2)`` of the aperture's pixels:

    =============  ==========================================================
    term           variance
    =============  ==========================================================
    shot           ``F``
    sky            ``n2 sky``
    dark           ``n2 dark``
    read           ``n2 (RN**2 + g**2 / 12)``
    bias           ``n2 sigma_b**2``
    flat           ``sigma_F**2 (F**2 / n_star + n2 sky**2 )``
    annulus        ``n**2 q V_px / n_ann``, ``V_px`` the sum of the terms of a pixel of sky
    scintillation  ``s**2 F**2``
    =============  ==========================================================

    ``sky`` and ``dark`` are levels per pixel, from which their photon noise follows: a measured
    scatter of the sky holds the read noise already and would count it twice.

    Parameters
    ----------
    area_px, area2_px : float
        ``sum(w)`` and ``sum(w**2)`` of the aperture; see `circle`.
    sky_e, dark_e : float
        Level per pixel.
    read_noise_e : float
        Read noise.
    gain_e_adu : float
        For the rounding to whole numbers; 0 leaves it out.
    bias_err_e, flat_err : float
        Error of a pixel of the master bias, and relative error of one of the master flat.
    star_px : float
        Noise-equivalent pixels of the star, ``1 / sum(P**2)``; counts for the flat only.
    annulus_px : float
        Pixels of the annulus of the local sky; 0: no local sky is subtracted.
    annulus_factor : float
        Variance of its level over that of a mean, ``q``; 1.01 for a mean clipped at 4 sigma.
    scintillation : float
        Relative scintillation ``s``, see `skymill.measure.scintillation`.
    """

    area_px: float
    area2_px: float
    sky_e: float
    dark_e: float = 0.0
    read_noise_e: float = 0.0
    gain_e_adu: float = 0.0
    bias_err_e: float = 0.0
    flat_err: float = 0.0
    star_px: float = 1.0
    annulus_px: float = 0.0
    annulus_factor: float = 1.0
    scintillation: float = 0.0

    @classmethod
    def circle(
        cls,
        radius_px: float,
        fwhm_px: float,
        sky_e: float,
        *,
        annulus: tuple[float, float] | None = None,
        **levels: float,
    ) -> NoiseModel:
        """Return the model of a circular aperture.

        Parameters
        ----------
        radius_px : float
            Radius.
        fwhm_px : float
            FWHM of a star, taken for a Gaussian: ``star_px = 4 pi sigma**2``.
        sky_e : float
            Level of the sky per pixel.
        annulus : (float, float), optional
            Radii of the annulus in px.
        **levels
            Further parameters of the model.
        """
        from skymill.kernels.apertures import overlap_area

        half = int(np.ceil(radius_px)) + 1
        offsets = np.arange(-half, half + 1, dtype=float)
        # A quarter of a pixel off in both axes: between the extremes of centred and cornered.
        overlap = np.array(
            [[overlap_area(x + 0.25, y + 0.25, radius_px) for x in offsets] for y in offsets]
        )
        sigma = fwhm_px / np.sqrt(8 * np.log(2))
        ring = 0.0 if annulus is None else np.pi * (annulus[1] ** 2 - annulus[0] ** 2)
        return cls(
            float(overlap.sum()), float((overlap**2).sum()), sky_e,
            star_px=float(max(4 * np.pi * sigma**2, 1.0)), annulus_px=float(ring), **levels,
        )  # fmt: skip

    @property
    def pixel_variance(self) -> float:
        """Variance of a pixel of empty sky in a single frame."""
        return (
            self.sky_e + self.dark_e + self.read_noise_e**2 + self.gain_e_adu**2 / 12
            + self.bias_err_e**2 + (self.flat_err * self.sky_e) ** 2
        )  # fmt: skip

    def variances(self, flux_e: ArrayLike) -> dict[str, Floats]:
        """Return the variance of each term for fluxes in electron; keys as `TERMS`."""
        flux = np.asarray(flux_e, np.float64)
        light = np.maximum(flux, 0.0)
        one = np.ones_like(flux)
        n2, ring = self.area2_px, 0.0
        if self.annulus_px > 0:
            ring = self.area_px**2 * self.annulus_factor * self.pixel_variance / self.annulus_px
        return {
            "shot": light,
            "sky": n2 * self.sky_e * one,
            "dark": n2 * self.dark_e * one,
            "read": n2 * (self.read_noise_e**2 + self.gain_e_adu**2 / 12) * one,
            "bias": n2 * self.bias_err_e**2 * one,
            "flat": self.flat_err**2 * (light**2 / self.star_px + n2 * self.sky_e**2),
            "annulus": ring * one,
            "scintillation": (self.scintillation * light) ** 2,
        }

    def sigma_mag(self, flux_e: ArrayLike, *, repeated: bool = False) -> Floats:
        """Return ``1.0857 sigma / F``: the scatter of a star's magnitudes.

        Parameters
        ----------
        flux_e : array_like
            Fluxes in electron.
        repeated : bool
            The scatter between frames in which a star stays on its pixels: without the errors
            of bias and flat, which are the same in each of them.
        """
        parts = self.variances(flux_e)
        total = sum(parts[name] for name in TERMS if not (repeated and name in SHARED))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(_MAG * np.sqrt(total) / np.asarray(flux_e, np.float64))


def plot_noise(
    model: NoiseModel,
    flux_e: ArrayLike,
    sigma_mag: ArrayLike,
    *,
    measured_mag: ArrayLike | None = None,
    zero_point: float = 0.0,
    repeated: bool = False,
    title: str = "",
) -> Diagnostic:
    """Draw the terms of the noise over magnitude, with errors and scatter of real sources.

    Parameters
    ----------
    model : NoiseModel
        The model.
    flux_e : array_like, shape (n,)
        Fluxes of the sources in electron.
    sigma_mag : array_like, shape (n,)
        Their errors in mag, ``1.0857 err / flux``.
    measured_mag : array_like, shape (n,), optional
        Their measured scatter between frames in mag.
    zero_point : float
        Magnitude of one electron.
    repeated : bool
        What the scatter is compared with, see `NoiseModel.sigma_mag`.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers: ``error_over_model`` and, with a measured scatter, ``scatter_over_model``,
        medians over the sources; ``n_sources``; ``crossing_mag``, where the noise of the star
        itself equals all other noise.
    """
    flux, sigma = (np.asarray(v, np.float64) for v in (flux_e, sigma_mag))
    there = np.isfinite(flux) & (flux > 0) & np.isfinite(sigma) & (sigma > 0)
    numbers: dict[str, float] = {"n_sources": int(there.sum())}
    low, high = _limits(flux[there], model)
    grid = np.geomspace(low, high, 100)
    figure, axes = new_figure(size=(7.2, 5.0))
    ax = axes[0, 0]
    mag = zero_point - 2.5 * np.log10(grid)
    variance = model.variances(grid)
    for number, name in enumerate(TERMS):
        line = _MAG * np.sqrt(variance[name]) / grid
        if (line > 0).any():
            style = ("-", "--")[number % 2]
            ax.plot(mag, line, style, color=COLOURS[number % len(COLOURS)], lw=1.2, label=name)
    ax.plot(mag, model.sigma_mag(grid), color="black", lw=2, label="total")
    own = zero_point - 2.5 * np.log10(flux[there])
    ax.plot(own, sigma[there], ".", color="0.45", ms=5, label="errors of the sources")
    numbers["error_over_model"] = _ratio(sigma[there], model.sigma_mag(flux[there]))
    if measured_mag is not None:
        scatter = np.asarray(measured_mag, np.float64)[there]
        ax.plot(own, scatter, "x", color=COLOURS[1], ms=5, label="measured scatter")
        expected = model.sigma_mag(flux[there], repeated=repeated)
        numbers["scatter_over_model"] = _ratio(scatter, expected)
    rest = sum(variance[name] for name in TERMS if name != "shot")
    crossing = np.flatnonzero(np.diff(np.sign(variance["shot"] - rest)))
    numbers["crossing_mag"] = float(mag[crossing[0]]) if crossing.size else float("nan")
    ax.set_yscale("log")
    ax.invert_xaxis()
    ax.set_ylim(max(float(model.sigma_mag(grid).min()) / 20, 1e-5), None)
    ax.set_xlabel("magnitude" if zero_point else "instrumental magnitude (−2.5 log electron)")
    ax.set_ylabel("standard deviation (mag)")
    ax.set_title(title)
    ax.legend(fontsize="small", ncols=2)
    return Diagnostic(figure, numbers)


def _limits(flux: Floats, model: NoiseModel) -> tuple[float, float]:
    if flux.size:
        return float(flux.min()) / 2, float(flux.max()) * 2
    faint = 3 * float(np.sqrt(model.area2_px * model.pixel_variance))
    return max(faint, 1.0), 1e6


def _ratio(one: Floats, other: Floats) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = one / other
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.median(ratio)) if ratio.size else float("nan")
