"""Forced photometry: the light of known positions on a frame that is not resampled.

Every position gets a row in every frame. Where nothing can be measured the flux is NaN
and the flags say why; faint and negative fluxes are kept, or averages would be biased.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.frame import Background, Frame, MaskBit
from skymill.resample import pixel_to_pixel
from skymill.steps._rings import RING_CLIP_SIGMA, mask_sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["PhotFlag", "empty_photometry", "photometry"]

#: More of an aperture than this fraction lost for good leaves no flux.
_LOST_FRACTION = 0.01


class PhotFlag(IntFlag):
    """Why a forced measurement should be looked at twice. Zero is a good one."""

    OUTSIDE = 1 << 0  #: the position is not on the frame; no flux
    EDGE = 1 << 1  #: the aperture leaves the frame
    MASKED = 1 << 2  #: bad pixels in the aperture, replaced by their opposites
    SATURATED = 1 << 3  #: saturated pixels in the aperture
    NO_FLUX = 1 << 4  #: nothing could be measured
    NO_ANNULUS = 1 << 5  #: too few good pixels in the annulus, the mesh level was used

    @classmethod
    def bad(cls) -> PhotFlag:
        """Flags of measurements that are left out of statistics."""
        return cls.OUTSIDE | cls.EDGE | cls.MASKED | cls.SATURATED | cls.NO_FLUX


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
) -> Result[Table]:
    """Measure the fluxes at the positions of a stack's catalogue.

    ``flux = sum(w (I - mesh)) - n_ap b`` with the level ``b`` of an annulus, and
    ``flux_err**2 = sum(w**2 V) + n_ap**2 var(b)``.

    Parameters
    ----------
    frame : Frame
        Calibrated frame with its final mask, electron.
    sky : Background
        Background of the frame.
    wcs : astropy.wcs.WCS
        Solved world coordinates of the frame.
    positions : Table
        Columns source, x, y: 0-based pixels of the grid.
    grid_wcs : astropy.wcs.WCS
        World coordinates of the grid, of the same kind as `wcs`.
    row : mapping
        Row of the sheet; used: frame_id.
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

    Returns
    -------
    Result of Table
        One row per position, in the order of `positions`.

    Raises
    ------
    StepFailed
        NO_STARS if the FWHM is not known; WCS_RELATIVE if frame and grid have world
        coordinates of different kinds.
    """
    from skymill.kernels.apertures import annulus_background, aperture_sum

    frame_id = str(row["frame_id"])
    if not (fwhm_px is not None and np.isfinite(fwhm_px) and fwhm_px > 0):
        raise StepFailed("NO_STARS", f"{frame_id}: the FWHM is not known, so no radius can be set")
    if wcs.has_celestial != grid_wcs.has_celestial:
        raise StepFailed(
            "WCS_RELATIVE", f"{frame_id}: frame and catalogue have positions of different kinds"
        )
    gx, gy = (np.asarray(positions[name], np.float64) for name in ("x", "y"))
    x, y = pixel_to_pixel(grid_wcs, gx, gy, wcs)
    sci = np.ascontiguousarray(frame.sci - sky.level_map())
    radii = [float(factor) * fwhm_px for factor in apertures_fwhm]
    sums = [aperture_sum(sci, frame.err, frame.mask, x, y, radius) for radius in radii]
    level, level_err = np.zeros(x.size), np.full(x.size, float(sky.level_err))
    no_ring = np.zeros(x.size, bool)
    if background == "annulus":
        inner, outer = (float(factor) * fwhm_px for factor in annulus_fwhm)
        bright = sums[main_aperture].flux / sums[main_aperture].flux_err
        others = mask_sources(frame.mask, x, y, bright, fwhm_px)
        ring = annulus_background(sci, others, x, y, inner, outer, clip_sigma=RING_CLIP_SIGMA)
        no_ring = ~(np.isfinite(ring.level) & np.isfinite(ring.level_err))
        level = np.where(no_ring, level, ring.level)
        level_err = np.where(no_ring, level_err, ring.level_err)
    fluxes = [
        _flux(item, radius, level, level_err) for item, radius in zip(sums, radii, strict=True)
    ]
    main = sums[main_aperture]
    flags = _flags(frame.shape, x, y, main, np.isfinite(fluxes[main_aperture][0]))
    flags |= np.where(no_ring, int(PhotFlag.NO_ANNULUS), 0)
    mesh = _level_at(sky, x, y)
    table = _table(frame_id, positions, (x, y), fluxes, main_aperture)
    table["sky"] = level + mesh
    table["sky_err"] = level_err
    table["flags"] = flags.astype(np.int32)
    table["mask_or"] = main.mask_or.astype(np.int32)
    _describe(table, len(radii))
    good = (flags & int(PhotFlag.bad())) == 0
    numbers = {
        "n_positions": len(table),
        "n_measured": int(np.isfinite(fluxes[main_aperture][0]).sum()),
        "n_good": int(good.sum()),
        "r_main_px": radii[main_aperture],
        "fwhm_px": float(fwhm_px),
    }
    return Result(table, (), numbers)


def empty_photometry(apertures: int) -> Table:
    """Return the table of no measurements: all columns, units and descriptions.

    Parameters
    ----------
    apertures : int
        Number of apertures.
    """
    from astropy.table import Table

    nothing = np.zeros(0)
    positions = Table({"source": np.zeros(0, np.int64)})
    table = _table("", positions, (nothing, nothing), [(nothing, nothing)] * apertures, 0)
    table["sky"], table["sky_err"] = nothing, nothing
    table["flags"], table["mask_or"] = nothing.astype(np.int32), nothing.astype(np.int32)
    _describe(table, apertures)
    return table


def _flux(
    sums: Any, radius: float, level: NDArray[np.float64], level_err: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Flux and error; NaN where more than one per cent of the circle is lost for good."""
    area = np.pi * radius**2
    complete = sums.area > (1 - _LOST_FRACTION) * area
    flux = np.where(complete, sums.flux - sums.area * level, np.nan)
    err = np.sqrt(sums.flux_err**2 + (sums.area * level_err) ** 2)
    return flux, np.where(np.isfinite(flux), err, np.nan)


