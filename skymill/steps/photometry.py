"""Forced photometry: the light of known positions on a frame that is not resampled.

Every position gets a row in every frame. Where nothing can be measured the flux is NaN
and the flags say why; faint and negative fluxes are kept, or averages would be biased.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.errors import ConfigError, Result, StepFailed
from skymill.measure.flags import PhotFlag
from skymill.resample import pixel_to_pixel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.frame import Background, Frame
    from skymill.kernels.apertures import ApertureSums
    from skymill.measure.growth import GrowthCurve
    from skymill.measure.positions import Positions
    from skymill.measure.psf import PSFModel

__all__ = ["PhotFlag", "empty_photometry", "photometry", "photometry_columns"]

#: Fewer stars make no PSF of the frame.
_PSF_STARS = 3
#: Columns that methods add to those of the apertures.
_METHODS = {"optimal": "opt", "psf": "psf"}


def photometry(
    frame: Frame,
    sky: Background,
    wcs: WCS,
    positions: Table,
    grid_wcs: WCS,
    row: Mapping[str, Any],
    *,
    fwhm_px: float,
    apertures_fwhm: Sequence[float] = (0.75, 1.25, 2.0),
    main_aperture: int = 1,
    annulus_fwhm: Sequence[float] = (4.0, 7.0),
    background: Literal["annulus", "mesh"] = "annulus",
    sky_estimator: Literal["mean", "median", "mode"] = "mean",
    masked: Literal["replace", "exclude", "flag"] = "replace",
    methods: Sequence[str] = ("aperture",),
    psf_degree: int | None = None,
    telescope_diameter_m: float | None = None,
    listed: Positions | None = None,
) -> Result[Table]:
    """Measure the fluxes at the positions of a stack's catalogue, and at listed ones.

    ``flux = sum(w (I - mesh)) - n b`` with the level ``b`` of an annulus, and
    ``flux_err**2 = sum(w**2 V) + n**2 var(b)``, both by `skymill.measure`.

    Parameters
    ----------
    frame : Frame
        Calibrated frame with its final mask, electron.
    sky : Background
        Background of the frame.
    wcs : astropy.wcs.WCS
        Solved world coordinates of the frame.
    positions : Table
        Columns source, x, y (0-based pixels of the grid); used if there: ra, dec, flags.
    grid_wcs : astropy.wcs.WCS
        World coordinates of the grid, of the same kind as `wcs`.
    row : mapping
        Row of the sheet; used: frame_id, mjd_mid (for what moves), exptime_s and site (for
        scintillation).
    fwhm_px : float
        FWHM of the frame.
    apertures_fwhm : sequence of float
        Radii in FWHM.
    main_aperture : int
        Index of the radius behind flux and flux_err.
    annulus_fwhm : (float, float)
        Inner and outer radius of the annulus in FWHM.
    background : {"annulus", "mesh"}
        Subtract the level of the annulus, or that of the mesh only.
    sky_estimator : {"mean", "median", "mode"}
        Of the clipped pixels of the annulus.
    masked : {"replace", "exclude", "flag"}
        What is done about masked pixels.
    methods : sequence of {"aperture", "optimal", "psf"}
        Fluxes besides those of the apertures.
    psf_degree : int, optional
        Degree of the polynomial of the PSF over the frame.
    telescope_diameter_m : float, optional
        Adds scintillation to the errors.
    listed : Positions, optional
        Further positions. Their ``source`` is -1, -2, ... in the order of the list.

    Returns
    -------
    Result of Table
        One row per position, in the order of `positions` and of the list. Numbers:
        n_positions, n_measured, n_good, r_main_px, fwhm_px; ``apcor_<k>``,
        ``apcor_err_<k>`` (factor to the light within 4 FWHM), n_growth_stars, wing_fraction;
        psf_stars, psf_scale, psf_scale_err; scintillation.

    Raises
    ------
    StepFailed
        NO_STARS if the FWHM is not known; WCS_RELATIVE if frame and grid have world
        coordinates of different kinds, or the list is on the sky and the frame is not.
    """
    from astropy.table import Table

    found = photometry_columns(
        frame, sky, wcs, positions, grid_wcs, row, fwhm_px=fwhm_px,
        apertures_fwhm=apertures_fwhm, main_aperture=main_aperture, annulus_fwhm=annulus_fwhm,
        background=background, sky_estimator=sky_estimator, masked=masked, methods=methods,
        psf_degree=psf_degree, telescope_diameter_m=telescope_diameter_m, listed=listed,
    )  # fmt: skip
    table = Table(found.value, copy=False)
    _describe(table, len(apertures_fwhm))
    return Result(table, found.flags, found.numbers)


def photometry_columns(
    frame: Frame,
    sky: Background,
    wcs: WCS,
    positions: Table,
    grid_wcs: WCS,
    row: Mapping[str, Any],
    *,
    fwhm_px: float,
    apertures_fwhm: Sequence[float] = (0.75, 1.25, 2.0),
    main_aperture: int = 1,
    annulus_fwhm: Sequence[float] = (4.0, 7.0),
    background: Literal["annulus", "mesh"] = "annulus",
    sky_estimator: Literal["mean", "median", "mode"] = "mean",
    masked: Literal["replace", "exclude", "flag"] = "replace",
    methods: Sequence[str] = ("aperture",),
    psf_degree: int | None = None,
    telescope_diameter_m: float | None = None,
    listed: Positions | None = None,
) -> Result[dict[str, NDArray[Any]]]:
    """Like `photometry`, without a table of each frame: a block makes one of all.

    Returns
    -------
    Result of dict
        Columns of `empty_photometry`, in its order.
    """
    from skymill.kernels.circles import aperture_sums
    from skymill.measure.apertures import aperture_columns
    from skymill.measure.growth import SMALL_FWHM, growth_curve
    from skymill.measure.rings import mask_sources

    frame_id = str(row["frame_id"])
    if not (fwhm_px is not None and np.isfinite(fwhm_px) and fwhm_px > 0):
        raise StepFailed("NO_STARS", f"{frame_id}: the FWHM is not known, so no radius can be set")
    if wcs.has_celestial != grid_wcs.has_celestial:
        raise StepFailed(
            "WCS_RELATIVE", f"{frame_id}: frame and catalogue have positions of different kinds"
        )
    out, usable = _rows(frame_id, positions, grid_wcs, wcs, listed, row)
    x, y = out["x"], out["y"]
    level = sky.level_map()
    sci = np.ascontiguousarray(frame.sci - level)
    planes = (sci, frame.err, frame.mask)
    radii = [float(factor) * fwhm_px for factor in apertures_fwhm]
    ring = [float(f) * fwhm_px for f in annulus_fwhm] if background == "annulus" else None
    # One pass over the pixels for all radii that anything below needs.
    plain = aperture_sums(*planes, x, y, [*radii, SMALL_FWHM * fwhm_px])
    # Sources of the stack are there on every frame, also where this one does not show them.
    known = out["source"] > 0
    quiet = frame.mask
    if ring is not None:
        snr = _significance(plain, main_aperture, radii[main_aperture])
        quiet = mask_sources(frame.mask, x, y, snr, fwhm_px, known=known)
    flicker = _flicker(frame, wcs, row, telescope_diameter_m)
    common: dict[str, Any] = {
        "annulus": ring, "level_err": float(sky.level_err), "scintillation": flicker,
    }  # fmt: skip
    found = aperture_columns(
        *planes, x, y, radii, sky=sky_estimator, sky_mask=quiet, masked=masked,
        main=main_aperture, sums=plain if masked == "replace" else None, **common,
    )  # fmt: skip
    usable &= found["flags"] == 0
    curve = growth_curve(
        *planes, x, y, fwhm_px=fwhm_px, usable=usable,
        light=(plain.flux[:, -1], plain.flux_err[:, -1]),
    )  # fmt: skip
    out["flux"], out["flux_err"] = (
        found[f"{name}_{main_aperture}"] for name in ("flux", "flux_err")
    )
    for k in range(len(radii)):
        for name in (f"flux_{k}", f"flux_err_{k}"):
            out[name] = found[name]
    numbers, flags = _corrections(curve, radii), []
    if set(methods) & set(_METHODS):
        model, few = _psf(planes, x, y, fwhm_px, usable, psf_degree, frame_id)
        flags += few
        numbers |= {"psf_stars": model.n_stars, "psf_scale": model.scale,
                    "psf_scale_err": model.scale_err}  # fmt: skip
        _profile_fluxes(out, planes, x, y, model, methods, quiet, common)
    out["apcor"] = np.full(len(x), numbers[f"apcor_{main_aperture}"])
    out["apcor_err"] = np.full(len(x), numbers[f"apcor_err_{main_aperture}"])
    out["sky"] = found["sky"] + _level_at(level, x, y)
    out["sky_err"] = found["sky_err"]
    out["fwhm"] = np.full(len(x), float(fwhm_px))
    out["flags"], out["mask_or"] = found["flags"], found["mask_or"]
    good = (out["flags"] & int(PhotFlag.bad())) == 0
    numbers |= {
        "n_positions": len(x),
        "n_measured": int(np.isfinite(out["flux"]).sum()),
        "n_good": int(good.sum()),
        "r_main_px": radii[main_aperture],
        "fwhm_px": float(fwhm_px),
    }
    if flicker:
        numbers["scintillation"] = flicker
    return Result(out, tuple(flags), numbers)


def _significance(sums: ApertureSums, k: int, radius: float) -> NDArray[np.float64]:
    """Flux over error above the mesh; NaN where too much of the circle is lost."""
    from skymill.measure.apertures import LOST_FRACTION

    complete = sums.area[:, k] > (1 - LOST_FRACTION) * np.pi * radius**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(complete, sums.flux[:, k] / sums.flux_err[:, k], np.nan)


def empty_photometry(apertures: int, methods: Sequence[str] = ("aperture",)) -> Table:
    """Return the table of no measurements: all columns, units and descriptions.

    Parameters
    ----------
    apertures : int
        Number of apertures.
    methods : sequence of str
        Methods of the settings.
    """
    from astropy.table import Table

    table = Table({"frame_id": np.zeros(0, "U1"), "source": np.zeros(0, np.int64)})
    table["object"] = np.zeros(0, "U1")
    for name in ("ra", "dec", "x", "y", "flux", "flux_err"):
        table[name] = np.zeros(0)
    kinds = [*(str(k) for k in range(apertures)), *_kinds(methods)]
    for kind in kinds:
        table[f"flux_{kind}"], table[f"flux_err_{kind}"] = np.zeros(0), np.zeros(0)
    for name in ("apcor", "apcor_err", "sky", "sky_err", "fwhm"):
        table[name] = np.zeros(0)
    table["flags"], table["mask_or"] = np.zeros(0, np.int32), np.zeros(0, np.int32)
    _describe(table, apertures)
    return table


def _kinds(methods: Sequence[str]) -> list[str]:
    return [short for name, short in _METHODS.items() if name in methods]


def _rows(
    frame_id: str,
    positions: Table,
    grid_wcs: WCS,
    wcs: WCS,
    listed: Positions | None,
    row: Mapping[str, Any],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Positions of the catalogue and of the list; which of them may tell the PSF."""
    from skymill.steps.sources import SourceFlag

    gx, gy = (np.asarray(positions[name], np.float64) for name in ("x", "y"))
    x, y = pixel_to_pixel(grid_wcs, gx, gy, wcs)
    n = len(positions)
    number = np.asarray(positions["source"], np.int64)
    known, nothing = positions.colnames, np.full(n, np.nan)
    ra, dec = (
        np.asarray(positions[name] if name in known else nothing, np.float64)
        for name in ("ra", "dec")
    )
    names = np.full(n, "", "U1")
    usable = np.ones(n, bool)
    if "flags" in positions.colnames:
        wrong = int(SourceFlag.unusable() | SourceFlag.EXTENDED | SourceFlag.BLENDED)
        usable = (np.asarray(positions["flags"], np.int64) & wrong) == 0
    if listed is not None:
        mjd = row.get("mjd_mid")
        try:
            more = listed.pixels(wcs, None if mjd is None else float(mjd), grid=grid_wcs)
        except ConfigError as error:
            raise StepFailed("WCS_RELATIVE", f"{frame_id}: {error}") from error
        x, y, ra, dec = (np.concatenate([a, b]) for a, b in zip((x, y, ra, dec), more, strict=True))
        number = np.concatenate([number, -1 - np.arange(len(listed))])
        names = np.concatenate([names, np.array(listed.names, dtype=str)])
        usable = np.concatenate([usable, np.zeros(len(listed), bool)])
    name = np.full(len(x), frame_id, dtype=f"U{max(len(frame_id), 1)}")
    columns = {"frame_id": name, "source": number, "object": names}
    return columns | {"ra": ra, "dec": dec, "x": x, "y": y}, usable


