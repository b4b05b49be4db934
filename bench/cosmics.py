"""Cosmic rays and the mask step: truth, agreement with the peer, and speed.

The fields are simulated here, with code of their own: stars integrated over the pixels
(Gaussians by the error function, Moffat profiles on sub-pixels), hits as straight tracks
whose electrons spread by diffusion. The peer is astroscrappy.

``python -m bench.cosmics`` measures everything that needs no real night.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from bench.runs import BUILD, Figure, publish
from skymill import io
from skymill.frame import Frame, MaskBit, has_bits
from skymill.kernels.lacosmic import lacosmic
from skymill.steps._coarse_sky import coarse_sky
from skymill.steps.mask import mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

SKY_E, READ_NOISE_E = 300.0, 6.0
#: Hits per megapixel at a rate of 1: about 600 in a frame of 2048 x 2048 px.
HITS_PER_MPX = 143.0
#: Electrons per px of track: 80 per micrometre of silicon, pixels of 13 to 15 micrometre.
CHARGE_E, CHARGE_SCATTER = 1000.0, 0.6
DIFFUSION_PX = 0.3
FWHM_PX = (1.3, 1.6, 2.0, 2.5, 3.5, 6.0)
RATES = (0.3, 1.0, 3.0, 10.0)
PROFILES = (None, 3.0)


@dataclass(frozen=True)
class Field:
    """A simulated frame and its truth."""

    frame: Frame
    #: Expected electrons without hits, and the electrons of the hits.
    mean: Plane
    hits: Plane
    x: Plane
    y: Plane


def stars(
    shape: tuple[int, int], x: Plane, y: Plane, flux: Plane, fwhm: float, beta: float | None
) -> Plane:
    """Return stars integrated over the pixels: Gaussian, or Moffat of exponent ``beta``."""
    ny, nx = shape
    image = np.zeros(shape)
    reach = math.ceil(max(8.0, (4 if beta is None else 8) * fwhm))
    for cx, cy, f in zip(x, y, flux, strict=True):
        i, j = round(cx), round(cy)
        stamp = f * (
            _gaussian(cx - i, cy - j, fwhm, reach)
            if beta is None
            else _moffat(cx - i, cy - j, fwhm, reach, beta)
        )
        y0, y1, x0, x1 = max(j - reach, 0), min(j + reach + 1, ny), max(i - reach, 0), min(
            i + reach + 1, nx)  # fmt: skip
        if y0 < y1 and x0 < x1:
            image[y0:y1, x0:x1] += stamp[
                y0 - j + reach : y1 - j + reach, x0 - i + reach : x1 - i + reach
            ]
    return image


def _gaussian(dx: float, dy: float, fwhm: float, reach: int) -> Plane:
    from scipy.special import erf

    scale = fwhm / math.sqrt(4 * math.log(2.0))
    edges = np.arange(-reach, reach + 2) - 0.5
    along_x, along_y = (0.5 * np.diff(erf((edges - d) / scale)) for d in (dx, dy))
    return np.outer(along_y, along_x)


def _moffat(dx: float, dy: float, fwhm: float, reach: int, beta: float) -> Plane:
    n = 9 if fwhm < 2.5 else 5
    alpha = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    sub = (np.arange(-reach, reach + 1)[:, None] + (np.arange(n) - (n - 1) / 2) / n).ravel()
    r2 = (sub - dy)[:, None] ** 2 + (sub - dx)[None, :] ** 2
    light = (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
    side = 2 * reach + 1
    return np.asarray(light.reshape(side, n, side, n).mean(axis=(1, 3)))


def tracks(shape: tuple[int, int], n: int, rng: np.random.Generator) -> Plane:
    """Return the electrons of hits: tracks of 1 px and more, exponential with 4 px."""
    ny, nx = shape
    image = np.zeros(shape)
    for _ in range(n):
        x, y = rng.uniform(0, nx), rng.uniform(0, ny)
        length, angle = min(rng.exponential(4.0), 60.0), rng.uniform(0, 2 * np.pi)
        charge = CHARGE_E * math.exp(CHARGE_SCATTER * rng.standard_normal())
        electrons = int((1 + length) * charge)
        along, spread = rng.uniform(0, length, electrons), rng.normal(
            0, DIFFUSION_PX, (2, electrons))  # fmt: skip
        i = np.rint(x + along * math.cos(angle) + spread[0]).astype(int)
        j = np.rint(y + along * math.sin(angle) + spread[1]).astype(int)
        inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
        np.add.at(image, (j[inside], i[inside]), 1)
    return image


def field(
    seed: int,
    *,
    fwhm: float = 2.5,
    beta: float | None = 3.0,
    n_stars: int = 400,
    rate: float = 1.0,
    side: int = 512,
    brightest: float = 5.5,
) -> Field:
    """Return a field of stars of 500 electron and more, and hits."""
    rng = np.random.default_rng(seed)
    shape = (side, side)
    x, y = rng.uniform(5, side - 5, n_stars), rng.uniform(5, side - 5, n_stars)
    flux = 10 ** rng.uniform(2.7, brightest, n_stars)
    mean = SKY_E + stars(shape, x, y, flux, fwhm, beta)
    hits = tracks(shape, round(HITS_PER_MPX * rate * side * side / 1e6), rng)
    sci = rng.poisson(mean) + hits + rng.normal(0, READ_NOISE_E, shape)
    err = np.sqrt(np.maximum(sci, 0) + READ_NOISE_E**2)
    planes = sci.astype(np.float32), err.astype(np.float32), np.zeros(shape, np.uint16)
    return Field(Frame(*planes, fits.Header()), mean, hits, x, y)


def score(truth: Field, found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return found and all hit pixels above 10 sigma, flagged and all star cores.

    Noise is that of sky, stars and read-out. A core is the 3 x 3 px around a star; it
    counts if its middle stands 5 sigma above the sky and no hit leaves half a sigma
    within 2 px of it.
    """
    from scipy.ndimage import maximum_filter

    sigma = np.sqrt(truth.mean + READ_NOISE_E**2)
    strong = truth.hits > 10 * sigma
    near = maximum_filter(truth.hits > 0.5 * sigma, 5)
    i, j = np.rint(truth.x).astype(int), np.rint(truth.y).astype(int)
    counts = ~near[j, i] & (truth.mean[j, i] - SKY_E > 5 * sigma[j, i])
    cores = maximum_filter(found, 3)[j, i]
    return np.array([found[strong].sum(), strong.sum(), (cores & counts).sum(), counts.sum()])