def _flags(
    shape: tuple[int, int],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sums: Any,
    measured: NDArray[np.bool_],
) -> NDArray[np.int64]:
    ny, nx = shape
    with np.errstate(invalid="ignore"):
        outside = ~((x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5))
    bits = sums.mask_or.astype(np.int64)
    edge = (bits & int(MaskBit.OUTSIDE | MaskBit.EDGE)) != 0
    saturated = (bits & int(MaskBit.SATURATED | MaskBit.BLEED)) != 0
    masked = (bits & int(MaskBit.bad() & ~MaskBit.OUTSIDE & ~MaskBit.EDGE)) != 0
    flags = np.zeros(x.size, np.int64)
    for where, flag in (
        (outside, PhotFlag.OUTSIDE),
        (edge & ~outside, PhotFlag.EDGE),
        (masked, PhotFlag.MASKED),
        (saturated, PhotFlag.SATURATED),
        (~measured, PhotFlag.NO_FLUX),
    ):
        flags[where] |= int(flag)
    return flags


def _level_at(
    sky: Background, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mesh level at the nearest pixel; NaN off the frame."""
    ny, nx = sky.shape
    level = sky.level_map()
    inside = np.isfinite(x) & np.isfinite(y)
    ix = np.where(inside, np.rint(np.where(inside, x, 0)), -1).astype(np.int64)
    iy = np.where(inside, np.rint(np.where(inside, y, 0)), -1).astype(np.int64)
    inside = (ix >= 0) & (iy >= 0) & (ix < nx) & (iy < ny)
    out = np.full(x.size, np.nan)
    out[inside] = level[iy[inside], ix[inside]]
    return out


def _table(
    frame_id: str,
    positions: Table,
    where: tuple[NDArray[np.float64], NDArray[np.float64]],
    fluxes: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    main: int,
) -> Table:
    from astropy.table import Table

    table = Table()
    table["frame_id"] = np.full(len(positions), frame_id, dtype=f"U{max(len(frame_id), 1)}")
    table["source"] = np.asarray(positions["source"], np.int64)
    table["x"], table["y"] = where
    table["flux"], table["flux_err"] = fluxes[main]
    for i, (flux, err) in enumerate(fluxes):
        table[f"flux_{i}"], table[f"flux_{i}_err"] = flux, err
    return table


def _describe(table: Table, apertures: int) -> None:
    texts = {
        "frame_id": ("", "frame"),
        "source": ("", "source of the stack's catalogue"),
        "x": ("pix", "0-based position on the frame"),
        "y": ("pix", "0-based position on the frame"),
        "flux": ("electron", "flux in the main aperture, background subtracted"),
        "flux_err": ("electron", "one-sigma error of flux"),
        "sky": ("electron", "background per pixel"),
        "sky_err": ("electron", "one-sigma error of sky"),
        "flags": ("", "bits of PhotFlag, 0 is good"),
        "mask_or": ("", "mask bits of all pixels in the main aperture"),
    }
    for i in range(apertures):
        texts[f"flux_{i}"] = ("electron", f"flux in aperture {i} of photometry.apertures_fwhm")
        texts[f"flux_{i}_err"] = ("electron", f"one-sigma error of flux_{i}")
    for name, (unit, text) in texts.items():
        table[name].unit = unit or None
        table[name].description = text
