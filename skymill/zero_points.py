"""The zero point of one frame: stars of a catalogue, colour and position terms.

``m_catalogue = m_instrument + zp + k (colour - colour_0) + sum_j s_j f_j(x, y)``

with ``m_instrument = -2.5 log10(flux_total / exposure)``. The functions ``f_j`` have mean
zero over the frame and ``colour_0`` is the typical colour of the field, so ``zp`` is that
of a typical star on the whole frame, with or without terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.matching import mutual_pairs
from skymill.wcsmath import sky_to_pixel
from skymill.zeropoint import Offset, TermFit, robust_fit, robust_offset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.catalogs import RefCatalog

    Floats = NDArray[np.float64]

__all__ = [
    "Bright",
    "Comparison",
    "Use",
    "colour_pair",
    "compare",
    "fill_zero_point",
    "saturation_mag",
    "spatial_terms",
]

#: Names of rejected stars that are listed.
_LISTED = 30
#: Stars that a fit needs beside five for each term.
_FIT_STARS = 8
#: Colours that scatter less tell no colour term (mag, standard deviation).
_COLOUR_RANGE = 0.15
#: Another band is named if its stars scatter this many times less, and this much at least.
_MISMATCH = 2.0
_MISMATCH_MAG = 0.05
_COLOURS = {
    "U": ("U", "B"), "B": ("B", "V"), "V": ("B", "V"), "R": ("V", "R"), "I": ("V", "I"),
    "u": ("u", "g"), "g": ("g", "r"), "r": ("g", "r"), "i": ("r", "i"), "z": ("i", "z"),
    "y": ("z", "y"), "G": ("BP", "RP"), "BP": ("BP", "RP"), "RP": ("BP", "RP"),
    "J": ("J", "K"), "H": ("J", "K"), "K": ("J", "K"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bright:
    """Stars of a frame that can be compared.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        0-based positions.
    mag, err : ndarray, shape (n,)
        Instrumental magnitude of the rate (electron/s), and its error.
    flux : ndarray, shape (n,)
        Total flux in electron.
    """

    xy: Floats
    mag: Floats
    err: Floats
    flux: Floats


@dataclass(frozen=True)
class Use:
    """Settings of the comparisons, see `skymill.steps.photcal.photcal`."""

    bands: Mapping[str, str]
    minimum_stars: int
    clip_sigma: float
    expected_scatter_mag: float
    catalog_error_mag: float
    match_radius_arcsec: float
    match_radius_px: float
    colours: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    colour_terms: Mapping[str, float] = field(default_factory=dict)
    fit_colour: bool = True
    spatial_order: int = 0


@dataclass(frozen=True, eq=False)
class Comparison:
    """Stars of the catalogue on the frame and what they say.

    Parameters
    ----------
    offset : Offset
        Zero point and which stars were kept.
    residuals : ndarray, shape (n,)
        Catalogue magnitude minus the calibrated one.
    names : ndarray of str, shape (n,)
        Stars of the catalogue.
    band : str
        Band of the catalogue.
    xy, mag, colour : ndarray
        Position on the frame, catalogue magnitude and colour (NaN where unknown).
    fit : TermFit or None
        The fitted terms: colour first, if it was fitted, then position.
    colour_pair, colour_0 : tuple of str, float
        Bands of the colour and the colour that the zero point belongs to.
    colour_term, colour_term_err : float
        Colour term; fitted, or as given (error 0); NaN if there is none.
    better_band : str
        Band that fits the stars much better; empty if there is none.
    """

    offset: Offset
    residuals: Floats
    names: NDArray[np.str_]
    band: str
    xy: Floats
    mag: Floats
    colour: Floats
    fit: TermFit | None = None
    colour_pair: tuple[str, str] | None = None
    colour_0: float = float("nan")
    colour_term: float = float("nan")
    colour_term_err: float = float("nan")
    better_band: str = ""


def colour_pair(catalog: RefCatalog, band: str, wanted: tuple[str, str] | None) -> Any:
    """Return the bands whose difference is the colour for a band, or None."""
    pair = wanted or _COLOURS.get(band.rsplit("_", maxsplit=1)[-1])
    if pair is None:
        return None
    found = tuple(catalog.find_band(name) for name in pair)
    return found if None not in found else None


def spatial_terms(xy: Floats, shape: tuple[int, int], order: int) -> Floats:
    """Legendre products of total order 1 to ``order`` over the frame, shape (n, k).

    Their mean over the frame is zero.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        0-based positions.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    order : int
        Highest total order; 0 for no term.
    """
    from numpy.polynomial.legendre import legval

    ny, nx = shape
    u = 2 * (xy[:, 0] + 0.5) / nx - 1
    v = 2 * (xy[:, 1] + 0.5) / ny - 1
    columns = [
        legval(u, np.eye(order + 1)[i]) * legval(v, np.eye(order + 1)[total - i])
        for total in range(1, order + 1)
        for i in range(total, -1, -1)
    ]
    return np.column_stack(columns) if columns else np.zeros((len(xy), 0))


def compare(
    stars: Bright,
    catalog: RefCatalog,
    wcs: WCS | None,
    scale: float,
    row: Mapping[str, Any],
    use: Use,
    shape: tuple[int, int] | None = None,
) -> tuple[Comparison | None, str]:
    """Compare with the catalogue; without a result the second item says why.

    Parameters
    ----------
    stars : Bright
        Stars of the frame.
    catalog : RefCatalog
        Reference catalogue, at the epoch of the frame.
    wcs : astropy.wcs.WCS or None
        Solved world coordinates.
    scale : float
        Pixel scale in arcsec.
    row : mapping
        Row of the sheet: filter.
    use : Use
        Settings.
    shape : tuple of int, optional
        Shape (ny, nx) of the frame, for spatial terms.
    """
    filter_ = str(row.get("filter") or "")
    wanted = use.bands.get(filter_, filter_)
    band = catalog.find_band(wanted) if wanted else None
    if band is None:
        return None, (
            f"{catalog.label} has no band {wanted!r} for filter {row.get('filter')!r}, it has "
            f"{', '.join(catalog.bands) or 'none'}; name one in photcal.bands"
        )
    if wcs is None or not wcs.has_celestial:
        return None, "the frame has no sky positions to find catalogue stars by"
    mag, err = catalog.band(band, use.catalog_error_mag)
    expected = sky_to_pixel(wcs, catalog.ra, catalog.dec)
    expected[~np.isfinite(mag)] = np.nan
    i, j = mutual_pairs(stars.xy, expected, max(use.match_radius_arcsec / scale, 1.0))
    if len(i) < use.minimum_stars:
        return None, (
            f"{len(i)} usable stars of {catalog.label} are on the frame, "
            f"photcal.minimum_stars is {use.minimum_stars}"
        )
    sigma = np.hypot(stars.err[i], err[j])
    found = _fitted(stars.xy[i], mag[j], stars.mag[i], sigma, j, catalog, band, filter_, use, shape)
    kept = int(found.offset.keep.sum())
    if kept < use.minimum_stars:
        return None, (
            f"only {kept} of {len(i)} stars agree on a zero point, "
            f"photcal.minimum_stars is {use.minimum_stars}"
        )
    return found, ""


def _fitted(
    xy: Floats,
    mag: Floats,
    instrumental: Floats,
    sigma: Floats,
    index: NDArray[np.intp],
    catalog: RefCatalog,
    band: str,
    filter_: str,
    use: Use,
    shape: tuple[int, int] | None,
) -> Comparison:
    """Fit the zero point with the terms that the stars can tell."""
    values = mag - instrumental
    pair = colour_pair(catalog, band, use.colours.get(filter_))
    colour, colour_0 = np.full(len(values), np.nan), float("nan")
    if pair is not None:
        colour = catalog.band(pair[0])[0][index] - catalog.band(pair[1])[0][index]
        known = np.isfinite(colour)
        # Rounded, so that all frames of a field refer to one colour.
        colour_0 = round(float(np.median(colour[known])), 1) if known.any() else float("nan")
    given = use.colour_terms.get(filter_)
    term = term_err = float("nan")
    if given is not None and np.isfinite(colour_0):
        values = values - given * np.where(np.isfinite(colour), colour - colour_0, 0.0)
        term, term_err = float(given), 0.0
    robust: dict[str, Any] = {
        "clip_sigma": use.clip_sigma, "expected_scatter": use.expected_scatter_mag,
    }  # fmt: skip
    order = use.spatial_order if shape is not None else 0
    space = spatial_terms(xy, shape, order) if shape is not None else np.zeros((len(xy), 0))
    if len(values) < _FIT_STARS + 5 * space.shape[1]:
        space = space[:, :0]
    known = np.isfinite(colour)
    by_colour = use.fit_colour and given is None and known.any()
    by_colour = by_colour and known.sum() >= _FIT_STARS + 5 * (1 + space.shape[1])
    by_colour = by_colour and float(np.std(colour[known])) >= _COLOUR_RANGE
    if not by_colour and not space.shape[1]:
        offset = robust_offset(values, sigma, **robust)
        fit, residuals = None, values - offset.value
    else:
        part = known if by_colour else np.ones(len(values), bool)
        terms = space[part]
        if by_colour:
            terms = np.column_stack([colour[part] - colour_0, terms])
        fit = robust_fit(values[part], sigma[part], terms, **robust)
        keep, residuals = np.zeros(len(values), bool), np.full(len(values), np.nan)
        keep[part], residuals[part] = fit.offset.keep, fit.residuals
        offset = Offset(fit.offset.value, fit.offset.err, fit.offset.scatter, keep)
        if by_colour:
            term, term_err = float(fit.coefficients[0]), float(fit.errors[0])
    better = _better_band(catalog, band, index, instrumental, sigma, offset, robust)
    return Comparison(
        offset, residuals, catalog.name[index], band, xy, mag, colour, fit,
        pair, colour_0, term, term_err, better,
    )  # fmt: skip


def _better_band(
    catalog: RefCatalog,
    band: str,
    index: NDArray[np.intp],
    instrumental: Floats,
    sigma: Floats,
    offset: Offset,
    robust: Mapping[str, Any],
) -> str:
    """Name a band in which the stars scatter far less than in that of the filter."""
    if not offset.scatter > _MISMATCH_MAG or offset.keep.sum() < _FIT_STARS:
        return ""
    best, least = "", offset.scatter / _MISMATCH
    for other in catalog.bands:
        mag = catalog.band(other)[0][index]
        known = np.isfinite(mag)
        if other == band or known.sum() < max(_FIT_STARS, 0.8 * len(mag)):
            continue
        found = robust_offset(mag[known] - instrumental[known], sigma[known], **robust)
        if found.keep.sum() >= offset.keep.sum() and found.scatter < least:
            best, least = other, found.scatter
    return best


def fill_zero_point(
    out: dict[str, Any],
    numbers: dict[str, Any],
    found: Comparison,
    floor_mag: float,
    row: Mapping[str, Any],
) -> None:
    """Write a comparison into the row of the frame and the figures of its outcome."""
    offset = found.offset
    gain = float(row.get("gain_e_adu") or "nan")
    # 1 ADU/s is gain electron/s: brighter, so its magnitude is smaller.
    to_adu = -2.5 * np.log10(gain) if gain > 0 else float("nan")
    out |= {
        "solution": "absolute",
        "zp": offset.value,
        "zp_err": offset.err,
        "zp_scatter": offset.scatter,
        "zp_floor": floor_mag,
        "zp_adu": float(offset.value + to_adu),
        "n_stars": int(offset.keep.sum()),
        "n_rejected": int((~offset.keep).sum()),
        "band": found.band,
        "colour": "-".join(found.colour_pair or ()) if np.isfinite(found.colour_term) else "",
        "colour_0": found.colour_0 if np.isfinite(found.colour_term) else float("nan"),
        "colour_term": found.colour_term,
        "colour_term_err": found.colour_term_err,
        "spatial": _spatial_text(found),
    }
    off = found.residuals
    rejected = np.flatnonzero(~offset.keep & np.isfinite(off))
    rejected = rejected[np.argsort(-np.abs(off[rejected]), kind="stable")][:_LISTED]
    numbers["rejected"] = "; ".join(f"{found.names[k]}:{off[k]:+.3f}" for k in rejected)
    numbers["zp_std"] = round(float(1.4826 * np.median(np.abs(off[offset.keep]))), 6)


def _spatial_text(found: Comparison) -> str:
    """Coefficients of the spatial terms as a short text; empty if there are none."""
    if found.fit is None:
        return ""
    first = 1 if np.isfinite(found.colour_term) and found.colour_term_err > 0 else 0
    return " ".join(f"{value:.5f}" for value in found.fit.coefficients[first:])


def saturation_mag(
    sources: Table, saturation_e: float, sky_e: float, zp: float, exptime_s: float
) -> float:
    """Magnitude of a star whose brightest pixel reaches the saturation level.

    From the ratio of total flux to peak of the frame's bright stars (median).

    Parameters
    ----------
    sources : Table
        Sources of the frame: flux_total, flux_total_err, peak, flags.
    saturation_e, sky_e : float
        Saturation level and sky in electron.
    zp, exptime_s : float
        Zero point and exposure.

    Returns
    -------
    float
        NaN if one of them, or a bright unsaturated star, is missing.
    """
    names = ("flux_total", "flux_total_err", "peak")
    if not {*names, "flags"} <= set(sources.colnames):
        return float("nan")
    flux, err, peak = (np.asarray(sources[name], float) for name in names)
    with np.errstate(all="ignore"):
        good = (flux / err > 50) & (peak > 0) & (np.asarray(sources["flags"], int) == 0)
        room = saturation_e - sky_e
        if not (good.any() and room > 0 and np.isfinite(zp) and exptime_s > 0):
            return float("nan")
        total = float(np.median(flux[good] / peak[good])) * room
    return float(zp - 2.5 * np.log10(total / exptime_s))