def _flicker(frame: Frame, wcs: WCS, row: Mapping[str, Any], diameter_m: float | None) -> float:
    """Relative scintillation of the frame; 0 if it is not asked for or cannot be known."""
    from skymill.measure.flicker import scintillation
    from skymill.times import airmass, parse_site

    exptime = row.get("exptime_s")
    if diameter_m is None or not exptime or not float(exptime) > 0:
        return 0.0
    site, mjd = parse_site(row.get("site")), row.get("mjd_mid")
    mass = 1.0
    if site is not None and mjd is not None and wcs.has_celestial:
        ny, nx = frame.shape
        ra, dec = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
        value = float(
            np.ravel(airmass(np.array([float(mjd)]), np.ravel(ra), np.ravel(dec), site))[0]
        )
        mass = value if np.isfinite(value) and value >= 1 else 1.0
    height = site.height_m if site is not None else 0.0
    return scintillation(diameter_m, float(exptime), mass, height)


def _corrections(curve: GrowthCurve | None, radii: Sequence[float]) -> dict[str, Any]:
    """Aperture corrections of a frame for its outcome; NaN without a growth curve."""
    numbers: dict[str, Any] = {"n_growth_stars": 0 if curve is None else len(curve.stars)}
    if curve is not None:
        numbers["wing_fraction"] = curve.wing_fraction
    for k, radius in enumerate(radii):
        value = error = float("nan")
        if curve is not None and curve.radii[0] <= radius <= curve.radii[-1]:
            value, error = curve.correction(radius)
        numbers[f"apcor_{k}"], numbers[f"apcor_err_{k}"] = value, error
    return numbers


