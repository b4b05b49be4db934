"""How bright: zero point, throughput, seeing and depth of one frame.

With a catalogue ``zp_i = m_catalogue + 2.5 log10(flux_total / exposure)`` for each star;
the zero point is their robust weighted mean, with an intrinsic scatter ``eps`` that
restricted maximum likelihood finds beside the errors. Three numbers are kept apart: the
statistical error of the mean, the scatter of single stars, and a systematic floor.
Without a catalogue the throughput against the reference frame of the same filter is all
that is known; it is measured in any case.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.aperture_correction import contaminated, total_over_main
from skymill.depth import measure_depth, seed_of
from skymill.errors import Result
from skymill.matching import mutual_pairs
from skymill.steps.sources import SourceFlag
from skymill.wcsmath import pixel_to_sky, sky_to_pixel, wcs_from_text
from skymill.zero_points import (
    Bright,
    Comparison,
    Use,
    compare,
    fill_zero_point,
    saturation_mag,
)
from skymill.zeropoint import robust_offset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.catalogs import RefCatalog
    from skymill.frame import Background, Frame

    Floats = NDArray[np.float64]

__all__ = ["photcal"]

_NAN = float("nan")


#: Sources whose total flux is not that of a star.
_UNUSABLE = SourceFlag.unusable() | SourceFlag.NO_LOCAL_SKY
#: Columns that a comparison needs besides the flags.
_COMPARED = ("x", "y", "flux_total", "flux_total_err")

#: Figures that the outcome repeats.
_REPORTED = (
    *("zp", "zp_err", "zp_scatter", "zp_adu", "throughput", "throughput_err"),
    *("colour_term", "colour_term_err", "saturation_mag"),
    *("fwhm_px", "fwhm_arcsec", "depth_mag", "depth_flux_e"),
)


def photcal(
    sources: Table,
    row: Mapping[str, Any],
    *,
    solution: Mapping[str, Any] | None,
    catalog: RefCatalog | None = None,
    reference: Table | None = None,
    reference_solution: Mapping[str, Any] | None = None,
    frame: Frame | None = None,
    background: Background | None = None,
    measured: Mapping[str, Any] | None = None,
    bands: Mapping[str, str] | None = None,
    minimum_stars: int = 3,
    clip_sigma: float = 4.0,
    floor_mag: float = 0.01,
    expected_scatter_mag: float = 0.03,
    catalog_error_mag: float = 0.01,
    cloudy_throughput: float = 0.7,
    depth_apertures: int = 1000,
    minimum_snr: float = 20.0,
    match_radius_arcsec: float = 2.0,
    match_radius_px: float = 2.0,
    contamination: float = 0.02,
    fit_colour: bool = True,
    colours: Mapping[str, tuple[str, str]] | None = None,
    colour_terms: Mapping[str, float] | None = None,
    spatial_order: int = 0,
    injections: int = 0,
    detection: Mapping[str, Any] | None = None,
) -> Result[dict[str, Any]]:
    """Calibrate the fluxes of one frame.

    Parameters
    ----------
    sources : astropy.table.Table
        Sources of the frame: x, y, flux, flux_err, flux_total, flux_total_err, flags.
    row : mapping
        Its row of the sheet: frame_id, filter, exptime_s, mjd_mid, airmass, gain_e_adu.
    solution : mapping or None
        What astrometry returned for the frame.
    catalog : RefCatalog or None
        Local reference catalogue.
    reference : astropy.table.Table or None
        Reference lists of the field with their ``meta["frames"]``.
    reference_solution : mapping or None
        What astrometry returned for the reference frame of this filter.
    frame, background : Frame and Background or None
        Calibrated frame with its final mask, and its background, for the depth.
    measured : mapping or None
        Figures of the sources step: fwhm_px, ellipticity, sky_e, r_main_px, r_total_px.
    bands : mapping or None
        Filter to catalogue band; by default the same name.
    minimum_stars : int
        Fewest stars of a zero point.
    clip_sigma, expected_scatter_mag
        See `skymill.zeropoint.robust_offset`.
    floor_mag : float
        Systematic floor of the zero point.
    catalog_error_mag : float
        Error of catalogue stars that come without one.
    cloudy_throughput : float
        Less throughput flags the frame CLOUDY.
    depth_apertures : int
        Random empty apertures.
    minimum_snr : float
        Fainter stars are not used.
    match_radius_arcsec, match_radius_px : float
        Distance within which a star is the catalogue's (the reference frame's).
    contamination : float
        Stars with a neighbour of more than this fraction of their flux within the large
        aperture are not used.
    fit_colour : bool
        Fit a colour term where the stars can tell one.
    colours : mapping or None
        Filter to the two catalogue bands of its colour; by default the usual ones.
    colour_terms : mapping or None
        Filter to a colour term that is known; it is not fitted then.
    spatial_order : int
        Order of the polynomial in position; 0: none.
    injections : int
        Stars that are planted to see how many are found again; 0: none.
    detection : mapping or None
        Settings of `skymill.steps.sources.sources` for that.

    Returns
    -------
    Result of dict
        frame_id, solution, zp, zp_main, zp_err, zp_scatter, zp_floor, n_stars, n_rejected, zp_adu,
        throughput, throughput_err, fwhm_px, fwhm_arcsec, ellipticity, sky_e, depth_mag,
        depth_flux_e, half_mag, half_err_mag, half_offset_mag, saturation_mag, airmass, band,
        colour, colour_0, colour_term, colour_term_err, spatial, mjd_mid, exptime_s.
        Unknown figures are NaN.
    """
    use = Use(
        dict(bands or {}),
        minimum_stars,
        clip_sigma,
        expected_scatter_mag,
        catalog_error_mag,
        match_radius_arcsec,
        match_radius_px,
        {key: (one, other) for key, (one, other) in (colours or {}).items()},
        dict(colour_terms or {}),
        fit_colour,
        spatial_order,
    )
    about = dict(measured or {})
    out = _blank(row, about, solution)
    flags: list[tuple[str, str]] = []
    numbers: dict[str, Any] = {}
    wcs = wcs_from_text(str(solution["wcs"])) if solution and solution.get("wcs") else None
    stars = _usable(sources, out["exptime_s"], about, minimum_snr, contamination)
    if catalog is not None:
        scale = _number(solution.get("scale_arcsec_px")) if solution else _NAN
        shape = frame.shape if frame is not None else None
        there = catalog.at_mjd(row.get("mjd_mid"))
        found, why = compare(stars, there, wcs, scale, row, use, shape)
        if found is None:
            flags.append(("NO_ZP", f"{out['frame_id']}: no zero point: {why}"))
        else:
            fill_zero_point(out, numbers, found, floor_mag, row)
            flags += _band_flags(out, found)
            ratio, _, number = total_over_main(sources, _number(about.get("r_total_px")))
            if number:
                out["zp_main"] = out["zp"] - 2.5 * float(np.log10(ratio))
    if reference is not None:
        _fill_throughput(out, numbers, stars, wcs, row, reference, reference_solution, use)
    flags += _judge(out, catalog is not None, cloudy_throughput)
    if frame is not None and background is not None:
        _fill_depth(out, numbers, sources, frame, background, about, depth_apertures)
        if injections:
            _fill_completeness(
                out, numbers, sources, frame, background, about, injections, detection
            )
        level = _number(frame.header.get("SATURATE"))
        times = (out["zp"], out["exptime_s"])
        out["saturation_mag"] = saturation_mag(sources, level, out["sky_e"], *times)
    numbers |= {key: _plain(out[key]) for key in _REPORTED}
    numbers |= {key: out[key] for key in ("n_stars", "n_rejected", "solution", "band")}
    return Result(out, tuple(flags), numbers)


def _blank(
    row: Mapping[str, Any], about: Mapping[str, Any], solution: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All keys of the row, with what is known before any star is compared."""
    fwhm = _number(about.get("fwhm_px"))
    scale = _number(solution.get("scale_arcsec_px")) if solution else _NAN
    return {
        "frame_id": str(row["frame_id"]),
        "solution": "none",
        "zp": _NAN,
        "zp_main": _NAN,
        "zp_err": _NAN,
        "zp_scatter": _NAN,
        "zp_floor": _NAN,
        "n_stars": 0,
        "n_rejected": 0,
        "zp_adu": _NAN,
        "throughput": _NAN,
        "throughput_err": _NAN,
        "fwhm_px": fwhm,
        "fwhm_arcsec": fwhm * scale,
        "ellipticity": _number(about.get("ellipticity")),
        "sky_e": _number(about.get("sky_e")),
        "depth_mag": _NAN,
        "depth_flux_e": _NAN,
        "half_mag": _NAN,
        "half_err_mag": _NAN,
        "half_offset_mag": _NAN,
        "saturation_mag": _NAN,
        "airmass": _number(row.get("airmass")),
        "band": "",
        "colour": "",
        "colour_0": _NAN,
        "colour_term": _NAN,
        "colour_term_err": _NAN,
        "spatial": "",
        "mjd_mid": _number(row.get("mjd_mid")),
        "exptime_s": _number(row.get("exptime_s")),
    }


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return _NAN


