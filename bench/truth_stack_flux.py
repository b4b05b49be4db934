"""Fluxes, outliers and star cores of stacks, and the engines against each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cosmics import tracks
from bench.runs import Figure
from bench.stack_scene import (
    READ_NOISE_E,
    SCALE_ARCSEC,
    Exposure,
    Stars,
    circle_sums,
    combine,
    dithered,
    lattice,
    mean_image,
    names,
    pixel_area,
    sky_grid,
    sky_wcs,
    stack_input,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.steps.stack import StackProduct

    Plane = NDArray[np.float64]

MMAG = 2500 / math.log(10)


@dataclass(frozen=True)
class Geometry:
    """How the frame lies on the grid; ``scale`` is output over input pixel."""

    name: str
    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    sip_px: float = 0.0


GEOMETRIES = (
    Geometry("half-pixel shift", shift_px=(0.5, 0.5)),
    Geometry("rotation 20 deg", rotation_deg=20.0, shift_px=(0.3, -0.2)),
    Geometry("scale 0.5", rotation_deg=5.0, scale=0.5),
    Geometry("scale 0.7", rotation_deg=-3.0, scale=0.7),
    Geometry("scale 1.4", rotation_deg=5.0, scale=1.4),
    Geometry("scale 2", rotation_deg=5.0, scale=2.0),
    Geometry("SIP, 4 px at the corners", rotation_deg=2.0, sip_px=4.0),
)


def flux_ratios(
    engine: str,
    kernel: str,
    geometry: Geometry,
    convention: str = "flux",
    *,
    side: int = 0,
    fwhm: float = 5.0,
) -> Plane:
    """Return measured over planted flux of noiseless stars in a stack of one frame.

    By default 16 stars in 250 px, or 81 in 450 px of a distorted frame: where the scale
    differs a little from that of the grid, the phases of a star's pixels do not average
    out over the star, and Lanczos kernels make single stars scatter by some mmag.
    """
    side = side or (450 if geometry.sip_px else 250)
    shape = (side, side)
    how = Exposure(
        rotation_deg=geometry.rotation_deg, shift_px=geometry.shift_px, sip_px=geometry.sip_px,
        fwhm_px=fwhm,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    stars = lattice(how.wcs(shape), shape, 45.0, 38.0, rng)
    stars = replace(stars, rate=np.full(stars.ra.size, 1000.0))
    out = (round(side / geometry.scale),) * 2
    grid = sky_grid(sky_wcs(out, scale=SCALE_ARCSEC * geometry.scale), out, names(1))
    frame = stack_input("f0000", how, mean_image(shape, stars, how))
    made = combine([frame], grid, engine, kernel, convention=convention)
    x, y = grid.wcs.all_world2pix(stars.ra, stars.dec, 0)
    total, _ = circle_sums(made.frame.sci, None, x, y, 20.0 / geometry.scale)
    ratio = total / (1000.0 * 60.0)
    if convention != "flux":
        mx, my = how.wcs(shape).all_world2pix(stars.ra, stars.dec, 0)
        ratio *= pixel_area(grid.wcs, x, y) / pixel_area(how.wcs(shape), mx, my)
    return np.asarray(ratio[np.isfinite(ratio)])


def flux_cases(kernels: Mapping[str, Sequence[str]]) -> list[tuple[str, str, Geometry, str]]:
    """Return what is measured: all kernels and geometries, the slow ones on fewer."""
    every = [
        (engine, kernel, geometry, "flux")
        for engine, some in kernels.items()
        for kernel, geometry in product(some, GEOMETRIES)
    ]
    brightness = [
        (engine, kernel, geometry, "surface_brightness")
        for engine, some in kernels.items()
        for kernel, geometry in product(some, GEOMETRIES[-2:])
    ]
    return every + brightness


def flux_figures(kernels: Mapping[str, Sequence[str]]) -> list[Figure]:
    """Return the largest mean error of the flux, and that of a single star.

    Nearest pixels are told apart: they drop and repeat pixels, and keep a flux only on
    average over many stars.
    """
    found = {case: flux_ratios(*case) for case in flux_cases(kernels)}
    means = {case: float(MMAG * abs(ratio.mean() - 1)) for case, ratio in found.items()}
    single = {case: float(MMAG * np.abs(ratio - 1).max()) for case, ratio in found.items()}
    smooth = [case for case in found if case[1] != "nearest"]
    worst = max(smooth, key=means.__getitem__)
    by_kernel: dict[str, list[float]] = {}
    for case in found:
        pair = by_kernel.setdefault(f"{case[0]} {case[1]}", [0.0, 0.0])
        pair[:] = max(pair[0], means[case]), max(pair[1], single[case])
    return [
        Figure("flux_conservation_mmag", means[worst], "< 0.5", "mmag",
               sum(found[case].size for case in smooth),
               f"mean of noiseless stars under {len(GEOMETRIES)} mappings, two conventions, all "
               f"kernels but nearest; worst: {worst[0]} {worst[1]}, {worst[2].name}, {worst[3]}; "
               "by kernel, and single star at most: "
               + ", ".join(f"{key} {a:.2f} {b:.1f}" for key, (a, b) in by_kernel.items())),
    ]  # fmt: skip


@dataclass(frozen=True)
class Leak:
    """What outliers leave in a stack: mean difference over its error.

    Parameters
    ----------
    strong : float
        Over the pixels where the plant exceeds 8 sigma of its frame.
    sky, star : float
        The same on empty sky, and where a star gives more than 30 electron a pixel.
    foot : float
        Over all pixels where it exceeds half a sigma: no rule can find most of these.
    n : int
        Pixels behind ``strong``.
    """

    strong: float
    sky: float
    star: float
    foot: float
    n: int


def outlier_leaks(
    engine: str, kind: str, depth: int, seed: int = 4, *, side: int = 300, **settings: Any
) -> Leak:
    """Return what outliers leave in a stack, in its own sigma.

    The same noise is stacked with and without them.

    Parameters
    ----------
    engine : str
        What resamples.
    kind : {"cosmic", "trail", "wrong"}
        Tracks of cosmic rays in every frame; a trail in one; a frame of another field.
    depth : int
        Frames.
    """
    rng = np.random.default_rng([seed, depth])
    shape = (side, side)
    exposures = dithered(depth, rng)
    grid = sky_grid(sky_wcs(shape), shape, names(depth))
    stars = lattice(grid.wcs, shape, 40.0, 25.0, rng)
    stars = replace(stars, rate=10 ** rng.uniform(1, 3, stars.ra.size))
    means = [mean_image(shape, stars, how) for how in exposures]
    plants = _planted(kind, shape, exposures, means, rng)
    inputs, spoilt, marks = [], [], []
    for i, (name, how, mean) in enumerate(zip(names(depth), exposures, means, strict=True)):
        inputs.append(stack_input(name, how, mean, np.random.default_rng([seed, depth, i])))
        noise = np.random.default_rng([seed, depth, i])
        spoilt.append(stack_input(name, how, mean, noise, extra=plants[i]))
        if plants[i].any():
            marks.append(_reach(plants[i], mean, how, grid, engine))
    clean, dirty = (combine(some, grid, engine, **settings) for some in (inputs, spoilt))
    difference = (dirty.frame.sci - clean.frame.sci) / clean.frame.err
    reach = np.max(marks, axis=0)
    usable = np.isfinite(difference) & (clean.coverage >= depth)
    # where half of the values are hit, nothing tells which half
    usable &= 2 * np.sum(np.array(marks) > 0.5, axis=0) < depth
    light = mean_image(shape, stars, replace(exposures[0], rotation_deg=0.0, shift_px=(0.0, 0.0)))
    star = light - exposures[0].sky_e > 30
    strong = usable & (reach > 8.0)
    parts = (strong, strong & ~star, strong & star, usable & (reach > 0.5))
    levels = [float(difference[part].mean()) if part.any() else 0.0 for part in parts]
    return Leak(*levels, int(strong.sum()))


def _planted(
    kind: str, shape: tuple[int, int], exposures: Sequence[Exposure], means: list[Plane], rng: Any
) -> list[Plane]:
    nothing = np.zeros(shape)
    if kind == "cosmic":
        return [tracks(shape, 25, rng) for _ in exposures]
    if kind == "trail":
        y, x = np.mgrid[: shape[0], : shape[1]]
        away = np.abs((x - shape[1] / 2) * math.sin(0.4) - (y - shape[0] / 2) * math.cos(0.4))
        light = 600.0 * np.exp(-0.5 * (away / 1.5) ** 2)
        return [light if i == 1 else nothing for i in range(len(exposures))]
    # another field: its stars elsewhere, five times brighter, none of its own
    how = exposures[1]
    x, y = rng.uniform(0, shape[1], 150), rng.uniform(0, shape[0], 150)
    ra, dec = how.wcs(shape).all_pix2world(x, y, 0)
    other = mean_image(shape, Stars(ra, dec, 10 ** rng.uniform(2, 3.5, 150)), how)
    wrong = other - means[1]
    return [wrong if i == 1 else nothing for i in range(len(exposures))]


def _reach(plant: Plane, mean: Plane, how: Exposure, grid: Any, engine: str) -> Plane:
    """What a plant, in sigma of its frame, is on the grid; never less than 0."""
    sigma = np.sqrt(mean + READ_NOISE_E**2)
    plain = replace(how, sky_e=1e6)
    frame = stack_input("f0000", plain, np.full(plant.shape, 1e6), extra=plant / sigma)
    made = combine([frame], grid, engine, convention="surface_brightness")
    return np.abs(np.nan_to_num(np.asarray(made.frame.sci, np.float64)) / how.flux_scale)


def outlier_figure(engine: str) -> Figure:
    """Return the largest leak of hits, a trail and a wrong frame."""
    kinds, depths = ("cosmic", "trail", "wrong"), (3, 5, 10, 20)
    found = {case: outlier_leaks(engine, *case) for case in product(kinds, depths)}
    worst = max(found.values(), key=lambda leak: abs(leak.strong))
    told = {
        name: "; ".join(
            f"{kind} " + ", ".join(f"{getattr(found[kind, n], name):+.2f}" for n in depths)
            for kind in kinds
        )
        for name in ("strong", "sky", "star", "foot")
    }
    return Figure(
        "outlier_leak_sigma", abs(worst.strong), "< 0.1", "sigma of the stack",
        sum(leak.n for leak in found.values()),
        "mean over the pixels where unmasked plants exceed 8 sigma of their frame; "
        f"N = {', '.join(map(str, depths))}: {told['strong']} | on empty sky: {told['sky']} | on "
        f"stars: {told['star']} | all above half a sigma: {told['foot']}",
    )  # fmt: skip


def core_bias(
    engine: str, seeing: Sequence[float], seed: int = 8, *, snr: float = 1000.0, side: int = 330,
    **settings: Any,
) -> tuple[float, float, float]:  # fmt: skip
    """Return what clipping costs stars of high signal to noise when the seeing changes.

    Stacks of the same noise with clipping and without are compared, in mmag: mean over the
    stars in an aperture that holds all light, largest single star, and mean in an aperture
    of the radius of the best seeing.
    """
    rng = np.random.default_rng(seed)
    shape = (side, side)
    flux = snr**2 / len(seeing)
    exposures = [
        replace(how, fwhm_px=fwhm, throughput=1.0, exptime_s=60.0, sky_e=200.0)
        for how, fwhm in zip(dithered(len(seeing), rng, turn_deg=2.0), seeing, strict=True)
    ]
    grid = sky_grid(sky_wcs(shape), shape, names(len(seeing)))
    stars = lattice(grid.wcs, shape, 40.0, 35.0, rng)
    stars = replace(stars, rate=np.full(stars.ra.size, flux / 60.0))
    inputs = [
        stack_input(name, how, mean_image(shape, stars, how), rng)
        for name, how in zip(names(len(seeing)), exposures, strict=True)
    ]
    clipped = combine(inputs, grid, engine, **settings)
    free = combine(inputs, grid, engine, **(settings | {"clip_sigma": 1e6, "grow_sigma": 1e6}))
    x, y = grid.wcs.all_world2pix(stars.ra, stars.dec, 0)
    out = []
    for radius in (2.5 * max(seeing), min(seeing)):
        sums = [circle_sums(made.frame.sci, None, x, y, radius)[0] for made in (clipped, free)]
        out.append(MMAG * (sums[0] / sums[1] - 1))
    return float(out[0].mean()), float(np.abs(out[0]).max()), float(out[1].mean())


SEEINGS = {
    "3 frames, 1 to 2x": (2.5, 3.6, 5.0),
    "5 frames, 1 to 2x": (2.5, 5.0, 3.2, 4.2, 2.8),
    "10 frames, one sharp": (2.5, *(5.0,) * 9),
    "10 frames, one of poor seeing": (5.0, *(2.5,) * 9),
}


def core_figure(engine: str) -> Figure:
    """Return the largest bias of star fluxes by clipping."""
    found = {text: core_bias(engine, seeing) for text, seeing in SEEINGS.items()}
    value = max(max(abs(v[0]), abs(v[2])) for v in found.values())
    text = "; ".join(
        f"{text}: total {a:+.3f} (single star {b:.3f}), core {c:+.3f}"
        for text, (a, b, c) in found.items()
    )
    return Figure(
        "star_core_bias_mmag", value, "< 1", "mmag", 49 * len(found),
        f"stars of S/N 1000, stack with clipping against without: {text}",
    )  # fmt: skip


def parity(engines: Sequence[str], seed: int = 6, *, side: int = 500) -> dict[str, Plane]:
    """Return star fluxes (r = 8 px) of one clean field through each engine, N = 3."""
    rng = np.random.default_rng(seed)
    shape = (side, side)
    exposures = dithered(3, rng)
    grid = sky_grid(sky_wcs(shape), shape, names(3))
    stars = lattice(grid.wcs, shape, 30.0, 40.0, rng)
    stars = replace(stars, rate=np.full(stars.ra.size, 2000.0))
    inputs = [
        stack_input(name, how, mean_image(shape, stars, how), rng)
        for name, how in zip(names(3), exposures, strict=True)
    ]
    x, y = grid.wcs.all_world2pix(stars.ra, stars.dec, 0)
    out = {}
    for name in engines:
        made: StackProduct = combine(inputs, grid, name)
        total, square = circle_sums(made.frame.sci, made.frame.err, x, y, 8.0)
        out[name] = total
        out.setdefault("err", np.sqrt(square))
    return out


def parity_figure(engines: Sequence[str]) -> list[Figure]:
    """Return how far the fluxes of two engines are apart, over their error."""
    if len(engines) < 2:
        return []
    found = parity(engines)
    first = engines[0]
    apart = {name: (found[name] - found[first]) / found["err"] for name in engines[1:]}
    text = ", ".join(
        f"{name} {d.std():.3f}, mean {MMAG * (found[name] / found[first] - 1).mean():+.2f} mmag"
        for name, d in apart.items()
    )
    return [
        Figure("stack_parity_sigma", max(float(d.std()) for d in apart.values()), "< 0.2",
               "sigma", found[first].size,
               f"scatter of star fluxes (r = 8 px) against {first}, of the same noisy frames: "
               + text),
    ]  # fmt: skip


def figures(kernels: Mapping[str, Sequence[str]], best: str) -> list[Figure]:
    """Return the figures of this module; outliers and cores with the engine ``best``."""
    return [
        *flux_figures(kernels),
        outlier_figure(best),
        core_figure(best),
        *parity_figure(list(kernels)),
    ]
