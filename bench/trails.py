"""Planted trails that are found, and clean frames that stay clean.

The frames are simulated here, apart from skymill's own simulator: Poisson counts of sky,
Moffat stars with power-law fluxes, galaxies, and what a detector and a telescope add that
is as straight as a satellite: spikes, bleeds, bad columns, banding, moire.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from bench.runs import BUILD, Figure, publish
from skymill.frame import Frame, MaskBit, has_bits
from skymill.steps.mask import mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

SKY_E, READ_NOISE_E = 100.0, 5.0
SIGMA_E = float(np.hypot(np.sqrt(SKY_E), READ_NOISE_E))
SATURATION_E = 2e5
#: A pixel of a trail's core has at least this part of its greatest light.
CORE = 0.5


@dataclass(frozen=True)
class Trails:
    """Light of one trail, in sky sigma, and its core."""

    kind: str
    light: Plane
    core: NDArray[np.bool_]


def stars(
    rng: np.random.Generator, n: int, number: int, fwhm: float = 3.0, brightest: float = 3e6
) -> Plane:
    """Moffat stars (beta 2.5) whose fluxes follow a power law; no sky."""
    image = np.zeros((n, n))
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / 2.5) - 1))
    for _ in range(number):
        x, y = rng.uniform(-5, n + 5, 2)
        flux = min(100 * (rng.pareto(1.0) + 1), brightest)
        _star(image, x, y, flux, alpha)
    return image


def _star(image: Plane, x: float, y: float, flux: float, alpha: float) -> None:
    n = image.shape[0]
    peak = flux * 1.5 / (np.pi * alpha**2)
    # out to a tenth of an electron
    reach = int(np.clip(alpha * (peak / 0.1) ** 0.2, 12, 250))
    y0, y1 = (int(np.clip(v, 0, n)) for v in (y - reach, y + reach + 1))
    x0, x1 = (int(np.clip(v, 0, n)) for v in (x - reach, x + reach + 1))
    yy, xx = np.ogrid[y0:y1, x0:x1]
    image[y0:y1, x0:x1] += peak * (1 + ((xx - x) ** 2 + (yy - y) ** 2) / alpha**2) ** -2.5


def expose(
    rng: np.random.Generator, light: Plane, extra: NDArray[np.float32] | None = None
) -> Frame:
    """A calibrated frame: photon and read noise, saturated pixels flagged."""
    image = rng.poisson(light) + rng.normal(0, READ_NOISE_E, light.shape)
    bits = np.where(image >= SATURATION_E, np.uint16(int(MaskBit.SATURATED)), np.uint16(0))
    image = np.minimum(image, SATURATION_E).astype(np.float32)
    if extra is not None:
        image = image + extra
    err = np.sqrt(np.maximum(image, 0) + READ_NOISE_E**2).astype(np.float32)
    return Frame(image, err, bits, fits.Header())


def marked(frame: Frame) -> NDArray[np.bool_]:
    """Where the mask step says TRAIL."""
    return has_bits(mask(frame).value, MaskBit.TRAIL)


# --- trails ---------------------------------------------------------------------------


def plant(rng: np.random.Generator, n: int, kind: str, least_sigma: float = 3.0) -> Trails:
    """One trail of a kind, 3 to 60 sigma high (per pixel, at its crest)."""
    y, x = np.mgrid[:n, :n].astype(float)
    angle = rng.uniform(0, np.pi)
    ux, uy = np.cos(angle), np.sin(angle)
    cx, cy = rng.uniform(0.25 * n, 0.75 * n, 2)
    t = (x - cx) * ux + (y - cy) * uy
    d = -(x - cx) * uy + (y - cy) * ux
    width = rng.uniform(1, 8)
    if kind == "curved":
        # sagitta of up to 6 px over the frame, and a term of third order as distortion has
        d = d - rng.uniform(-6, 6) * (2 * t / n) ** 2 - rng.uniform(-2, 2) * (2 * t / n) ** 3
    profile = np.exp(-(d**2) / (2 * width**2))
    if kind == "double":
        gap = rng.uniform(3, 6) * width
        profile = np.exp(-((d - gap / 2) ** 2) / (2 * width**2)) + rng.uniform(0.5, 1) * np.exp(
            -((d + gap / 2) ** 2) / (2 * width**2)
        )
    along = np.ones_like(t)
    if kind == "partial":
        start = rng.uniform(-0.35, 0.0) * n
        along = ((t > start) & (t < start + rng.uniform(0.35, 0.6) * n)).astype(float)
    if kind == "blinking":
        period = rng.uniform(60, 180)
        phase = ((t + rng.uniform(0, period)) / period) % 1.0
        along = 0.25 + 0.75 * (phase < 0.45)
        along += 8 * np.exp(-(((phase - 0.2) * period) ** 2) / (2 * 3.0**2))
    if kind == "tumbling":
        along = 0.55 + 0.45 * np.sin(2 * np.pi * t / rng.uniform(100, 400) + rng.uniform(0, 6))
    height = least_sigma * 10 ** rng.uniform(0, 1.3)
    light = height * profile * along
    return Trails(kind, light, light >= CORE * height)


KINDS = ("straight", "straight", "double", "curved", "partial", "blinking", "tumbling")


def completeness(number: int, n: int = 1024, seed: int = 2024) -> list[tuple[Trails, float, float]]:
    """Plant trails one by one; (trail, found part of its core, marked area off the trail)."""
    rng = np.random.default_rng(seed)
    fields = [stars(rng, n, count) for count in (200, 700, 2500)]
    out = []
    for index in range(number):
        trail = plant(rng, n, KINDS[index % len(KINDS)])
        light = SKY_E + fields[index % len(fields)] + SIGMA_E * trail.light
        found = marked(expose(rng, light))
        part = float(found[trail.core].mean()) if trail.core.any() else 1.0
        out.append((trail, part, float((found & (trail.light < 0.1)).mean())))
    return out


# --- clean frames ----------------------------------------------------------------------


def _spikes(rng: np.random.Generator, n: int, arms: int) -> Plane:
    """Bright stars with spikes that fade like 1/r, at one angle for all."""
    image = stars(rng, n, 400)
    y, x = np.mgrid[:n, :n].astype(float)
    first = rng.uniform(0, np.pi)
    for _ in range(rng.integers(2, 6)):
        cx, cy = rng.uniform(0.05 * n, 0.95 * n, 2)
        flux = 10 ** rng.uniform(6, 7.3)
        _star(image, cx, cy, flux, 2.7)
        for arm in range(arms // 2):
            angle = first + np.pi * arm / (arms // 2)
            t = np.abs((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle))
            d = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
            wide = 1.2 + 0.002 * t
            image += 4e-4 * flux / (t + 3) * np.exp(-(d**2) / (2 * wide**2)) / wide / 2
    return image


def _disc(rng: np.random.Generator, n: int) -> Plane:
    """Edge-on galaxies: exponential discs, with a bulge."""
    image = stars(rng, n, 300)
    y, x = np.mgrid[:n, :n].astype(float)
    for _ in range(rng.integers(1, 5)):
        cx, cy = rng.uniform(0.1 * n, 0.9 * n, 2)
        angle, scale = rng.uniform(0, np.pi), 10 ** rng.uniform(1.0, 2.1)
        thick = scale * rng.uniform(0.03, 0.12) + 1.5
        t = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        d = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        height = SIGMA_E * 10 ** rng.uniform(0.3, 1.6)
        image += height * np.exp(-np.abs(t) / scale) / np.cosh(np.clip(d / thick, -50, 50)) ** 2
        image += 2 * height * np.exp(-np.hypot(t, d) / (scale / 6))
    return image


def _clean(kind: str, rng: np.random.Generator, n: int) -> Frame:
    y, x = np.mgrid[:n, :n].astype(float)
    extra = None
    if kind == "sparse":
        light = stars(rng, n, 200)
    elif kind == "crowded":
        light = stars(rng, n, 30_000 * n * n // 1024**2, fwhm=rng.uniform(2, 5))
    elif kind == "cluster":
        light = stars(rng, n, 300)
        for r, phi in zip(rng.exponential(0.1 * n, 4000), rng.uniform(0, 7, 4000), strict=True):
            at = (n / 2 + r * np.cos(phi), n / 2 + r * np.sin(phi))
            _star(light, *at, min(300 * (rng.pareto(1.2) + 1), 1e6), 2.7)
    elif kind in ("4 spikes", "6 spikes"):
        light = _spikes(rng, n, int(kind[0]))
    elif kind == "edge-on":
        light = _disc(rng, n)
    elif kind == "gradient":
        light = stars(rng, n, 400)
        angle = rng.uniform(0, 7)
        light += 4 * SKY_E * ((x * np.cos(angle) + y * np.sin(angle)) / n + 1.5)
        light += 60 * np.exp(-((x - n) ** 2 + (y - n) ** 2) / (2 * (0.1 * n) ** 2))  # glow
    elif kind == "columns":
        light = stars(rng, n, 400)
        extra = np.zeros((n, n), np.float32)
        for _ in range(6):
            i, j = rng.integers(0, n - 3), rng.integers(0, n // 2)
            extra[j:, i : i + rng.integers(1, 3)] += rng.uniform(-10, 30) * SIGMA_E
        extra[rng.integers(0, n)] += 5 * SIGMA_E
    elif kind == "bleed":
        light = stars(rng, n, 400)
        for _ in range(4):
            i, j = rng.integers(10, n - 10), rng.integers(0, n)
            _star(light, float(i), float(j), 3e7, 2.7)
            long, wide = rng.integers(60, 500), rng.integers(1, 4)
            light[max(0, j - long) : j + long, i - wide : i + wide] += 1.2 * SATURATION_E
    elif kind == "banding":
        light = stars(rng, n, 400)
        bands = rng.normal(0, rng.uniform(0.2, 1.0) * SIGMA_E, n)
        extra = np.repeat(bands[:, None], n, axis=1).astype(np.float32)
    else:
        light = stars(rng, n, 400)
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
        wave = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period
        extra = (rng.uniform(0.2, 0.7) * SIGMA_E * np.sin(wave)).astype(np.float32)
    return expose(rng, SKY_E + light, extra)


CLEAN = ("sparse", "crowded", "cluster", "4 spikes", "6 spikes", "edge-on", "gradient", "columns",
         "bleed", "banding", "moire")  # fmt: skip


def clean_area(each: int, n: int = 1024, seed: int = 2025) -> dict[str, list[float]]:
    """Marked part of clean frames, by what is on them."""
    rng = np.random.default_rng(seed)
    return {
        kind: [float(marked(_clean(kind, rng, n)).mean()) for _ in range(each)] for kind in CLEAN
    }


def seconds(n: int, number_of_trails: int = 1, seed: int = 13) -> float:
    """CPU seconds of the search on a frame of n x n px, the best of five."""
    from skymill.steps.trails import find_trails

    rng = np.random.default_rng(seed)
    light = SKY_E + stars(rng, n, 400 * n * n // 1024**2)
    y, x = np.mgrid[:n, :n].astype(np.float32)
    for _ in range(number_of_trails):
        angle, at = rng.uniform(0, np.pi), rng.uniform(0.3 * n, 0.7 * n)
        d = (y - n / 2) * np.cos(angle) - (x - at) * np.sin(angle)
        light += 4 * SIGMA_E * np.exp(-(d**2) / 8)
    frame = expose(rng, light)
    level, rms = (np.full(frame.shape, v, np.float32) for v in (SKY_E, SIGMA_E))
    bad = frame.mask != 0

    def once() -> float:
        start = time.process_time()
        find_trails(frame.sci, level, rms, bad)
        return time.process_time() - start

    once()
    return min(once() for _ in range(5))


def figures(number: int = 210, each: int = 6) -> list[Figure]:
    """Measure completeness, false area and cost."""
    planted = completeness(number)
    found = [part >= 0.8 for _, part, _ in planted]
    missed = sorted({t.kind for (t, _, _), ok in zip(planted, found, strict=True) if not ok})
    area = clean_area(each)
    every = [value for values in area.values() for value in values]
    worst = max(area, key=lambda kind: float(np.mean(area[kind])))
    made: Callable[..., Figure] = Figure
    return [
        made("trail_completeness", float(np.mean(found)), ">= 0.95", "", number,
             f"3 to 60 sigma, {len(set(KINDS))} kinds, 1024 px; >= 80 % of the core; missed: "
             f"{', '.join(missed) or 'none'}"),
        made("trail_false_area", float(np.mean(every)), "<= 0.001", "", len(every),
             f"clean frames of {len(CLEAN)} kinds; most in: {worst}, {np.mean(area[worst]):.2g}; "
             f"{sum(v > 0 for v in every)} frames with any"),
        made("trail_off_trail_area", float(np.mean([off for _, _, off in planted])), "", "", number,
             "marked where the trail is below 0.1 sigma"),
        made("trail_2k_cpu_s", seconds(2048), "<= 0.15", "s", 5, "one trail, best of five"),
        made("trail_4k_cpu_s", seconds(4096), "<= 0.5", "s", 5, "one trail, best of five"),
    ]  # fmt: skip


if __name__ == "__main__":
    publish(figures(), BUILD / "trails.json")
