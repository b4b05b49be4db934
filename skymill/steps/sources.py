"""What is there: stars and other sources of one frame, with errors that are true.

Detection thresholds the matched-filtered image against the noise of the sky as the
noise model gives it, pixel by pixel. Centres and shapes are measured under a Gaussian
window of the frame's own seeing, fluxes in exact circles whose error squares the weights.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.frame import Background, Frame, MaskBit
from skymill.kernels.apertures import ApertureSums, annulus_background, aperture_sum
from skymill.kernels.circles import aperture_sums
from skymill.kernels.detect import detect
from skymill.measure.rings import RING_CLIP_SIGMA, mask_sources
from skymill.steps._artefacts import doubling
from skymill.steps._scene import BRIGHT, Scene, make_scene
from skymill.steps._seeing import (
    SIGMA_TO_FWHM,
    Seeing,
    axes,
    first_look,
    is_crowded,
    measure_seeing,
)
from skymill.steps._wings import on_wings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.kernels.shapes import WindowedShapes

__all__ = ["FLAG_MEANINGS", "SourceFlag", "empty_sources_table", "sources"]

#: Ring of the local background, in FWHM beyond the total aperture.
_RING_GAP_FWHM, _RING_WIDTH_FWHM = 1.0, 3.0
#: Width of a source relative to the seeing that makes it SHARP or EXTENDED, above this S/N.
_SHARP, _EXTENDED, _SHAPE_SNR = 0.6, 1.5, 15.0
#: Areas that differ by less than this part of a circle are equal to rounding.
_ROUNDING = 1e-6


class SourceFlag(IntFlag):
    """What should be known of a source before it is used. Zero is a clean source."""

    BLENDED = 1 << 0
    EDGE = 1 << 1
    SATURATED = 1 << 2
    COSMIC = 1 << 3
    MASKED_APERTURE = 1 << 4
    INCOMPLETE_APERTURE = 1 << 5
    CENTRE_MASKED = 1 << 6
    NEIGHBOUR = 1 << 7
    MASKED_TOTAL = 1 << 8
    NO_LOCAL_SKY = 1 << 9
    BAD_CENTRE = 1 << 10
    SHARP = 1 << 11
    EXTENDED = 1 << 12

    @classmethod
    def unusable(cls) -> SourceFlag:
        """Flags that keep a source out of calibrations.

        Not COSMIC: a hit beside the core is masked and its pixels are replaced by opposite
        ones; what is a hit itself has a masked centre or is sharp.
        """
        return (
            cls.EDGE | cls.SATURATED | cls.INCOMPLETE_APERTURE | cls.CENTRE_MASKED
            | cls.BAD_CENTRE | cls.SHARP
        )  # fmt: skip


FLAG_MEANINGS: dict[SourceFlag, str] = {
    SourceFlag.BLENDED: "separated from a neighbour it touches",
    SourceFlag.EDGE: "its pixels or its main aperture reach the edge of the frame",
    SourceFlag.SATURATED: "saturated, non-linear or bled pixels in the main aperture",
    SourceFlag.COSMIC: "a hit in the main aperture",
    SourceFlag.MASKED_APERTURE: "bad pixels in the main aperture were replaced by opposite ones",
    SourceFlag.INCOMPLETE_APERTURE: "part of the main aperture is lost",
    SourceFlag.CENTRE_MASKED: "the central pixel is bad; there is no flux",
    SourceFlag.NEIGHBOUR: "another source in the total aperture; its pixels were replaced",
    SourceFlag.MASKED_TOTAL: "bad pixels in the total aperture were replaced or are lost",
    SourceFlag.NO_LOCAL_SKY: "too few sky pixels around it; there is no total flux",
    SourceFlag.BAD_CENTRE: "the windowed centre failed; the barycentre is given",
    SourceFlag.SHARP: "much narrower than the stars: a hit or a bad pixel",
    SourceFlag.EXTENDED: "much wider than the stars",
}

#: Columns: name, type, unit, description.
_COLUMNS: tuple[tuple[str, Any, str | None, str], ...] = (
    ("source", np.int64, None, "number in the frame, by decreasing flux"),
    ("x", np.float64, "pix", "windowed centre, 0-based"),
    ("y", np.float64, "pix", "windowed centre, 0-based"),
    ("x_err", np.float64, "pix", "one-sigma error of x"),
    ("y_err", np.float64, "pix", "one-sigma error of y"),
    ("a", np.float64, "pix", "semi-major axis (rms)"),
    ("b", np.float64, "pix", "semi-minor axis (rms)"),
    ("theta", np.float64, "rad", "angle of the major axis from x towards y"),
    ("fwhm", np.float64, "pix", "full width at half maximum, geometric mean of the axes"),
    ("ellipticity", np.float64, None, "1 - b/a"),
    ("peak", np.float64, "electron", "highest pixel above the background"),
    ("npix", np.int64, None, "pixels above the threshold"),
    ("flux", np.float64, "electron", "sum in the main aperture above the global background"),
    ("flux_err", np.float64, "electron", "one-sigma error of flux"),
    ("flux_total", np.float64, "electron", "sum in the total aperture above the local ring"),
    ("flux_total_err", np.float64, "electron", "one-sigma error of flux_total"),
    ("flags", np.int64, None, "SourceFlag bits"),
    ("mask_or", np.int64, None, "OR of the mask bits in the main aperture"),
)


def empty_sources_table() -> Table:
    """Return the table of no sources: all columns, units and descriptions."""
    return _columns({name: np.zeros(0) for name, *_ in _COLUMNS})


def sources(
    frame: Frame,
    background: Background,
    row: Mapping[str, Any] | None = None,
    *,
    threshold_sigma: float = 4.5,
    minimum_area_px: int = 4,
    deblend_contrast: float = 0.005,
    aperture_fwhm: float = 1.25,
    total_aperture_fwhm: float = 4.0,
    minimum_stars: int = 5,
    max_sources: int = 50000,
    trailed_ellipticity: float = 0.4,
) -> Result[Table]:
    """Find and measure the sources of a frame.

    ``flux = sum(w (I - b))``; ``flux_err**2 = sum(w**2 V) + (sum w)**2 s_b**2`` with
    ``s_b`` the error of the global background, common to the pixels of an aperture.
    ``flux_total = sum(w (I - b)) - sum(w) l`` with ``l`` the clipped mean of a ring;
    ``flux_total_err**2 = sum(w**2 V) + (sum w)**2 s_l**2``.

    Parameters
    ----------
    frame : Frame
        Calibrated frame in electron with its final mask. Not modified.
    background : Background
        Its background.
    row : mapping, optional
        Its row of the sheet; only named in messages.
    threshold_sigma, minimum_area_px, deblend_contrast : float, int, float
        Detection.
    aperture_fwhm, total_aperture_fwhm : float
        Radii in FWHM of the frame.
    minimum_stars : int
        Fewer sources flag the frame FEW_STARS.
    max_sources : int
        The brightest detections kept.
    trailed_ellipticity : float
        A larger median ellipticity of the stars flags the frame TRAILED.

    Returns
    -------
    Result of Table
        Columns as `empty_sources_table`. With no source the table is empty and the flag
        NO_STARS is set. Numbers: ``n_sources``, ``fwhm_px``, ``ellipticity``, ``sky_e``,
        ``sky_rms_e``, ``r_main_px``, ``r_total_px``, ``n_seeing_stars``, ``moffat_beta``,
        ``crowded`` (1 if detected against the local light).

    Raises
    ------
    StepFailed
        ALL_MASKED if no pixel is good.
    """
    name = str(row["frame_id"]) if row and row.get("frame_id") else "frame"
    scene = make_scene(frame, background)
    if scene is None:
        raise StepFailed("ALL_MASKED", "sources: no pixel of the frame is good.", n_good_px=0)
    seeing = first_look(scene)
    objects, segments, crowded = _detect(
        scene, seeing.fwhm, threshold_sigma, minimum_area_px, deblend_contrast
    )
    numbers: dict[str, Any] = {
        "n_sources": 0,
        "fwhm_px": None,
        "ellipticity": None,
        "sky_e": float(np.median(background.level)),
        "sky_rms_e": float(np.median(background.rms)),
        "r_main_px": None,
        "r_total_px": None,
        "n_seeing_stars": 0,
        "moffat_beta": None,
        "crowded": int(crowded),
    }
    if len(objects) == 0:
        text = f"sources: {name} shows nothing above {threshold_sigma:g} sigma."
        return Result(empty_sources_table(), (("NO_STARS", text),), numbers)
    owners = np.arange(1, len(objects) + 1)
    if not crowded:
        own = ~on_wings(objects["x"], objects["y"], objects["peak"], seeing.fwhm)
        objects, owners = objects[own], owners[own]
    bright = np.sort(np.argsort(-objects["cflux"], kind="stable")[:max_sources])
    objects, owners = objects[bright], owners[bright]
    seeing, shapes = measure_seeing(scene, objects, segments, owners, seeing.fwhm)
    table = _measure(
        scene, background, objects, segments, owners, shapes, seeing,
        aperture_fwhm * seeing.fwhm, total_aperture_fwhm * seeing.fwhm,
    )  # fmt: skip
    numbers |= {
        "n_sources": len(table),
        "fwhm_px": seeing.fwhm,
        "ellipticity": seeing.ellipticity,
        "r_main_px": aperture_fwhm * seeing.fwhm,
        "r_total_px": total_aperture_fwhm * seeing.fwhm,
        "n_seeing_stars": seeing.n,
        "moffat_beta": seeing.beta,
    }
    flags = _judge(name, numbers, minimum_stars, trailed_ellipticity)
    jump = doubling(np.asarray(table["x"]), np.asarray(table["y"]), seeing.fwhm)
    if jump is not None:
        text = (
            f"sources: every star of {name} has a twin {jump[0]:+.1f}, {jump[1]:+.1f} px away: "
            "the telescope jumped during the exposure."
        )
        flags = (*flags, ("TRAILED", text))
    return Result(table, flags, numbers)


def _judge(
    name: str, numbers: Mapping[str, Any], minimum_stars: int, trailed: float
) -> tuple[tuple[str, str], ...]:
    flags: list[tuple[str, str]] = []
    if numbers["n_sources"] < minimum_stars:
        flags.append(
            (
                "FEW_STARS",
                f"sources: {name} has {numbers['n_sources']} sources, fewer than {minimum_stars} "
                "(settings: sources.minimum_stars).",
            )
        )
    ellipticity = numbers["ellipticity"]
    if ellipticity is not None and ellipticity > trailed and numbers["n_seeing_stars"] >= 5:
        flags.append(
            (
                "TRAILED",
                f"sources: the stars of {name} have a median ellipticity of {ellipticity:.2f}, "
                f"more than {trailed:g} (settings: sources.trailed_ellipticity).",
            )
        )
    return tuple(flags)


def _detect(
    scene: Scene, fwhm: float, threshold_sigma: float, minimum_area_px: int, contrast: float
) -> tuple[NDArray[Any], NDArray[np.int32], bool]:
    """Detect; where large groups swallow much of the frame, detect against the local light.

    A dense cluster is one connected group, of which no star holds a fraction that would
    let it be separated. A filter of zero sum sees the stars and not the plateau.
    """
    options: dict[str, Any] = {
        "threshold_sigma": threshold_sigma,
        "minimum_area_px": minimum_area_px,
        "deblend_contrast": contrast,
    }
    objects, segments = detect(scene.sci, scene.noise, scene.hidden, fwhm_px=fwhm, **options)
    if not is_crowded(objects, fwhm, scene.sci.size):
        return objects, segments, False
    objects, segments = detect(
        scene.sci, scene.noise, scene.hidden, fwhm_px=fwhm, crowded=True, **options
    )
    return objects, segments, True


def _measure(
    scene: Scene,
    background: Background,
    objects: NDArray[Any],
    segments: NDArray[np.int32],
    owners: NDArray[Any],
    shapes: WindowedShapes,
    seeing: Seeing,
    r_main: float,
    r_total: float,
) -> Table:
    settled = shapes.converged
    x = np.where(settled, shapes.x, objects["x"])
    y = np.where(settled, shapes.y, objects["y"])
    main = aperture_sum(scene.sci, scene.err, scene.mask, x, y, r_main)
    main_err = np.sqrt(main.flux_err**2 + (main.area * background.level_err) ** 2)
    total, total_err, flags = _total_flux(
        scene, segments, owners, x, y, main.flux / main_err, r_total, seeing.fwhm
    )
    shaped = settled & np.isfinite(shapes.xx)
    a, b, theta = axes(shapes.xx, shapes.yy, shapes.xy)
    a, b = np.where(shaped, a, objects["a"]), np.where(shaped, b, objects["b"])
    fwhm = SIGMA_TO_FWHM * np.sqrt(a * b) * seeing.factor
    flags |= _flags(scene, objects, main, shapes, r_main, (x, y))
    flags |= _shape_flags(fwhm, main.flux / main_err, seeing.fwhm)
    values = {
        "x": x,
        "y": y,
        "x_err": np.where(settled, shapes.x_err, np.sqrt(np.maximum(objects["errx2"], 0))),
        "y_err": np.where(settled, shapes.y_err, np.sqrt(np.maximum(objects["erry2"], 0))),
        "a": a,
        "b": b,
        "theta": np.where(shaped, theta, objects["theta"]),
        "fwhm": fwhm,
        "ellipticity": 1 - b / np.maximum(a, 1e-12),
        "peak": objects["peak"],
        "npix": objects["npix"],
        "flux": main.flux,
        "flux_err": main_err,
        "flux_total": total,
        "flux_total_err": total_err,
        "flags": flags,
        "mask_or": main.mask_or,
    }
    return _table(values)


def _total_flux(
    scene: Scene,
    segments: NDArray[np.int32],
    owners: NDArray[Any],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    snr: NDArray[np.float64],
    radius: float,
    fwhm: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Total fluxes above the local ring, their errors and flags."""
    inner = radius + _RING_GAP_FWHM * fwhm
    planes = (scene.sci, scene.err, scene.mask)
    own: dict[str, Any] = {"segments": segments, "owners": owners}
    sums = aperture_sum(*planes, x, y, radius, **own)
    masked, some = sums.masked_area.copy(), sums.masked_area > 0
    lost = aperture_sums(*planes, x[some], y[some], [radius], replace=False)
    masked[some] = lost.masked_area[:, 0]
    outer, few = inner + _RING_WIDTH_FWHM * fwhm, max(12, int(np.ceil(fwhm**2)))
    level, level_err, todo = np.full(len(x), np.nan), np.full(len(x), np.nan), np.ones(len(x), bool)
    # In a crowd no pixel is free of wings; then the ring with them is better than none.
    for quiet in (True, False):
        ring = annulus_background(
            scene.sci, mask_sources(scene.mask, x, y, snr, fwhm) if quiet else scene.mask,
            x[todo], y[todo], inner, outer, clip_sigma=RING_CLIP_SIGMA, minimum_px=few,
            segments=segments, owners=owners[todo],
        )  # fmt: skip
        level[todo], level_err[todo] = ring.level, ring.level_err
        todo = ~np.isfinite(level)
    flux = sums.flux - sums.area * level
    flux_err = np.sqrt(sums.flux_err**2 + (sums.area * level_err) ** 2)
    tiny = _ROUNDING * np.pi * radius**2
    flags = _bits(
        len(x),
        (SourceFlag.NEIGHBOUR, sums.masked_area > masked + tiny),
        (SourceFlag.MASKED_TOTAL, masked > tiny),
        (SourceFlag.NO_LOCAL_SKY, todo),
    )
    return flux, flux_err, flags


