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
    "flags": ("", "bits of PhotFlag; 256: no BJD; 512: no comparison star"),
    "n": ("", "good measurements"),
    "median_flux": ("electron / s", "median of flux_corr"),
    "median_flux_err": ("electron / s", "one-sigma error of median_flux"),
    "rms_mmag": ("", "scatter of the good measurements in mmag"),
    "expected_mmag": ("", "scatter that the errors lead to expect in mmag"),
    "chi2": ("", "reduced chi-square of a constant"),
    "comparison": ("", "whether the source is a comparison star"),
    "transparency": ("", "throughput of the frame from the ensemble"),
    "transparency_err": ("", "one-sigma error of transparency"),
    "n_comparisons": ("", "comparison stars used in the frame"),
}


def describe(*tables: Table) -> None:
    """Give every column its unit and its description."""
    for table in tables:
        for name in table.colnames:
            if name.startswith("id_"):
                text = f"number in the catalogue of filter {name[3:]}, 0 if absent"
                table[name].description = text
                continue
            unit, text = _TEXTS[name]
            table[name].unit = unit or None
            table[name].description = text