def truth_grid(n: int = 2) -> dict[tuple[float, float], NDArray[np.int64]]:
    """Return the `score` of the mask step, by seeing and rate of hits, of ``n`` fields each."""
    grid = {}
    for fwhm, rate in product(FWHM_PX, RATES):
        total = np.zeros(4, np.int64)
        for k, beta in product(range(n), PROFILES):
            seed = round(1000 * fwhm) + round(100 * rate) + 7 * k + (beta is None)
            # fewer stars where they are wide: their light should not cover the frame
            truth = field(seed, fwhm=fwhm, beta=beta, rate=rate, n_stars=round(700 / fwhm) + 50)
            bits = mask(truth.frame, trails=False).value
            total += score(truth, has_bits(bits, MaskBit.COSMIC))
        grid[fwhm, rate] = total
    return grid


def truth_figures() -> list[Figure]:
    """Return completeness and star safety over seeing 1.3 to 6 px and rates x0.3 to 10."""
    grid = truth_grid()
    worst = min(grid, key=lambda at: grid[at][0] / grid[at][1])
    everything = np.sum(list(grid.values()), axis=0)
    wide = np.sum([v for (fwhm, _), v in grid.items() if fwhm >= 2], axis=0)
    sharp = np.sum([v for (fwhm, _), v in grid.items() if fwhm == FWHM_PX[0]], axis=0)
    return [
        Figure("cosmic_completeness", everything[0] / everything[1], ">= 0.95", "",
               int(everything[1]), "hit pixels above 10 sigma; the lowest is "
               f"{grid[worst][0] / grid[worst][1]:.3f} at FWHM {worst[0]} px, rate x{worst[1]}"),
        Figure("cosmic_completeness_worst", grid[worst][0] / grid[worst][1], ">= 0.95", "",
               int(grid[worst][1]), f"at FWHM {worst[0]} px and rate x{worst[1]}"),
        Figure("cosmic_star_core_rate", wide[2] / wide[3], "<= 0.001", "", int(wide[3]),
               "stars with a flagged pixel in their 3 x 3 px, FWHM 2 to 6 px"),
        Figure("cosmic_star_core_rate_1p3", sharp[2] / sharp[3], "<= 0.01", "", int(sharp[3]),
               "the same at FWHM 1.3 px"),
    ]  # fmt: skip