def _psf(
    planes: tuple[Any, Any, Any],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    fwhm_px: float,
    usable: NDArray[np.bool_],
    degree: int | None,
    frame_id: str,
) -> tuple[PSFModel, list[tuple[str, str]]]:
    """PSF of the frame; a Moffat profile of its seeing if there are too few stars."""
    from skymill.measure.psf import PSFModel

    model = PSFModel.fit(*planes, x, y, fwhm_px=fwhm_px, usable=usable, degree=degree)
    if model is not None and model.n_stars >= _PSF_STARS:
        return model, []
    number = 0 if model is None else model.n_stars
    text = (
        f"photometry: {frame_id} has {number} stars for a PSF, fewer than {_PSF_STARS}; "
        "a Moffat profile of its seeing was used."
    )
    shape = (planes[0].shape[0], planes[0].shape[1])
    return PSFModel.from_profile(fwhm_px, shape), [("FEW_STARS", text)]


def _profile_fluxes(
    out: dict[str, NDArray[Any]],
    planes: tuple[Any, Any, Any],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    model: PSFModel,
    methods: Sequence[str],
    quiet: NDArray[np.uint16],
    common: Mapping[str, Any],
) -> None:
    """Add the columns of optimal and PSF fluxes."""
    from skymill.measure.psf_fit import measure_optimal, measure_psf

    if "optimal" in methods:
        found = measure_optimal(*planes, x, y, model, sky_mask=quiet, **common)
        _take(out, found, "opt")
    if "psf" in methods:
        found = measure_psf(*planes, x, y, model, positions="fixed", **common).table
        _take(out, found, "psf")


