"""What could be a reference for a frame: calibrated frames and stacks, with their outlines."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.errors import ConfigError, SkymillError
from skymill.jobs.tables import records
from skymill.wcsmath import pixel_scale, pixel_to_sky, wcs_from_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from astropy.wcs import WCS

    from skymill.plan import Plan
    from skymill.products import OpenFrame
    from skymill.sphere import Polygon

__all__ = ["Candidate", "candidate_of", "footprint", "project_candidates"]

#: Straight pieces of a side of a distorted frame; great circles do for a TAN frame.
_PIECES = 8
_NAN = math.nan


@dataclass(frozen=True)
class Candidate:
    """A frame or stack with what the search compares.

    Parameters
    ----------
    id, kind, path : str, str, Path
        Identifier; ``frame`` or ``stack``; the file.
    instrument : tuple of str
        Instrument, detector and binning; empty where not known.
    filter : str
        Filter.
    mjd_begin, mjd_end : float
        Start of the first and end of the last exposure, MJD UTC; NaN if not known.
    seeing_arcsec, depth_mag : float
        FWHM and 5-sigma depth; NaN if not known.
    outline : tuple of unit vectors
        Border of the pixels on the sky.
    frames : frozenset of str
        Frames whose light is in it: itself, or those of the stack as far as known.
    """

    id: str
    kind: str
    path: Path
    instrument: tuple[str, str, str]
    filter: str
    mjd_begin: float
    mjd_end: float
    seeing_arcsec: float
    depth_mag: float
    outline: Polygon
    frames: frozenset[str] = frozenset()


def footprint(wcs: WCS, shape: tuple[int, int]) -> Polygon:
    """Return the border of the pixels of an image as a polygon on the sky.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial world coordinates.
    shape : tuple of int
        Shape (ny, nx).

    Raises
    ------
    SkymillError
        If the coordinates are not celestial or not finite on the border.
    """
    if not wcs.has_celestial:
        raise SkymillError("without positions on the sky there is no outline on the sky")
    ny, nx = shape
    plain = not wcs.has_distortion and all(str(c)[4:] == "-TAN" for c in wcs.wcs.ctype)
    n = 1 if plain else _PIECES
    t = np.arange(n) / n
    zero, one = np.zeros(n), np.ones(n)
    x = np.concatenate([t, one, 1 - t, zero]) * nx - 0.5
    y = np.concatenate([zero, t, one, 1 - t]) * ny - 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sky = np.radians(pixel_to_sky(wcs, np.stack([x, y], axis=1)))
    if not np.isfinite(sky).all():
        raise SkymillError("the world coordinates are not finite on the border")
    lon, lat = sky.T
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    return tuple((float(a), float(b), float(c)) for a, b, c in xyz)


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    first, second, third = (
        str(row.get(name) or "") for name in ("instrument", "detector", "binning")
    )
    return first, second, third


def _common(keys: set[tuple[str, str, str]]) -> tuple[str, str, str]:
    """Return what the frames of a stack have in common."""
    found = [{key[k] for key in keys} for k in range(3)]
    first, second, third = (part.pop() if len(part) == 1 else "" for part in found)
    return first, second, third


def _number(value: Any) -> float:
    try:
        return _NAN if value is None else float(value)
    except (TypeError, ValueError):
        return _NAN


def candidate_of(frame: OpenFrame) -> Candidate:
    """Return what the search compares, of an opened frame or stack.

    Raises
    ------
    SkymillError
        If it has no positions on the sky.
    """
    if frame.wcs is None:
        raise SkymillError(f"{frame.id} has no world coordinates, so nothing overlaps with it")
    row = frame.row
    key = _key(row) if row else (str(frame.header.get("INSTRUME", "")), "", "")
    start = _number(row.get("mjd_start") or frame.mjd_start)
    exposure = _number(row.get("exptime_s") or frame.exptime)
    end = start + (0.0 if math.isnan(exposure) else exposure) / 86400
    seeing, depth = _number(frame.seeing), _number(frame.depth)
    if frame.is_stack:
        end = _number(frame.header.get("MJD-END"))
        seeing, depth = _stack_figures(frame.results, frame.id, frame.header, frame.wcs,
                                       frame.frame.shape)  # fmt: skip
    kind = "stack" if frame.is_stack else "frame"
    outline = footprint(frame.wcs, frame.frame.shape)
    filter_ = str(row.get("filter") or frame.filter or "")
    return Candidate(
        frame.id, kind, frame.path, key, filter_, start, end, seeing, depth, outline,
        frozenset(() if frame.is_stack else (frame.id,)),
    )  # fmt: skip


def project_candidates(folder: str | Path) -> list[Candidate]:
    """Return the calibrated frames and stacks of a project that lie on the sky.

    Parameters
    ----------
    folder : str or Path
        Project folder.

    Returns
    -------
    list of Candidate
        By kind and identifier. Frames without positions on the sky, and what was not
        made, are not among them.

    Raises
    ------
    ConfigError
        If the folder holds no project with a sheet.
    """
    from skymill.plan import make_plan
    from skymill.settings import load_settings
    from skymill.sheet import read_sheet

    folder = Path(folder)
    if not (folder / "config" / "frames.csv").is_file():
        raise ConfigError(f"{folder.name} holds no project: config/frames.csv is missing")
    settings = load_settings(folder / "config" / "config.yaml")
    plan = make_plan(read_sheet(folder / "config" / "frames.csv"), settings, folder)
    found = [*_frames(folder / "results", plan), *_stacks(folder / "results", plan)]
    return sorted(found, key=lambda item: (item.kind, item.id))


def _frames(results: Path, plan: Plan) -> Iterator[Candidate]:
    for block in plan.blocks.values():
        solved = _table(results / "astrometry" / f"{block.id}.parquet")
        fluxes = _table(results / "photcal" / f"{block.id}.parquet")
        for name in block.frames:
            path = results / "calibrated" / block.id / f"{name}.fits"
            solution = solved.get(name, {"solution": "none"})
            if solution["solution"] == "none" or not path.is_file():
                continue
            try:
                wcs = wcs_from_text(str(solution["wcs"]))
                outline = footprint(wcs, (int(solution["ny"]), int(solution["nx"])))
            except SkymillError:  # relative to a reference frame: nowhere on the sky
                continue
            row, flux = plan.rows[name], fluxes.get(name, {})
            start = _number(row["mjd_start"])
            exposure = _number(row["exptime_s"])
            yield Candidate(
                name, "frame", path, _key(row), str(row["filter"]), start,
                start + (0.0 if math.isnan(exposure) else exposure) / 86400,
                _number(flux.get("fwhm_arcsec")), _number(flux.get("depth_mag")), outline,
                frozenset((name,)),
            )  # fmt: skip


def _stacks(results: Path, plan: Plan) -> Iterator[Candidate]:
    for stack in plan.stacks.values():
        path = results / "stack" / f"{stack.id}.fits"
        if not path.is_file():
            continue
        try:
            wcs, shape = io.read_geometry(path)
            if wcs is None:
                continue
            outline = footprint(wcs, shape)
        except (SkymillError, KeyError):  # relative, or a stack that could not be made
            continue
        header = io.read_primary(path)
        seeing, depth = _stack_figures(results, stack.id, header, wcs, shape)
        told = io.read_outcomes(results / "outcomes" / "stack" / f"{stack.id}.csv")
        used = frozenset(o.frame_id for o in told if o.usable and o.frame_id != stack.id)
        keys = {_key(plan.rows[name]) for name in used if name in plan.rows}
        yield Candidate(
            stack.id, "stack", path, _common(keys), stack.filter,
            _number(header.get("MJD-BEG")), _number(header.get("MJD-END")), seeing, depth,
            outline, used,
        )  # fmt: skip


def _stack_figures(
    results: Path, name: str, header: Mapping[str, Any], wcs: WCS, shape: tuple[int, int]
) -> tuple[float, float]:
    """Return seeing (arcsec) and depth (mag) of a stack; NaN where nobody measured them."""
    seeing = _number(header.get("FWHM")) * pixel_scale(wcs, shape)
    depth = _number(header.get("DEPTH"))
    for step in ("stack", "catalog"):
        path = results / "outcomes" / step / f"{name}.csv"
        if math.isnan(depth) and path.is_file():
            told = (o.numbers.get("depth_mag") for o in io.read_outcomes(path) if o.usable)
            depth = next((v for v in map(_number, told) if not math.isnan(v)), _NAN)
    return seeing, depth


def _table(path: Path) -> dict[str, dict[str, Any]]:
    return records(io.read_table(path)) if path.is_file() else {}