def _bits(n: int, *cases: tuple[SourceFlag, Any]) -> NDArray[np.int64]:
    """OR of the flags whose condition holds, for n sources."""
    flags = np.zeros(n, np.int64)
    for bit, where in cases:
        flags |= np.where(where, int(bit), 0)
    return flags


def _flags(
    scene: Scene,
    objects: NDArray[Any],
    main: ApertureSums,
    shapes: WindowedShapes,
    r_main: float,
    centre: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.int64]:
    ny, nx = scene.sci.shape
    tiny = _ROUNDING * np.pi * r_main**2
    edge = (objects["flag"] & 2 > 0) | ((main.mask_or & int(MaskBit.OUTSIDE)) > 0)
    edge |= (centre[0] < 0) | (centre[1] < 0) | (centre[0] > nx - 1) | (centre[1] > ny - 1)
    return _bits(
        len(objects),
        (SourceFlag.BLENDED, (objects["flag"] & 1) > 0),
        (SourceFlag.EDGE, edge),
        (SourceFlag.SATURATED, (main.mask_or & int(BRIGHT)) > 0),
        (SourceFlag.COSMIC, (main.mask_or & int(MaskBit.COSMIC)) > 0),
        (SourceFlag.MASKED_APERTURE, main.masked_area > tiny),
        (SourceFlag.INCOMPLETE_APERTURE, np.pi * r_main**2 - main.area > tiny),
        (SourceFlag.CENTRE_MASKED, ~np.isfinite(main.flux)),
        (SourceFlag.BAD_CENTRE, ~shapes.converged),
    )


def _shape_flags(
    fwhm: NDArray[np.float64], snr: NDArray[np.float64], seeing_px: float
) -> NDArray[np.int64]:
    sure = np.isfinite(snr) & (snr > _SHAPE_SNR)
    return _bits(
        len(fwhm),
        (SourceFlag.SHARP, sure & (fwhm < _SHARP * seeing_px)),
        (SourceFlag.EXTENDED, sure & (fwhm > _EXTENDED * seeing_px)),
    )


def _table(values: Mapping[str, NDArray[Any]]) -> Table:
    """Sort by decreasing flux (sources without one last, by peak) and number."""
    flux = np.where(np.isfinite(values["flux"]), values["flux"], -np.inf)
    order = np.lexsort((values["x"], values["y"], -values["peak"], -flux))
    columns = {name: np.asarray(column)[order] for name, column in values.items()}
    return _columns(columns | {"source": np.arange(1, len(order) + 1)})


def _columns(values: Mapping[str, NDArray[Any]]) -> Table:
    from astropy.table import Column, Table

    columns = [
        Column(values[name].astype(kind), name=name, unit=unit, description=text)
        for name, kind, unit, text in _COLUMNS
    ]
    return Table(columns, copy=False)
