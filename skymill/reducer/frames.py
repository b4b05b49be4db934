"""Measuring the frames of a sequence with any photometer, and joining the light curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.errors import SkymillError
from skymill.jobs.frames import load_background, load_frame
from skymill.jobs.tables import by_frame, records
from skymill.measure.flags import PhotFlag
from skymill.resample import pixel_to_pixel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.frame import Background
    from skymill.reducer.series import Sequence

    Floats = NDArray[np.float64]

__all__ = ["LoadedFrame", "circular_mean", "load", "measure_sequence", "set_psf_params"]

#: Columns of a photometer that are handed on, and what is there where it gives none.
_COLUMNS = {"flux": np.nan, "flux_err": np.nan, "sky": np.nan, "sky_err": np.nan}


@dataclass(frozen=True, eq=False)
class LoadedFrame:
    """One frame, ready to be measured.

    Parameters
    ----------
    frame_id : str
        Its id.
    sci, err : ndarray of float32, shape (ny, nx)
        Background-subtracted signal and its error, electron.
    mask : ndarray of uint16, shape (ny, nx)
        Mask.
    background : Background
        What was subtracted.
    wcs : astropy.wcs.WCS
        Its solution, on the sky or in pixels of the reference frame.
    sources : Table
        Its detections.
    header : mapping
        Its header.
    """

    frame_id: str
    sci: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]
    background: Background
    wcs: WCS
    sources: Table
    header: Any


def load(results: Path, block: str, frame_id: str) -> LoadedFrame | None:
    """Read a frame with its solution and its detections; None if it was not aligned.

    Frames without a single detection have an empty table of sources.
    """
    solution = records(io.read_table(results / "astrometry" / f"{block}.parquet")).get(frame_id)
    if solution is None or str(solution["solution"]) == "none":
        return None
    table = io.read_table(results / "sources" / f"{block}.parquet")
    frame = load_frame(results / "calibrated" / block, results / "mask" / block, frame_id)
    background = load_background(results / "background" / block, frame_id)
    sci = np.ascontiguousarray(frame.sci - background.level_map())
    sci.flags.writeable = False
    wcs = io.wcs_from_text(str(solution["wcs"]))
    sources = by_frame(table).get(frame_id, table[:0])
    return LoadedFrame(frame_id, sci, frame.err, frame.mask, background, wcs, sources, frame.header)


def circular_mean(angles_deg: Any, weights: Any = None) -> float:
    """Return the mean of angles of axes in degree, from -90 to 90.

    Axes have a period of 180 degree: the mean of 89 and -89 is 90, not 0. NaN without a
    direction.
    """
    angles = np.deg2rad(2 * np.asarray(angles_deg, np.float64))
    weight = np.ones_like(angles) if weights is None else np.asarray(weights, np.float64)
    good = np.isfinite(angles) & np.isfinite(weight)
    total = np.array(
        [
            (weight[good] * np.cos(angles[good])).sum(),
            (weight[good] * np.sin(angles[good])).sum(),
        ]
    )
    if not good.any() or np.hypot(*total) < 1e-12:
        return float("nan")
    return float(np.rad2deg(np.arctan2(total[1], total[0])) / 2)


def set_psf_params(
    aperture_selector: Callable[[Any], Any], catalog: Table, *, scale_arcsec: float | None = None
) -> dict[str, float]:
    """Return the typical PSF of some sources.

    Parameters
    ----------
    aperture_selector : callable
        Makes one number of many, for example ``numpy.median``.
    catalog : Table
        Columns a, b (rms along the axes, px) and theta (radian), and flags.
    scale_arcsec : float, optional
        Pixel scale, for the same in arcsec.

    Returns
    -------
    dict
        ``semimajor_sigma``, ``semiminor_sigma`` (px), ``orientation`` (degree from x towards y,
        mean of axes weighted by how elongated the sources are, whatever the selector is),
        ``fwhm_px``, and with a scale ``semimajor_sigma_arcsec``, ``semiminor_sigma_arcsec``.
        NaN without a source.
    """
    from skymill.steps.sources import SourceFlag

    a, b, theta = (np.asarray(catalog[name], np.float64) for name in ("a", "b", "theta"))
    good = np.isfinite(a) & np.isfinite(b) & (b > 0)
    if "flags" in catalog.colnames:
        wrong = int(SourceFlag.unusable() | SourceFlag.EXTENDED | SourceFlag.BLENDED)
        clean = good & ((np.asarray(catalog["flags"], np.int64) & wrong) == 0)
        good = clean if clean.any() else good
    if not good.any():
        return dict.fromkeys(
            ("semimajor_sigma", "semiminor_sigma", "orientation", "fwhm_px"), float("nan")
        )
    major, minor = float(aperture_selector(a[good])), float(aperture_selector(b[good]))
    angle = circular_mean(np.rad2deg(theta[good]), a[good] ** 2 - b[good] ** 2)
    out = {
        "semimajor_sigma": major,
        "semiminor_sigma": minor,
        "orientation": angle if np.isfinite(angle) else 0.0,
        "fwhm_px": float(np.sqrt(8 * np.log(2) * major * minor)),
    }
    if scale_arcsec is not None and np.isfinite(scale_arcsec):
        out["semimajor_sigma_arcsec"] = major * scale_arcsec
        out["semiminor_sigma_arcsec"] = minor * scale_arcsec
    return out


def _frame_psf(
    frame: LoadedFrame, fallback: Mapping[str, float], selector: Callable[[Any], Any], fwhm: float
) -> dict[str, float]:
    """PSF of one frame: seeing of the step sources, shape of its own stars, else of the key."""
    own = set_psf_params(selector, frame.sources)
    psf = own if np.isfinite(own["semimajor_sigma"]) else dict(fallback)
    if np.isfinite(fwhm) and fwhm > 0:
        factor = fwhm / psf["fwhm_px"]
        psf = psf | {"fwhm_px": fwhm}
        psf |= {k: psf[k] * factor for k in ("semimajor_sigma", "semiminor_sigma")}
    return psf | {"level_err": float(frame.background.level_err)}


def matched(
    frame: LoadedFrame, x: Floats, y: Floats, psf: Mapping[str, float], tolerance: float
) -> tuple[Floats, Floats]:
    """Return the nearest detection of each source; NaN where none is near enough."""
    from scipy.spatial import cKDTree

    found = np.full(x.size, np.nan), np.full(x.size, np.nan)
    sx, sy = (np.asarray(frame.sources[name], np.float64) for name in ("x", "y"))
    there, wanted = np.isfinite(sx) & np.isfinite(sy), np.isfinite(x) & np.isfinite(y)
    if not there.any() or not wanted.any():
        return found
    limit = tolerance * float(np.hypot(psf["semimajor_sigma"], psf["semiminor_sigma"]))
    tree = cKDTree(np.column_stack([sx[there], sy[there]]))
    distance, nearest = tree.query(np.column_stack([x[wanted], y[wanted]]))
    index = np.asarray(nearest)
    near = distance <= limit
    rows = np.flatnonzero(wanted)[near]
    found[0][rows], found[1][rows] = sx[there][index[near]], sy[there][index[near]]
    return found


def measure_sequence(
    results: Path,
    sequence: Sequence,
    catalog: Table,
    photometer: Any,
    *,
    psf: Mapping[str, float],
    selector: Callable[[Any], Any],
    skip: frozenset[str] = frozenset(),
) -> Table:
    """Measure the sources of a catalogue on all aligned frames of a sequence.

    Parameters
    ----------
    results : Path
        Products of the project.
    sequence : Sequence
        Frames.
    catalog : Table
        Catalogue of its stack, with the grid in ``meta["wcs"]``.
    photometer : Photometer
        What is measured.
    psf : mapping
        Typical PSF, for frames that tell none.
    selector : callable
        See `set_psf_params`.
    skip : frozenset of str
        Frames that are left out: they become rows with flags when light curves are made.

    Returns
    -------
    Table
        As of the step photometry: one row per frame and source.

    Raises
    ------
    SkymillError
        If the photometer returns no flux, or columns of another length.
    """
    from astropy.table import Table, vstack

    grid = io.wcs_from_text(catalog.meta["wcs"])
    gx, gy = (np.asarray(catalog[name], np.float64) for name in ("x", "y"))
    parts = []
    for block in sequence.blocks:
        seeing = {
            o.frame_id: float(o.numbers.get("fwhm_px") or "nan")
            for o in io.read_outcomes(results / "outcomes" / "sources" / f"{block}.csv")
        }
        for frame_id in sequence.frames:
            if frame_id not in seeing or frame_id in skip:
                continue
            frame = load(results, block, frame_id)
            if frame is None:
                continue
            x, y = pixel_to_pixel(grid, gx, gy, frame.wcs)
            own = _frame_psf(frame, psf, selector, seeing[frame_id])
            if not getattr(photometer, "forced", True):
                x, y = matched(frame, x, y, own, float(getattr(photometer, "tolerance", 3.0)))
            found = photometer.compute(
                frame.sci, frame.err, frame.mask, np.column_stack([x, y]), own
            )
            table = Table({"frame_id": np.full(x.size, frame_id)})
            table["source"] = np.asarray(catalog["source"], np.int64)
            table["x"], table["y"] = x, y
            _fill(table, found, photometer)
            table["sky"] = np.asarray(table["sky"]) + _level(frame.background, x, y)
            table["fwhm"] = np.full(x.size, own["fwhm_px"])
            parts.append(table)
    if not parts:
        raise SkymillError(f"{sequence.key}: no frame is aligned, nothing can be measured")
    return vstack(parts, metadata_conflicts="silent")


def _fill(table: Table, found: Mapping[str, Any], photometer: Any) -> None:
    """Add what a photometer returned; what it does not tell is NaN, and flags say so."""
    name, n = type(photometer).__name__, len(table)
    if "flux" not in found or "flux_err" not in found:
        raise SkymillError(f"{name}.compute must return flux and flux_err")
    for key in dict.fromkeys([*_COLUMNS, *found]):
        if key in ("flags", "frame_id", "source", "x", "y"):
            continue
        raw = found.get(key, np.full(n, _COLUMNS.get(key, np.nan)))
        values = np.array([np.nan if value is None else value for value in raw], dtype=np.float64)
        if values.shape != (n,):
            raise SkymillError(
                f"{name}.compute returned {key} of shape {values.shape} for {n} sources"
            )
        table[key] = values
    table["sky"] = np.nan_to_num(np.asarray(table["sky"]))
    flags = np.asarray(found.get("flags", np.zeros(n)), np.int64)
    lost = ~(np.isfinite(np.asarray(table["flux"])) & np.isfinite(np.asarray(table["flux_err"])))
    table["flags"] = (flags | np.where(lost, int(PhotFlag.NO_FLUX), 0)).astype(np.int32)


def _level(background: Background, x: Floats, y: Floats) -> Floats:
    """Level of the subtracted background at the pixels of positions; NaN off the frame."""
    ny, nx = background.shape
    with np.errstate(invalid="ignore"):
        there = (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    out = np.full(x.size, np.nan)
    i, j = (np.floor(v[there] + 0.5).astype(int) for v in (x, y))
    out[there] = background.level_map()[j, i]
    return out
