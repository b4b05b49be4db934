"""Catalogue of a stack: detection and fluxes with errors for correlated noise.

Resampling correlates the noise of neighbouring pixels. The detection threshold counts
in the true sigma of the filtered image, and the error of an aperture is multiplied by
the correlation factor of its radius.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.aperture_correction import total_over_main
from skymill.errors import Result
from skymill.kernels.detect import gaussian_kernel
from skymill.resample import kernel_factor, local_factor

if TYPE_CHECKING:
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.frame import Background, Frame

__all__ = ["catalog", "empty_catalog", "source_names"]

_MAG = 2.5 / np.log(10)
#: Kernel with which the background step looks for sources (FWHM in px).
_BACKGROUND_KERNEL_FWHM = 2.5
#: Errors that grow with the correlation factor of the main and of the total aperture.
_APERTURES = {"main": ("flux_err", "x_err", "y_err"), "total": ("flux_total_err",)}


def catalog(
    frame: Frame,
    coverage: NDArray[np.uint16] | None,
    noise_correlation: NDArray[np.float32],
    correlation_map: NDArray[np.float32] | None = None,
    *,
    threshold_sigma: float = 5.0,
    minimum_area_px: int = 4,
    deblend_contrast: float = 0.005,
    max_sources: int = 100000,
    aperture_fwhm: float = 1.25,
    total_aperture_fwhm: float = 4.0,
    box_size_px: int = 64,
    source_sigma: float = 3.0,
) -> Result[Table]:
    """Detect and measure the sources of a stack.

    Parameters
    ----------
    frame : Frame
        The stack; its header holds EXPTIME and, if known, ZP, ZPERR and FWHM.
    coverage : ndarray of uint16, shape (ny, nx), or None
        Number of frames, becomes a column.
    noise_correlation : ndarray of float32, shape (odd, odd)
        Correlation of the noise by lag, centre 1.
    correlation_map : ndarray of float32, optional
        Correlation factor of large apertures in cells of 64 px.
    threshold_sigma : float
        Threshold in true sigma of the filtered image.
    minimum_area_px, deblend_contrast, max_sources : int, float, int
        As in the step sources.
    aperture_fwhm, total_aperture_fwhm : float
        Radii of the main and the total aperture in FWHM of the stack.
    box_size_px, source_sigma : int, float
        Mesh of the residual background, threshold of its source mask in true sigma.

    Returns
    -------
    Result of Table
        Columns of the step sources with true errors, and ra, dec, name, coverage,
        mag, mag_err. The magnitude is that of the main aperture with the aperture
        correction of bright stars; NaN without a zero point or for flux <= 0.

    Raises
    ------
    StepFailed
        What the steps background and sources raise.
    """
    from skymill.steps.background import background
    from skymill.steps.sources import sources

    factor = kernel_factor(noise_correlation, gaussian_kernel(_BACKGROUND_KERNEL_FWHM))
    sky = background(frame, box_size_px=box_size_px, source_sigma=source_sigma * factor)
    fwhm = float(frame.header.get("FWHM", 3.0))
    factor = kernel_factor(noise_correlation, gaussian_kernel(fwhm))
    row = {"frame_id": "stack", "exptime_s": frame.header.get("EXPTIME")}
    found = sources(
        frame,
        sky.value,
        row,
        threshold_sigma=threshold_sigma * factor,
        minimum_area_px=minimum_area_px,
        deblend_contrast=deblend_contrast,
        max_sources=max_sources,
        aperture_fwhm=aperture_fwhm,
        total_aperture_fwhm=total_aperture_fwhm,
    )
    numbers = dict(found.numbers) | {"detection_factor": factor}
    table = _true_errors(found.value.copy(), numbers, noise_correlation, correlation_map)
    _add_kron(table, frame, sky.value, noise_correlation, correlation_map)
    _add_positions(table, frame)
    _add_coverage(table, coverage)
    numbers |= _add_magnitudes(table, frame, float(numbers.get("r_total_px") or "nan"))
    return Result(table, (*sky.flags, *found.flags), numbers)


def empty_catalog() -> Table:
    """Return the catalogue of no sources: all columns, units and descriptions."""
    from skymill.steps.sources import empty_sources_table

    table = empty_sources_table()
    _add_kron(table, None, None, None, None)
    _add_positions(table, None)
    _add_coverage(table, None)
    _add_magnitudes(table, None, float("nan"))
    return table


def _true_errors(
    table: Table,
    numbers: dict[str, Any],
    noise_correlation: NDArray[np.float32],
    correlation_map: NDArray[np.float32] | None,
) -> Table:
    """Multiply errors by the correlation factor of their aperture; note the medians."""
    if not len(table):
        return table
    x, y = (np.asarray(table[name], np.float64) for name in ("x", "y"))
    for key, names in _APERTURES.items():
        wider = local_factor(noise_correlation, correlation_map, x, y, numbers[f"r_{key}_px"])
        for name in names:
            table[name] *= wider
        numbers[f"corr_{key}"] = float(np.median(wider))
    return table


def _add_kron(
    table: Table,
    frame: Frame | None,
    sky: Background | None,
    noise_correlation: NDArray[np.float32] | None,
    correlation_map: NDArray[np.float32] | None,
) -> None:
    """Kron fluxes of all sources; pixels nearer to another source are replaced."""
    from skymill.kernels.ellipses import nearest_owners
    from skymill.measure.ellipses import measure_kron

    columns = dict.fromkeys(("flux_kron", "flux_err_kron", "kron_radius"), np.zeros(0))
    if len(table) and frame is not None and sky is not None:
        shape = [np.asarray(table[name], np.float64) for name in ("x", "y", "a", "b", "theta")]
        owners = np.arange(1, len(table) + 1)
        found = measure_kron(
            np.ascontiguousarray(frame.sci - sky.level_map()), frame.err, frame.mask, *shape,
            level_err=float(sky.level_err), segments=nearest_owners(frame.shape, *shape),
            owners=owners, noise_correlation=noise_correlation, correlation_map=correlation_map,
        )  # fmt: skip
        columns = {name: np.asarray(found[name], np.float64) for name in columns}
    for name, values in columns.items():
        table[name] = values
    for name, unit, text in (
        ("flux_kron", "electron", "flux in the Kron ellipse above the global background"),
        ("flux_err_kron", "electron", "one-sigma error of flux_kron"),
        ("kron_radius", None, "semi-major axis of the Kron ellipse in units of a"),
    ):
        table[name].unit = unit
        table[name].description = text


def _add_coverage(table: Table, coverage: NDArray[np.uint16] | None) -> None:
    number = np.zeros(len(table), np.int64)
    if coverage is not None and len(table):
        ny, nx = coverage.shape
        j = np.clip(np.rint(table["y"]), 0, ny - 1).astype(np.int64)
        i = np.clip(np.rint(table["x"]), 0, nx - 1).astype(np.int64)
        number = coverage[j, i].astype(np.int64)
    table["coverage"] = number
    table["coverage"].description = "frames at the central pixel"


def _add_positions(table: Table, frame: Frame | None) -> None:
    x, y = (np.asarray(table[name], np.float64) for name in ("x", "y"))
    ra, dec = np.full(x.size, np.nan), np.full(x.size, np.nan)
    names = np.full(x.size, "", dtype="U24")
    if frame is not None and frame.wcs is not None and frame.wcs.has_celestial and x.size:
        ra, dec = frame.wcs.all_pix2world(x, y, 0)
        names = source_names(ra, dec)
    table["ra"], table["dec"], table["name"] = ra, dec, names
    for name, text in (("ra", "right ascension ICRS"), ("dec", "declination ICRS")):
        table[name].unit = "deg"
        table[name].description = f"{text}, NaN if positions are relative"
    table["name"].description = "name from the position, cut off, not rounded"


def source_names(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.str_]:
    """Return names ``SM JHHMMSS.ss+DDMMSS.s``; digits are cut off as the IAU asks."""
    out = []
    for ra, dec in zip(np.asarray(ra_deg) % 360, dec_deg, strict=True):
        if not (np.isfinite(ra) and np.isfinite(dec)):
            out.append("")
            continue
        # One nano-unit keeps 12.30 from becoming 12.29 by binary rounding.
        time, arc = int(ra / 15 * 360000 + 1e-6), int(abs(dec) * 36000 + 1e-6)
        minutes, seconds = divmod(time, 6000)
        arc_minutes, tenths = divmod(arc, 600)
        out.append(
            f"SM J{minutes // 60:02d}{minutes % 60:02d}{seconds // 100:02d}.{seconds % 100:02d}"
            f"{'-' if dec < 0 else '+'}{arc_minutes // 60:02d}{arc_minutes % 60:02d}"
            f"{tenths // 10:02d}.{tenths % 10}"
        )
    return np.array(out, dtype="U24")


def _add_magnitudes(table: Table, frame: Frame | None, r_total_px: float) -> dict[str, Any]:
    """Calibrate the main aperture; aperture correction from bright, clean sources."""
    flux, err = (np.asarray(table[name], np.float64) for name in ("flux", "flux_err"))
    header = frame.header if frame is not None else {}
    zp, exptime = header.get("ZP"), header.get("EXPTIME")
    mag, mag_err = np.full(flux.size, np.nan), np.full(flux.size, np.nan)
    numbers: dict[str, Any] = {}
    ratio, ratio_err, number = total_over_main(table, r_total_px)
    if number:
        numbers["aperture_correction"], numbers["aperture_correction_err"] = ratio, ratio_err
    with np.errstate(invalid="ignore", divide="ignore"):
        if zp is not None and exptime:
            good = flux > 0
            mag[good] = zp - 2.5 * np.log10(flux[good] * ratio / exptime)
            mag_err[good] = _MAG * err[good] / flux[good]
    table["mag"], table["mag_err"] = mag, mag_err
    table["mag"].unit = table["mag_err"].unit = "mag"
    table["mag"].description = "magnitude of flux with the aperture correction"
    table["mag_err"].description = "random error of mag, without that of the zero point"
    return numbers