def compare(
    image: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_]
) -> tuple[int, int, int]:
    """Return pixels that differ from the peer unexplained, those explained, and its hits.

    A pixel is explained if its verdict, or that of one within 2 px of it, changes when
    the thresholds change by 1e-5 of themselves: there rounding decides.
    """
    from astroscrappy import detect_cosmics
    from scipy.ndimage import maximum_filter

    options: dict[str, Any] = {"sigclip": 4.5, "sigfrac": 0.3, "objlim": 5.0, "niter": 4}

    def ours(factor: float) -> NDArray[np.bool_]:
        changed = options | {"sigclip": 4.5 * factor, "objlim": 5.0 * factor}
        return lacosmic(image, variance=variance, mask=bad, **changed).mask

    theirs, _ = detect_cosmics(
        image, inmask=bad, invar=variance, sepmed=False, fsmode="median", cleantype="meanmask",
        gain=1.0, readnoise=0.0, satlevel=np.inf, **options,
    )  # fmt: skip
    different = ours(1.0) != theirs
    if not different.any():
        return 0, 0, int(theirs.sum())
    shaky = maximum_filter(ours(1 - 1e-5) != ours(1 + 1e-5), 5)
    explained = int(np.count_nonzero(different & shaky))
    return int(np.count_nonzero(different)) - explained, explained, int(theirs.sum())