def _plain(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None


def _usable(
    sources: Table | Mapping[str, Any],
    exptime_s: float,
    about: Mapping[str, Any],
    minimum_snr: float,
    contamination: float,
) -> Bright:
    """Stars without bad pixels or neighbours, bright enough to compare."""
    x, y, flux, err = (np.asarray(sources[name], dtype=float) for name in _COMPARED)
    xy = np.stack([x, y], axis=1)
    with np.errstate(all="ignore"):
        good = np.isfinite(xy).all(axis=1) & (flux > 0) & (err > 0) & (flux / err >= minimum_snr)
        rate = flux / exptime_s
    good &= np.isfinite(rate)
    good &= (np.asarray(sources["flags"], dtype=int) & int(_UNUSABLE)) == 0
    radius = _number(about.get("r_total_px"))
    if np.isfinite(radius) and good.any():
        good &= ~contaminated(xy, flux, radius, contamination)
    index = np.flatnonzero(good)
    return Bright(
        xy[index],
        -2.5 * np.log10(rate[index]),
        1.0857 * err[index] / flux[index],
        flux[index],
    )


@lru_cache(maxsize=8)
def _known_wcs(text: str) -> WCS:
    """World coordinates of a reference frame, the same for frame after frame; not changed."""
    return wcs_from_text(text)


def _fill_throughput(
    out: dict[str, Any],
    numbers: dict[str, Any],
    stars: Bright,
    wcs: WCS | None,
    row: Mapping[str, Any],
    reference: Table,
    reference_solution: Mapping[str, Any] | None,
    use: Use,
) -> None:
    """Compare the rates of the frame with those of the reference frame of its filter."""
    facts = reference.meta.get("frames", {})
    band = str(row.get("filter") or "")
    name = next((key for key in sorted(facts) if facts[key]["filter"] == band), None)
    numbers["reference"] = name
    if name == out["frame_id"]:
        out["throughput"], out["throughput_err"] = 1.0, 0.0
        return
    if name is None or wcs is None or not reference_solution:
        return
    there = _known_wcs(str(reference_solution["wcs"]))
    if wcs.has_celestial != there.has_celestial or not len(stars.xy):
        return
    here = np.flatnonzero(np.asarray(reference["frame_id"]).astype(str) == name)
    rows = {key: np.asarray(reference[key])[here] for key in (*_COMPARED, "flags")}
    other = _usable(rows, _number(facts[name]["exptime_s"]), facts[name], 0.0, 1.0)
    world = pixel_to_sky(wcs, stars.xy)
    expected = sky_to_pixel(there, world[:, 0], world[:, 1])
    i, j = mutual_pairs(expected, other.xy, use.match_radius_px)
    numbers["n_reference"] = len(i)
    if not len(i):
        return
    ratio = robust_offset(
        other.mag[j] - stars.mag[i],
        np.hypot(stars.err[i], other.err[j]),
        clip_sigma=use.clip_sigma,
        expected_scatter=use.expected_scatter_mag,
    )
    out["throughput"] = float(10 ** (0.4 * ratio.value))
    out["throughput_err"] = out["throughput"] * ratio.err / 1.0857


def _band_flags(out: Mapping[str, Any], found: Comparison) -> list[tuple[str, str]]:
    """Say if the light seems to have come through another filter."""
    name = out["frame_id"]
    if found.better_band:
        text = (
            f"{name}: the stars scatter by {out['zp_scatter']:.3f} mag about band {found.band}, "
            f"and far less about {found.better_band}: is the filter what the header says?"
        )
        return [("FILTER_MISMATCH", text)]
    return []


def _judge(out: dict[str, Any], catalog: bool, cloudy: float) -> list[tuple[str, str]]:
    """Say what kind of flux scale there is, and whether light is missing."""
    flags = []
    name, throughput = out["frame_id"], out["throughput"]
    if out["solution"] == "none" and np.isfinite(throughput):
        out["solution"] = "relative"
        text = f"{name}: fluxes are relative to the reference frame of the filter"
        flags.append(("ZP_RELATIVE", text))
    elif out["solution"] == "none" and not catalog:
        text = f"{name}: neither a catalogue nor stars of the reference frame to compare with"
        flags.append(("NO_ZP", text))
    if throughput < cloudy:
        text = (
            f"{name}: {100 * throughput:.0f} % of the light of the reference frame arrives, "
            f"photcal.cloudy_throughput is {100 * cloudy:.0f} %"
        )
        flags.append(("CLOUDY", text))
    return flags


def _fill_depth(
    out: dict[str, Any],
    numbers: dict[str, Any],
    sources: Table,
    frame: Frame,
    background: Background,
    about: Mapping[str, Any],
    number: int,
) -> None:
    """Add the 5-sigma depth as a flux and, with a zero point, as a magnitude."""
    radius = _number(about.get("r_main_px"))
    if not radius > 0:
        return
    depth = measure_depth(
        sources,
        frame,
        background,
        frame_id=out["frame_id"],
        radius_px=radius,
        source_radius_px=_number(about.get("r_total_px")),
        number=number,
    )
    numbers["depth_apertures"] = depth.empty.number
    if not np.isfinite(depth.flux_e):
        return
    numbers |= {
        "sigma_aperture_e": _plain(depth.empty.sigma_e),
        "depth_ratio": _plain(depth.empty.sigma_e / depth.empty.analytic_e),
        "background_residual_e": _plain(depth.empty.median_e),
        "aperture_correction": _plain(depth.correction),
    }
    out["depth_flux_e"] = depth.flux_e
    if np.isfinite(out["zp"]):
        rate = depth.flux_e / out["exptime_s"]
        out["depth_mag"] = float(out["zp"] - 2.5 * np.log10(rate))


def _fill_completeness(
    out: dict[str, Any],
    numbers: dict[str, Any],
    sources: Table,
    frame: Frame,
    background: Background,
    about: Mapping[str, Any],
    number: int,
    detection: Mapping[str, Any] | None,
) -> None:
    """Add the magnitude at which one half of planted stars is found."""
    from skymill.completeness import completeness
    from skymill.steps.sources import sources as find

    settings = dict(detection or {})
    fwhm, beta = _number(about.get("fwhm_px")), _number(about.get("moffat_beta"))
    if not fwhm > 0:
        return

    def detect(planted: Frame) -> Floats:
        table = find(planted, background, **settings).value
        return np.column_stack([np.asarray(table[name], float) for name in ("x", "y")])

    try:
        found = completeness(
            frame,
            np.column_stack([np.asarray(sources[name], float) for name in ("x", "y")]),
            detect,
            noise_e=_number(about.get("sky_rms_e")),
            fwhm_px=fwhm,
            beta=beta if beta > 1 else np.inf,
            threshold_sigma=float(settings.get("threshold_sigma", 4.5)),
            minimum_area_px=int(settings.get("minimum_area_px", 4)),
            number=number,
            seed=seed_of(out["frame_id"]),
        )
    except ValueError as error:
        numbers["completeness"] = str(error)
        return
    out["half_err_mag"], out["half_offset_mag"] = found.half_err_mag, found.offset_mag
    numbers["half_flux_e"] = _plain(found.half_e)
    numbers["half_offset_mag"] = _plain(found.offset_mag)
    if np.isfinite(out["zp"]):
        out["half_mag"] = float(out["zp"] - 2.5 * np.log10(found.half_e / out["exptime_s"]))
