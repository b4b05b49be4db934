"""Units and meanings of the columns of the light-curve tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["describe"]

_TEXTS = {
    "source": ("", "number of the source in the field"),
    "filter": ("", "filter"),
    "frame_id": ("", "frame"),
    "mjd_mid": ("d", "middle of the exposure, MJD UTC"),
    "bjd_tdb": ("d", "barycentric Julian date, TDB, mid-exposure, for the source's direction"),
    "airmass": ("", "airmass of the source"),
    "x": ("pix", "0-based position"),
    "y": ("pix", "0-based position"),
    "ra": ("deg", "right ascension ICRS, NaN if positions are relative"),
    "dec": ("deg", "declination ICRS, NaN if positions are relative"),
    "fwhm": ("pix", "FWHM of the frame"),
    "sky": ("electron", "background per pixel"),
    "flux": ("electron / s", "measured flux in the main aperture"),
    "flux_err": ("electron / s", "one-sigma error of flux"),
    "flux_corr": ("electron / s", "flux at transparency 1, from the other comparison stars"),
    "flux_corr_err": ("electron / s", "one-sigma error of flux_corr"),
    "rel_flux": ("", "flux_corr relative to the median of the source"),
    "rel_flux_err": ("", "one-sigma error of rel_flux, without the ensemble's floor"),
    "mag": ("mag", "magnitude, NaN below 3 sigma or without a zero point"),
    "mag_err": ("mag", "one-sigma random error of mag"),
    "diff_flux": ("", "flux over the sum of the chosen comparison stars"),
    "diff_flux_err": ("", "one-sigma error of diff_flux"),
    "mag_fit": ("mag", "magnitude fitted to the reference of all frames"),
    "mag_fit_err": ("mag", "one-sigma error of mag_fit"),
    "mag_epd": ("mag", "magnitude without what goes with external parameters"),
    "mag_tfa": ("mag", "magnitude without the trends of the templates"),
    "flags": (
        "",
        "bits of PhotFlag; 2^24: no BJD; 2^25: no comparison star in the frame; "
        "2^26: a chosen comparison star was lost",
    ),
    "name": ("", "name of the source, empty without one"),
    "role": ("", "target, comparison, or empty"),
    "n": ("", "good measurements"),
    "median_flux": ("electron / s", "median of flux_corr"),
    "median_flux_err": ("electron / s", "one-sigma error of median_flux"),
    "rms_mmag": ("", "scatter of the good measurements in mmag"),
    "expected_mmag": ("", "scatter that the errors lead to expect in mmag"),
    "chi2": ("", "reduced chi-square of a constant"),
    "beta": ("", "scatter of bins over that of white noise, bins of 4 points and more"),
    "red_noise_mmag": ("", "correlated part of the scatter in mmag"),
    "rms_fit_mmag": ("", "scatter of mag_fit in mmag"),
    "rms_before_epd_mmag": ("", "scatter before decorrelation in mmag"),
    "rms_epd_mmag": ("", "scatter of mag_epd in mmag, number of terms allowed for"),
    "n_terms_epd": ("", "terms of the decorrelation, 0: the star was left as it is"),
    "rms_before_tfa_mmag": ("", "scatter before the trend filter in mmag"),
    "rms_tfa_mmag": ("", "scatter of mag_tfa in mmag, number of templates allowed for"),
    "n_terms_tfa": ("", "templates and constant of the trend filter, 0: left as it is"),
    "depth_mmag": ("", "depth of the transit fitted with the trends, in mmag"),
    "depth_err_mmag": ("", "one-sigma error of depth_mmag"),
    "comparison": ("", "whether the source is a comparison star"),
    "transparency": ("", "throughput of the frame from the ensemble"),
    "transparency_err": ("", "one-sigma error of transparency"),
    "n_comparisons": ("", "comparison stars used in the frame"),
    "magfit_stars": ("", "stars of the magnitude fit"),
    "magfit_terms": ("", "terms of the magnitude fit, 0: the frame was not corrected"),
    "magfit_rms_mmag": ("", "robust scatter of the residuals of the magnitude fit in mmag"),
    "magfit_chi2": ("", "reduced chi-square of the magnitude fit"),
}


def describe(*tables: Table) -> None:
    """Give every column its unit and its description."""
    for table in tables:
        for name in table.colnames:
            if name.startswith("id_"):
                text = f"number in the catalogue of filter {name[3:]}, 0 if absent"
                table[name].description = text
                continue
            unit, text = _TEXTS.get(name) or _aperture(name)
            table[name].unit = unit or None
            table[name].description = text


def _aperture(name: str) -> tuple[str, str]:
    """Columns of photometry that are handed on, named after their aperture."""
    if name.startswith("flags_"):
        return "", f"bits of PhotFlag of {name.removeprefix('flags_')}"
    plain = name.removeprefix("flux_").removesuffix("_err")
    where = f"aperture {plain}" if plain.isdigit() else f"method {plain}"
    error = "one-sigma error of the " if name.endswith("_err") else ""
    return "electron / s", f"{error}flux as measured, {where} of photometry"