def disagreement_figure(real: Path | None = None, side: int = 700) -> Figure:
    """Compare with the peer on simulated fields and on frames of real nights.

    Parameters
    ----------
    real : Path, optional
        Folder of reduced projects, one a night; the middle frame of each is taken.
    side : int
        Side of the simulated fields in px.
    """
    kinds: dict[str, dict[str, Any]] = {"sparse": {"n_stars": 60}, "crowded": {"n_stars": 4000},
             "undersampled": {"fwhm": 1.3, "n_stars": 900}}  # fmt: skip
    frames = {
        name: field(11, side=side, **options).frame for name, options in kinds.items()
    }  # fmt: skip
    for night in sorted(real.iterdir()) if real is not None and real.is_dir() else []:
        files = sorted((night / "results" / "calibrated").glob("*/*.fits"))
        if files:
            frames[night.name] = io.read_frame(files[len(files) // 2])
    counts = {name: compare(*_filled(frame)) for name, frame in frames.items()}
    explained = sum(c[1] for c in counts.values())
    told = ", ".join(f"{name} {c[0]} of {c[2]}" for name, c in counts.items())
    note = f"against astroscrappy sepmed=False: {told}; at a threshold: {explained}"
    unexplained, hits = (sum(c[k] for c in counts.values()) for k in (0, 2))
    return Figure("cosmic_mask_disagreement_pixels", unexplained, "0", "px", hits, note)


def _filled(
    frame: Frame,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Image and variance of a frame, finite everywhere, and its bad pixels."""
    sky = coarse_sky(frame, frame.mask)
    image = np.where(np.isfinite(frame.sci), frame.sci, np.float32(np.median(sky.level)))
    err = np.where(np.isfinite(frame.err), frame.err, np.float32(sky.typical_rms))
    return image.astype(np.float32), (err * err).astype(np.float32), ~frame.good


def _cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _bench_image(side: int) -> NDArray[np.float32]:
    """A field of 3000 (2k) or 10000 (4k) stars and about 600 hits per 2k frame."""
    n = {2048: 3000, 4096: 10_000}.get(side, side * side // 1400)
    return field(5, side=side, n_stars=n, brightest=5.0).frame.sci


def speed_figures(repeats: int = 3) -> list[Figure]:
    """Time whole calls, ours and the peer's in turn; masks are compared in the same run."""
    from astroscrappy import detect_cosmics

    figures = []
    options: dict[str, Any] = {"sigclip": 4.5, "sigfrac": 0.3, "objlim": 5.0, "niter": 4}
    lacosmic(_bench_image(256), read_noise=READ_NOISE_E)
    for side, exact in ((2048, False), (2048, True), (4096, False)):
        image = _bench_image(side)

        def ours(image: Any = image) -> Any:
            return lacosmic(image, read_noise=READ_NOISE_E, **options).mask

        def theirs(image: Any = image, exact: bool = exact) -> Any:
            return detect_cosmics(
                image, gain=1.0, readnoise=READ_NOISE_E, satlevel=np.inf, sepmed=not exact,
                fsmode="median", cleantype="meanmask", **options,
            )[0]  # fmt: skip

        ratios, costs = [], []
        for _ in range(1 if exact or side > 2048 else repeats):
            peer, peer_mask = _cpu(theirs)
            own, own_mask = min((_cpu(ours) for _ in range(2)), key=lambda pair: pair[0])
            ratios.append(peer / own)
            costs.append((own, peer))
            if exact:
                assert np.count_nonzero(own_mask != peer_mask) == 0
        own, peer = np.median(costs, axis=0)
        name = f"cosmics_{side // 1024}k_speedup_{'exact' if exact else 'default'}"
        figures.append(
            Figure(name, float(np.median(ratios)), ">= 60" if exact else ">= 20", "",
                   len(ratios), f"CPU of whole calls: {own:.3f} s against {peer:.2f} s of "
                   f"astroscrappy {'sepmed=False, same mask' if exact else 'default'}")
        )  # fmt: skip
    return figures


def bench_frame(side: int) -> Frame:
    """Return a frame with stars, hits, bad pixels, and saturated stars that bleed."""
    rng = np.random.default_rng(6)
    sci = _bench_image(side).copy()
    bits = np.zeros(sci.shape, np.uint16)
    y, x = np.mgrid[-12:13, -12:13]
    for j, i in rng.integers(60, side - 60, (side // 130, 2)):
        sci[j - 12 : j + 13, i - 12 : i + 13] += 3e6 / (1 + (x * x + y * y) / 9.0) ** 2.5
        sci[j - 30 : j + 31, i : i + 2] += 2e5
    bits[sci > 1e5] = MaskBit.SATURATED
    np.minimum(sci, 1e5, out=sci)
    bits[tuple(rng.integers(0, side, (2, side)))] |= np.uint16(int(MaskBit.HOT))
    err = np.sqrt(np.maximum(sci, 0) + READ_NOISE_E**2)
    return Frame(sci, err, bits, fits.Header())


def mask_figures(repeats: int = 3, side: int = 4096) -> list[Figure]:
    """Time the mask step on a 4k frame, and tell its memory in planes of four bytes a pixel."""
    mask(bench_frame(512))
    frame = bench_frame(side)
    cost = float(np.median([_cpu(lambda: mask(frame))[0] for _ in range(repeats)]))
    parts = float(np.median([_cpu(lambda: mask(frame, trails=False))[0] for _ in range(repeats)]))
    figures = [
        Figure("mask_4k_cpu_s", cost, "<= 1", "CPU s", repeats,
               f"the whole step: saturation, cosmic rays, trails; without trails {parts:.2f} s"),
    ]  # fmt: skip
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        gc.collect()
        clear.write_text("5", encoding="ascii")  # the peak begins anew
        before = _status("VmRSS")
        mask(frame)
        planes = (_status("VmHWM") - before) * 1024 / (4 * side * side)
        figures.append(
            Figure("mask_4k_memory_planes", planes, "<= 6", "planes", 1,
                   "peak memory beyond the frame's own, in planes of float32")
        )  # fmt: skip
    return figures


def _status(name: str) -> int:
    """Kilobytes of memory that the system counts for this process."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{name}:")[1].split()[0])


def main() -> None:
    """Measure, print and write."""
    figures = [*truth_figures(), disagreement_figure(BUILD / "truth" / "real")]
    figures += [*speed_figures(), *mask_figures()]
    publish(figures, BUILD / "cosmics.json")


if __name__ == "__main__":
    main()