def _take(out: dict[str, NDArray[Any]], found: Table, kind: str) -> None:
    for name in (f"flux_{kind}", f"flux_err_{kind}"):
        out[name] = np.asarray(found[name])


def _level_at(
    level: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mesh level at the nearest pixel; NaN off the frame."""
    ny, nx = level.shape
    inside = np.isfinite(x) & np.isfinite(y)
    ix = np.where(inside, np.rint(np.where(inside, x, 0)), -1).astype(np.int64)
    iy = np.where(inside, np.rint(np.where(inside, y, 0)), -1).astype(np.int64)
    inside = (ix >= 0) & (iy >= 0) & (ix < nx) & (iy < ny)
    out = np.full(x.size, np.nan)
    out[inside] = level[iy[inside], ix[inside]]
    return out


def _describe(table: Table, apertures: int) -> None:
    texts = {
        "frame_id": ("", "frame"),
        "source": ("", "source of the stack's catalogue; negative: of the list of positions"),
        "object": ("", "name in the list of positions"),
        "ra": ("deg", "right ascension of the position, NaN if not known"),
        "dec": ("deg", "declination of the position, NaN if not known"),
        "x": ("pix", "0-based position on the frame"),
        "y": ("pix", "0-based position on the frame"),
        "flux": ("electron", "flux in the main aperture, background subtracted"),
        "flux_err": ("electron", "one-sigma error of flux"),
        "apcor": ("", "factor from flux to the light within 4 FWHM"),
        "apcor_err": ("", "its error, common to the frame and not in flux_err"),
        "sky": ("electron", "background per pixel"),
        "sky_err": ("electron", "one-sigma error of sky"),
        "fwhm": ("pix", "FWHM of the frame"),
        "flags": ("", "bits of PhotFlag, 0 is good"),
        "mask_or": ("", "mask bits of all pixels in the main aperture"),
        "flux_opt": ("electron", "total flux, optimal weights"),
        "flux_err_opt": ("electron", "one-sigma error of flux_opt"),
        "flux_psf": ("electron", "total flux, PSF fit"),
        "flux_err_psf": ("electron", "one-sigma error of flux_psf"),
    }
    for i in range(apertures):
        texts[f"flux_{i}"] = ("electron", f"flux in aperture {i} of photometry.apertures_fwhm")
        texts[f"flux_err_{i}"] = ("electron", f"one-sigma error of flux_{i}")
    for name in table.colnames:
        unit, text = texts[name]
        table[name].unit = unit or None
        table[name].description = text
