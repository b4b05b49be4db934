"""Astrometry against truth: simulated fields with distortion, wrong catalogues, real nights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from bench.runs import SHARED, Figure, project, skymill
from skymill.affine import Affine
from skymill.catalogs import RefCatalog
from skymill.io import read_geometry, read_table
from skymill.jobs.frames import frame_file
from skymill.jobs.tables import by_frame
from skymill.patterns import mutual_pairs
from skymill.star_lists import star_arrays
from skymill.steps.astrometry import astrometry
from skymill.wcsmath import (
    Distortion,
    compose,
    kind_of,
    pixel_to_sky,
    sky_to_pixel,
    wcs_from_text,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Field", "false_solutions", "figures", "rms_over_limit"]

SHAPE = (1800, 2000)
#: Position errors of the catalogue are this small, so that the centroids alone count.
CATALOG_ARCSEC = 0.005
MJD = 60_310.0  # 2024-01-01; the catalogue is of 2000
SCALE = 0.5


@dataclass
class Field:
    """A simulated field and what a frame sees of it.

    Parameters
    ----------
    truth : WCS
        True coordinates of the pixels.
    header : WCS
        What the frame claims.
    catalog : RefCatalog
        Stars at the catalogue's epoch, with proper motions.
    sources : Table
        Detections: 80 % stars, 20 % not.
    xy, seen, err : ndarray
        True positions of the stars on the frame, measured ones and their errors (px).
    """

    truth: WCS
    header: WCS
    catalog: RefCatalog
    sources: Table
    xy: np.ndarray
    seen: np.ndarray
    err: np.ndarray


def _tangent(ra: float, dec: float, rotation: float, *, mirrored: bool = False) -> WCS:
    t = np.radians(rotation)
    matrix = np.array([[-np.cos(t), np.sin(t)], [np.sin(t), np.cos(t)]]) * SCALE / 3600
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [SHAPE[1] / 2 + 0.5, SHAPE[0] / 2 + 0.5]
    wcs.wcs.cd = matrix @ np.diag([-1.0, 1.0]) if mirrored else matrix
    wcs.wcs.set()
    return wcs


def _wrong(rng: np.random.Generator, turn: float) -> Affine:
    """An error of the pointing: 40 px, half a degree, one percent of scale, and a turn."""
    t = np.radians(turn + rng.uniform(-0.5, 0.5))
    matrix = (1 + rng.uniform(-0.01, 0.01)) * np.array(
        [[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]
    )
    middle = np.array([SHAPE[1] - 1, SHAPE[0] - 1]) / 2
    return Affine(matrix, middle - matrix @ middle + rng.uniform(-40, 40, 2))


def field(
    rng: np.random.Generator,
    n: int = 400,
    *,
    turn: float = 0.0,
    mirrored: bool = False,
    distortion_px: float = 5.0,
    spurious: float = 0.2,
) -> Field:
    """Simulate a field: SIP of order 3, proper motions, errors from 0.01 to 0.1 px."""
    place = (float(rng.uniform(0, 360)), float(np.degrees(np.arcsin(rng.uniform(-0.98, 0.98)))))
    rotation = float(rng.uniform(0, 360))
    plane = _tangent(*place, rotation, mirrored=mirrored)
    cubic = rng.normal(0, 1, (7, 2))
    middle = np.array([SHAPE[1] - 1, SHAPE[0] - 1]) / 2
    bent = Distortion(3, middle, max(SHAPE) / 2, cubic)
    corners = np.array([[x, y] for x in (0.0, SHAPE[1] - 1) for y in (0.0, SHAPE[0] - 1)])
    size = np.hypot(*(bent(corners) - corners).T).max()
    bent = Distortion(3, middle, max(SHAPE) / 2, cubic * distortion_px / size)
    truth = compose(plane, Affine(np.eye(2), np.zeros(2)), SHAPE, bent)
    xy = rng.uniform([0, 0], [SHAPE[1] - 1, SHAPE[0] - 1], (n, 2))
    mag = 12 + 6 * rng.power(2.5, n)
    sky = pixel_to_sky(truth, xy)
    years = (MJD - 51544.5) / 365.25
    # A tail of fast stars: 1 arcsec and more since the epoch of the catalogue.
    motion = rng.normal(0, 8, (n, 2)) + (rng.random((n, 1)) < 0.05) * rng.normal(0, 80, (n, 2))
    dec = sky[:, 1] - motion[:, 1] * years / 3.6e6
    ra = sky[:, 0] - motion[:, 0] * years / 3.6e6 / np.cos(np.radians(dec))
    catalog = RefCatalog(
        "truth",
        ra % 360,
        dec,
        np.arange(n).astype(str),
        {"r": mag},
        {"r": np.full(n, 0.01)},
        pmra=motion[:, 0],
        pmdec=motion[:, 1],
    )
    err = np.clip(0.01 * 10 ** (0.2 * (mag - 13)), 0.01, 0.1)
    seen = xy + rng.normal(0, 1, xy.shape) * err[:, None]
    k = int(spurious / (1 - spurious) * n)
    flux = np.concatenate([10 ** (-0.4 * (mag - 25)), 10 ** rng.uniform(2.8, 5.2, k)])
    where = np.concatenate([seen, rng.uniform([0, 0], [SHAPE[1], SHAPE[0]], (k, 2))])
    errors = np.concatenate([err, np.full(k, 0.1)])
    order = np.argsort(-flux, kind="stable")
    sources = Table({"x": where[order, 0], "y": where[order, 1], "flux": flux[order]})
    sources["x_err"] = sources["y_err"] = errors[order]
    header = compose(_tangent(*place, rotation), _wrong(rng, turn), SHAPE)
    return Field(truth, header, catalog, sources, xy, seen, err)


def solved(item: Field, **settings: Any) -> dict[str, Any] | None:
    """Solve a field; None if that was refused."""
    row = {"frame_id": "a", "filter": "r", "mjd_mid": MJD}
    settings = {"catalog_error_arcsec": CATALOG_ARCSEC, "blind": "never", **settings}
    value = astrometry(
        item.sources, row, item.header, SHAPE, None, None, item.catalog, **settings
    ).value
    return value if value["solution"] == "absolute" else None


#: Turn of the frame against its header in degree, and whether it is a mirror image.
_POINTINGS = ((0.0, False), (180.0, False), (90.0, False), (0.0, True), (33.0, False))


def rms_over_limit(trials: int = 15, projection: str = "auto") -> tuple[float, str]:
    """Return the worst (rms - 0.005 px) over the centroid limit, and what it was made of.

    The residual is that of every star of the field, measured position through the
    solution against its true position on the sky, per axis in pixels; it is taken for
    all stars and for the brighter half, whose centroids are better.
    """
    worst, ratios, maps, lost = 0.0, [], [], 0
    for trial in range(trials):
        rng = np.random.default_rng([7, trial])
        turn, mirrored = _POINTINGS[trial % len(_POINTINGS)]
        item = field(rng, turn=turn, mirrored=mirrored)
        value = solved(item, projection=projection)
        if value is None:
            lost += 1
            worst = max(worst, np.inf)
            continue
        wcs = wcs_from_text(value["wcs"])
        back = sky_to_pixel(item.truth, *pixel_to_sky(wcs, item.seen).T)
        square = ((back - item.xy) ** 2).mean(axis=1)
        bright = item.err <= np.median(item.err)
        for some in (np.ones(len(bright), bool), bright):
            limit = float(np.sqrt(((item.seen - item.xy)[some] ** 2).mean()))
            ratios.append((float(np.sqrt(square[some].mean())) - 0.005) / limit)
            worst = max(worst, ratios[-1])
        at = rng.uniform([0, 0], [SHAPE[1] - 1, SHAPE[0] - 1], (300, 2))
        off = sky_to_pixel(item.truth, *pixel_to_sky(wcs, at).T) - at
        maps.append(float(np.sqrt((off**2).mean())))
    return worst, (
        f"worst of {trials} fields (median {np.median(ratios):.3f}), all stars and the brighter "
        f"half; the map itself is off by {np.median(maps):.4f} px (worst {max(maps):.4f}); "
        f"unsolved: {lost}"
    )


#: Catalogues that have nothing to do with the frame: how many of 50, stars, detections,
#: search radius (px).
_WRONG = {
    "sparse": (3, (10, 40), (10, 60), 100.0),
    "crowded": (1, (150, 400), (200, 500), 100.0),
    "few standards": (19, (3, 9), (5, 200), 100.0),
    "few standards, wide": (19, (3, 9), (5, 200), 1500.0),
    "sparse, wide": (5, (10, 40), (10, 60), 1500.0),
    "clustered": (3, (20, 80), (30, 120), 100.0),
}


def false_solutions(trials: int = 1000) -> tuple[int, str]:
    """Count the solutions by catalogues of another part of the sky."""
    false: dict[str, int] = dict.fromkeys(_WRONG, 0)
    names = [name for name, item in _WRONG.items() for _ in range(item[0])]
    for trial in range(trials):
        rng = np.random.default_rng([23, trial])
        name = names[trial % len(names)]
        _, stars, detections, radius = _WRONG[name]
        n, m = (int(rng.integers(*limits)) for limits in (stars, detections))
        header = _tangent(float(rng.uniform(0, 360)), float(rng.uniform(-80, 80)), 20.0)
        there = rng.uniform([-400, -400], [SHAPE[1] + 400, SHAPE[0] + 400], (n, 2))
        here = rng.uniform([0, 0], [SHAPE[1], SHAPE[0]], (m, 2))
        if name == "clustered":
            there[: n // 2] = rng.normal(900, 80, (n // 2, 2))
            here[: m // 2] = rng.normal(950, 80, (m // 2, 2))
        sky = pixel_to_sky(header, there)
        mag = 12 + 6 * rng.power(2.5, n)
        catalog = RefCatalog(
            "wrong", sky[:, 0], sky[:, 1], np.arange(n).astype(str), {"r": mag}, {"r": mag * 0.0}
        )
        flux = np.sort(10 ** (-0.4 * (12 + 6 * rng.power(2.5, m) - 25)))[::-1]
        sources = Table({"x": here[:, 0], "y": here[:, 1], "flux": flux})
        item = Field(header, header, catalog, sources, here, here, flux)
        false[name] += solved(item, search_radius_px=radius, catalog_error_arcsec=0.2) is not None
    return sum(false.values()), ", ".join(f"{name}: {count}" for name, count in false.items())


#: Stars of the Lowell frames with centroids better than this (px) are compared.
_GOOD_PX = 0.05


def _lowell_frames(place: Path) -> list[tuple[dict[str, Any], Table, WCS, tuple[int, int]]]:
    """Return row, sources, header WCS and shape of each light frame."""
    results = place / "results"
    out = []
    for path in sorted((results / "sources").glob("*.parquet")):
        for name, sources in by_frame(read_table(path)).items():
            wcs, shape = read_geometry(frame_file(results / "calibrated" / path.stem, name))
            if wcs is not None:
                out.append(({"frame_id": name}, sources, wcs, shape))
    return out


def _good(sources: Table) -> tuple[np.ndarray, np.ndarray]:
    stars = star_arrays(sources)
    keep = stars.err < _GOOD_PX
    return stars.xy[keep], stars.flux[keep]


def _repeatability(frames: list[Any]) -> tuple[float, float, int]:
    """Scatter of stars about their mean position over all frames, by the headers' WCS.

    Returns the rms per axis in arcsec, the part of it that all stars of a frame share,
    and the number of stars.
    """
    first = pixel_to_sky(frames[0][2], _good(frames[0][1])[0])
    scale = np.array([np.cos(np.radians(first[:, 1].mean())), 1.0]) * 3600
    places = np.full((len(frames), len(first), 2), np.nan)
    for k, (_, sources, wcs, _) in enumerate(frames):
        sky = pixel_to_sky(wcs, _good(sources)[0])
        i, j = mutual_pairs(first * scale, sky * scale, 1.0)
        places[k, i] = sky[j] * scale
    common = np.isfinite(places).all(axis=(0, 2))
    off = places[:, common] - places[:, common].mean(axis=0)
    # An asteroid or a blend scatters far more than the rest and is no star.
    spread = np.sqrt((off**2).mean(axis=(0, 2)))
    off = off[:, spread < 4 * np.median(spread)]
    shared = np.median(off, axis=1)
    return float(np.sqrt((off**2).mean())), float(np.sqrt((shared**2).mean())), off.shape[1]


def _refit(frames: list[Any]) -> tuple[float, float, int]:
    """Solve each frame by the stars of the one before it, from a start that is wrong.

    Returns the rms difference of our solution from the header's over the frame, per axis
    in arcsec, the median residual of the stars, and the number of frames solved.
    """
    off, residual = [], []
    for k, (row, sources, wcs, shape) in enumerate(frames):
        _, other, other_wcs, _ = frames[k - 1]
        xy, flux = _good(other)
        sky = pixel_to_sky(other_wcs, xy)
        mag = 25 - 2.5 * np.log10(flux)
        names = np.arange(len(xy)).astype(str)
        catalog = RefCatalog(
            "other frame", sky[:, 0], sky[:, 1], names, {"r": mag}, {"r": mag * 0 + 0.01}
        )
        start = compose(wcs, Affine(np.eye(2), np.array([23.0, -14.0])), shape)
        value = astrometry(
            sources, row, start, shape, None, None, catalog,
            catalog_error_arcsec=0.03, blind="never",
        ).value  # fmt: skip
        if value["solution"] != "absolute":
            continue
        at = np.stack(
            [g.ravel() for g in np.meshgrid(*(np.linspace(0, n - 1, 20) for n in shape[::-1]))], 1
        )
        mine = pixel_to_sky(wcs_from_text(value["wcs"]), at)
        back = sky_to_pixel(wcs, mine[:, 0], mine[:, 1]) - at
        off.append(float((back**2).mean()) * value["scale_arcsec_px"] ** 2)
        residual.append(value["rms_arcsec"])
    return float(np.sqrt(np.mean(off))), float(np.median(residual)), len(off)


def lowell42_figures(place: Path) -> list[Figure]:
    """Read the SCAMP solutions of the Lowell frames and repeat them."""
    frames = _lowell_frames(place)
    kinds = {kind_of(item[2]) for item in frames}
    total, shared, n = _repeatability(frames)
    refit, residual, solved_frames = _refit(frames)
    return [
        Figure("lowell42_wcs_rms_arcsec", total, "< 0.06", "arcsec", len(frames),
               f"scatter per axis of {n} stars about their mean position on the sky, by the "
               f"headers' own coordinates ({'/'.join(sorted(kinds))}), which claim 0.026-0.046; "
               f"{shared:.4f} of it is common to all stars of a frame"),
        Figure("lowell42_refit_rms_arcsec", refit, "< 0.06", "arcsec", solved_frames,
               "our solution by the stars of another frame, from a start 27 px off, against the "
               f"header over the frame, per axis; residual of the stars {residual:.4f}"),
    ]  # fmt: skip


def _lowell42(folder: Path) -> Path:
    """Return the reduced Lowell night, reduced as far as it is needed here."""
    if (folder / "results" / "astrometry").is_dir():
        return folder
    place = project(folder, SHARED / "lowell42", instrument="lowell42")
    skymill("run", "-d", place, "--until", "astrometry")
    return place


def figures(folder: Path | None = None) -> list[Figure]:
    """Measure on simulated fields and, if they are at hand, on the Lowell frames.

    Parameters
    ----------
    folder : Path, optional
        Folder of reduced real nights, see `bench.truth_real`; None: simulated fields only.
    """
    ratio, note = rms_over_limit()
    count, which = false_solutions()
    out = [
        Figure("astrometry_rms_over_limit", ratio, "< 1.1", "", 15,
               "(residual - 0.005 px) over the centroid errors; SIP of order 3, 5 px at the "
               "corners, proper motions, 20 % spurious, turned and mirrored; " + note),
        Figure("false_solutions", float(count), "0", "", 1000, "wrong catalogues; " + which),
    ]  # fmt: skip
    if folder is not None and SHARED.exists():
        out += lowell42_figures(_lowell42(folder / "lowell42"))
    return out
