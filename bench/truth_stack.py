"""The errors of stacks against planted truth, for every engine.

Scenes come from `bench.stack_scene`, which shares no code with the reduction. The pull of
an aperture is (noisy stack - noiseless stack) / error: what the stack should hold is the
same scene without noise through the same kernel. That the kernel keeps the flux is
measured apart, in `bench.truth_stack_flux`.

``python -m bench.truth_stack`` prints the figures of stacks alone.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import truth_stack_flux, truth_stack_masks
from bench.runs import BUILD, Figure, publish
from bench.stack_scene import (
    Exposure,
    circle_sums,
    combine,
    dithered,
    engine_kernels,
    lattice,
    mean_image,
    names,
    sky_grid,
    sky_wcs,
    stack_input,
)
from skymill.resample import local_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.grid import Grid
    from skymill.steps.stack import StackProduct

    Plane = NDArray[np.float64]

RADII = (2.0, 3.0, 5.0, 8.0)
DEPTHS = (3, 10)
BLOCKS = (4, 8, 16)


@dataclass(frozen=True)
class Pulls:
    """Pulls of apertures of one engine, depth, radius and kind of place."""

    engine: str
    depth: int
    radius: float
    kind: str
    true: Plane
    naive: Plane


def pulls(
    engine: str,
    depth: int,
    seed: int = 1,
    *,
    kernel: str | None = None,
    side: int = 620,
    repeats: int = 2,
    **settings: Any,
) -> list[Pulls]:
    """Stack dithered, rotated frames of unequal noise and measure apertures in them.

    Stars of signal to noise 5 to 300 and empty places alternate on a lattice of 18 px, so
    that apertures of 8 px do not touch; places are at random phases of the pixels.
    """
    rng = np.random.default_rng([seed, depth])
    shape = (side, side)
    exposures = dithered(depth, rng)
    grid = sky_grid(sky_wcs(shape, rotation_deg=1.7), shape, names(depth))
    places = lattice(grid.wcs, shape, 18.0, 30.0, rng)
    filled = np.arange(places.ra.size) % 2 == 0
    rate = np.where(filled, 10 ** rng.uniform(0.8, 3.3, places.ra.size), 0.0)
    stars = replace(places, rate=rate)
    means = [mean_image(shape, stars, how) for how in exposures]
    clean = _stacked(exposures, means, grid, None, engine, kernel, settings)
    x, y = grid.wcs.all_world2pix(stars.ra, stars.dec, 0)
    found: dict[tuple[float, str], list[list[Plane]]] = {}
    for _ in range(repeats):
        noisy = _stacked(exposures, means, grid, rng, engine, kernel, settings)
        for radius in RADII:
            truth, _ = circle_sums(clean.frame.sci, None, x, y, radius)
            total, square = circle_sums(noisy.frame.sci, noisy.frame.err, x, y, radius)
            whole = _covered(noisy, x, y, depth)
            factor = local_factor(noisy.noise_correlation, noisy.correlation_map, x, y, radius)
            naive = (total - truth) / np.sqrt(square)
            for kind, chosen in (("star", filled), ("empty", ~filled)):
                use = chosen & whole & np.isfinite(naive)
                found.setdefault((radius, kind), []).append(
                    [(naive / factor)[use], naive[use]]
                )  # fmt: skip
    return [
        Pulls(engine, depth, radius, kind, *(np.concatenate(p) for p in zip(*parts, strict=True)))
        for (radius, kind), parts in found.items()
    ]  # fmt: skip


def _covered(made: StackProduct, x: Plane, y: Plane, depth: int) -> NDArray[np.bool_]:
    """Whether all frames were used at the place (one may be clipped at 10)."""
    ny, nx = made.coverage.shape
    j, i = np.clip(np.rint(y).astype(int), 0, ny - 1), np.clip(np.rint(x).astype(int), 0, nx - 1)
    return np.asarray(made.coverage[j, i] >= (depth if depth < 10 else depth - 1))


def _stacked(
    exposures: Sequence[Exposure],
    means: Sequence[Plane],
    grid: Grid,
    rng: Any,
    engine: str,
    kernel: str | None = None,
    settings: dict[str, Any] | None = None,
) -> StackProduct:
    inputs = [
        stack_input(name, how, mean, rng)
        for name, how, mean in zip(names(len(means)), exposures, means, strict=True)
    ]
    return combine(inputs, grid, engine, kernel, **(settings or {}))


def pull_figures(engines: Sequence[str]) -> list[Figure]:
    """Return the width of the pulls of each engine, and of all without the stored factor."""
    everything = {name: [p for n in DEPTHS for p in pulls(name, n)] for name in engines}
    figures = []
    for name, found in everything.items():
        width = math.sqrt(float(np.mean([p.true.var() for p in found])))
        worst = max(found, key=lambda p: abs(p.true.std() - 1))
        mean = max((float(p.true.mean()) for p in found), key=abs)
        n = min(p.true.size for p in found)
        figures.append(
            Figure(f"stack_pull_width_{name}", width, "1.00 +- 0.05", "",
                   sum(p.true.size for p in found),
                   "apertures of r = 2, 3, 5, 8 px, stars and empty places, stacks of "
                   f"{' and '.join(map(str, DEPTHS))} dithered, rotated frames; worst "
                   f"{worst.true.std():.3f} +- {1 / math.sqrt(2 * worst.true.size):.3f} "
                   f"({worst.kind}, r = {worst.radius:g}, N = {worst.depth}); mean pull at most "
                   f"{mean:+.3f} +- {1 / math.sqrt(n):.3f}")
        )  # fmt: skip
    each = {
        name: math.sqrt(float(np.mean([p.naive.var() for p in found])))
        for name, found in everything.items()
    }
    value = max(each.values(), key=lambda v: abs(v - 1))
    figures.append(
        Figure("stack_pull_width_naive", value, "", "",
               sum(p.naive.size for found in everything.values() for p in found),
               "the same without the stored factor: "
               + ", ".join(f"{name} {v:.2f}" for name, v in each.items()))
    )  # fmt: skip
    return figures


def noise_over_ideal(
    engine: str, exposures: Sequence[Exposure], seed: int, *, side: int = 900, repeats: int = 1,
    **settings: Any,
) -> tuple[float, int]:  # fmt: skip
    """Return the noise of a stack at large scales over that of inverse-variance weights.

    The power below 0.12 cycles per px is compared with that of the best linear stack of
    white noise, ``1 / sum 1/(s^2 V)``: resampling does not change it there (Lanczos-3 by
    less than 0.2 %), whatever it does to single pixels. The second value is the number of
    independent modes behind it.
    """
    shape = (side, side)
    grid = sky_grid(sky_wcs(shape), shape, names(len(exposures)))
    best = 1 / sum(1 / (how.flux_scale**2 * how.sky_variance) for how in exposures)
    means = [mean_image(shape, None, how) for how in exposures]
    rng = np.random.default_rng(seed)
    border = side // 9
    inner = slice(border, side - border)
    frequency = np.fft.fftfreq(side - 2 * border)
    low = np.hypot(frequency[:, None], frequency[None, :]) < 0.12
    low[0, 0] = False  # the mean of the image is not noise of a pixel
    power = []
    for _ in range(repeats):
        made = _stacked(exposures, means, grid, rng, engine, None, settings)
        image = np.asarray(made.frame.sci[inner, inner], np.float64)
        transform = np.abs(np.fft.fft2(image)) ** 2 / image.size
        power.append(float(transform[low].mean()))
    return math.sqrt(float(np.mean(power)) / best), int(low.sum()) // 2 * repeats


def noise_figure(engine: str) -> Figure:
    """Return the worst noise over the ideal one of some mixtures of frames."""
    rng = np.random.default_rng(5)
    unequal = [
        Exposure(throughput=t, exptime_s=e, sky_e=s, fwhm_px=3.0)
        for t, e, s in ((1.0, 60, 100), (0.7, 60, 900), (0.9, 30, 100), (0.5, 120, 2500))
    ]
    cases = {
        "4 very unequal frames on whole pixels": unequal,
        "3 dithered": dithered(3, rng),
        "10 dithered": dithered(10, rng),
    }
    found = {text: noise_over_ideal(engine, case, 50 + len(case)) for text, case in cases.items()}
    worst = max(found, key=lambda text: found[text][0])
    modes = min(n for _, n in found.values())
    return Figure(
        "stack_noise_over_ideal", found[worst][0], "<= 1.02", "", modes,
        "noise at large scales, clipping on, over that of inverse-variance weights; "
        + "; ".join(f"{text} {value:.4f}" for text, (value, _) in found.items())
        + f"; +- {1 / math.sqrt(2 * 2 * modes):.4f}",
    )  # fmt: skip


def block_ratios(
    engine: str, depth: int = 3, seed: int = 9, *, side: int = 1100, repeats: int = 2,
    **settings: Any,
) -> dict[int, tuple[float, int]]:  # fmt: skip
    """Return by side B the variance of block means over what the stack says it is.

    The stack says ``ERR^2 sum_ab rho(a - b) / B^4``, with the correlation of its NOISECOV
    plane, moved to that of the cell by CORRMAP as for an aperture. The second value is the
    number of blocks.
    """
    rng = np.random.default_rng([seed, depth])
    shape = (side, side)
    exposures = dithered(depth, rng)
    grid = sky_grid(sky_wcs(shape), shape, names(depth))
    means = [mean_image(shape, None, how) for how in exposures]
    found: dict[int, list[Plane]] = {size: [] for size in BLOCKS}
    for _ in range(repeats):
        made = _stacked(exposures, means, grid, rng, engine, None, settings)
        for size in BLOCKS:
            found[size].append(_block_pulls(made, size, depth))
    out = {}
    for size, parts in found.items():
        values = np.concatenate(parts)
        out[size] = (float((values**2).mean()), values.size)
    return out


def _block_pulls(made: StackProduct, size: int, depth: int) -> Plane:
    """Block means over their predicted error."""
    ny, nx = (n // size * size for n in made.frame.shape)
    blocks = (ny // size, size, nx // size, size)

    def parts(plane: NDArray[Any]) -> Plane:
        return np.asarray(plane[:ny, :nx], np.float64).reshape(blocks)

    rho = np.asarray(made.noise_correlation, np.float64)
    reach = rho.shape[0] // 2
    shares = np.clip(size - np.abs(np.arange(-reach, reach + 1)), 0, None)
    mean = math.sqrt(float((rho * np.outer(shares, shares)).sum()) / size**2)
    total = math.sqrt(float(rho.sum()))
    cells = np.asarray(made.correlation_map, np.float64)
    at = [((np.arange(n // size) + 0.5) * size).astype(int) // 64 for n in (ny, nx)]
    local = cells[np.ix_(*at)]
    share = (mean - 1) / (total - 1) if abs(total - 1) > 0.01 else 1.0
    factor = 1 + share * (local - 1)
    variance = (parts(made.frame.err) ** 2).sum(axis=(1, 3)) / size**4 * factor**2
    whole = parts(made.coverage).min(axis=(1, 3)) >= depth
    pull = parts(made.frame.sci).mean(axis=(1, 3)) / np.sqrt(variance)
    return np.asarray(pull[whole & np.isfinite(pull)])


def block_figure(engine: str) -> Figure:
    """Return the block variance that is farthest from its prediction, in standard errors."""
    found = block_ratios(engine)
    # the largest blocks are few: the figure is that of all sides, weighted by their number
    value = sum(v * n for v, n in found.values()) / sum(n for _, n in found.values())
    text = ", ".join(
        f"{size} px {v:.3f} +- {math.sqrt(2 / n):.3f}" for size, (v, n) in found.items()
    )
    return Figure(
        "weight_block_variance", value, "1.00 +- 0.02", "", sum(n for _, n in found.values()),
        "variance of block means over the prediction of ERR, NOISECOV and CORRMAP; by side: "
        + text,
    )  # fmt: skip


def figures(engines: Sequence[str] | None = None) -> list[Figure]:
    """Measure everything that concerns stacks; 150 CPU s at most."""
    kernels = engine_kernels()
    chosen = list(engines or kernels)
    best = "skymill" if "skymill" in chosen else chosen[0]
    return [
        *pull_figures(chosen),
        noise_figure(best),
        block_figure(best),
        *truth_stack_flux.figures({name: kernels[name] for name in chosen}, best),
        *truth_stack_masks.figures(chosen, best),
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    start = time.process_time()
    publish(figures(arguments.engine), BUILD / "truth_stack.json")
    print(f"{time.process_time() - start:.0f} CPU s of this process")


if __name__ == "__main__":
    main()
