"""The speed of stacks, against SWarp and reproject, and their memory for many frames.

Paired runs of whole processes, in turn, on the same frames: ours reads calibrated products,
masks and background meshes, and writes stack, error, mask, coverage and noise correlation;
SWarp reads background-subtracted images and weight maps and writes stack and weight;
``reproject_and_coadd`` reads the same and writes a weighted mean, without clipping or error.

``python -m bench.stacks`` measures everything; ``--only 2k``, ``4k`` or ``many`` a part.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.runs import BUILD, ROOT, Cost, Figure, publish
from bench.stack_files import (
    BLOCK,
    read_swarp,
    swarp_binary,
    swarp_command,
    write_peer_inputs,
    write_products,
    write_tables,
)
from bench.stack_scene import (
    Exposure,
    Stars,
    circle_sums,
    mean_image,
    names,
    sky_wcs,
    stack_input,
)
from skymill import io
from skymill.grid import Grid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from skymill.steps.stack import StackInput

#: Nothing may use a second thread.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
MMAG = 2500 / np.log(10)


def run(command: list[str]) -> tuple[Cost, dict[str, Any]]:
    """Run a process and return what it cost, and what it printed if that is JSON."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = os.times().elapsed
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | ONE_THREAD, text=True, capture_output=True, check=False
    )
    wall = os.times().elapsed - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.returncode}\n{done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = done.stdout.strip().splitlines()
    return Cost(cpu, wall), json.loads(told[-1]) if told and told[-1].startswith("{") else {}


def ours(folder: Path, out: Path, warm: Path | None = None) -> tuple[Cost, dict[str, Any]]:
    """Stack products with skymill in a process of its own; ``warm``: others before."""
    command = [sys.executable, "-m", "bench.stack_job", "skymill", str(folder), str(out)]
    command.append(json.dumps({"engine": "skymill", "kernel": "lanczos3"}))
    return run(command if warm is None else [*command, str(warm)])


def exposures(
    n: int, rng: Any, *, turn_deg: float = 0.5, dither_px: float = 15.0
) -> list[Exposure]:
    """Return dithered exposures of nearly equal depth."""
    return [
        Exposure(
            rotation_deg=float(rng.uniform(-turn_deg, turn_deg)),
            shift_px=tuple(rng.uniform(-dither_px, dither_px, 2)),
            throughput=1.0 if i == 0 else float(rng.uniform(0.85, 1.05)),
            sky_e=float(rng.uniform(200, 400)),
            fwhm_px=3.0,
        )
        for i in range(n)
    ]


def field(side: int, n: int, seed: int) -> tuple[list[StackInput], Stars]:
    """Return noisy frames of one field: 700 stars per megapixel, hits, and the stars."""
    from bench.cosmics import tracks
    from skymill.frame import MaskBit

    rng = np.random.default_rng(seed)
    shape = (side, side)
    count = round(700 * side * side / 1e6)
    x, y = rng.uniform(0, side, count), rng.uniform(0, side, count)
    ra, dec = sky_wcs(shape).all_pix2world(x, y, 0)
    stars = Stars(ra, dec, 10 ** rng.uniform(0.3, 3.3, count))
    out = []
    for name, how in zip(names(n), exposures(n, rng), strict=True):
        hits = tracks(shape, round(100 * side * side / 1e6), rng)
        # half of the hits are known, and as many bad pixels of the detector
        mask = np.where(hits > 50, np.uint16(int(MaskBit.COSMIC)), np.uint16(0))
        mask[:, side // 2 :] = 0
        mask[tuple(rng.integers(0, side, (2, side)))] |= np.uint16(int(MaskBit.HOT))
        out.append(
            stack_input(name, how, mean_image(shape, stars, how), rng, extra=hits, mask=mask)
        )
    return out, stars


def prepare(folder: Path, side: int, n: int, seed: int) -> tuple[list[Path], Stars]:
    """Write the frames of a field as products and as files for the peers."""
    shutil.rmtree(folder, ignore_errors=True)
    inputs, stars = field(side, n, seed)
    write_products(folder / "results", inputs)
    return write_peer_inputs(folder / "peer", inputs), stars


def agreement(
    sci: NDArray[np.float32], err: NDArray[np.float32], peer: NDArray[np.float32], grid: Grid,
    stars: Stars,
) -> tuple[float, float]:  # fmt: skip
    """Return median difference of the fluxes of bright stars in mmag, and scatter in sigma."""
    bright = stars.rate > 100
    x, y = grid.wcs.all_world2pix(stars.ra[bright], stars.dec[bright], 0)
    total, square = circle_sums(sci, err, x, y, 6.0)
    theirs, _ = circle_sums(peer, None, x, y, 6.0)
    level = float(MMAG * np.nanmedian(theirs / total - 1))
    apart = (theirs - total) / np.sqrt(square)
    scatter = 1.4826 * float(np.nanmedian(np.abs(apart - np.nanmedian(apart))))
    if not (abs(level) < 2.0 and scatter < 0.3 and np.isfinite(apart).sum() > 0.5 * apart.size):
        raise RuntimeError(f"the stacks disagree: {level:.2f} mmag, {scatter:.3f} sigma")
    return level, scatter


def speed(folder: Path, side: int, rounds: int, *, peers: bool, n: int = 10) -> list[Figure]:
    """Stack ten frames with each program in turn and return the paired ratios of CPU time."""
    label = f"{side // 1024}k"
    paths, stars = prepare(folder, side, n, seed=side)
    out = folder / "out" / "field.fits"
    ours(folder / "results", out)  # compiled code is cached from now on
    frame = io.read_frame(out)
    grid = Grid(frame.wcs, frame.shape, ())
    swarp = swarp_command(folder / "swarp", paths, grid)
    pairs, calls, rss = [], [], []
    for _ in range(rounds):
        mine, told = ours(folder / "results", out)
        theirs, _ = run(swarp)
        pairs.append((mine, theirs))
        calls.append(told["call_s"])
        rss.append(told["rss_gb"])
    level, scatter = agreement(
        frame.sci, frame.err, read_swarp(folder / "swarp").sci, grid, stars
    )  # fmt: skip
    ratios = sorted(theirs.cpu_s / mine.cpu_s for mine, theirs in pairs)
    spent = [median(cost.cpu_s for cost in costs) for costs in zip(*pairs, strict=True)]
    figures = [
        Figure(f"stack_{label}_speedup_swarp", median(ratios), ">= 4", "x", rounds,
               f"CPU of whole processes, ten frames of {side} px, LANCZOS3, weights, clipping; "
               f"SWarp {spent[1]:.2f} s, skymill {spent[0]:.2f} s with variance and masks "
               f"(of which imports {spent[0] - median(calls):.2f}); "
               f"ratios {ratios[0]:.2f} to {ratios[-1]:.2f}; fluxes differ by {level:+.2f} mmag, "
               f"{scatter:.3f} sigma"),
        Figure(f"stack_{label}_cpu_s", spent[0], "", "CPU s", rounds,
               f"the same; peak memory {max(rss):.2f} GB"),
    ]  # fmt: skip
    if peers:
        figures.append(_reproject(folder, out, grid, stars, spent[0] / n))
    shutil.rmtree(folder)
    return figures


def _reproject(folder: Path, like: Path, grid: Grid, stars: Stars, mine: float) -> Figure:
    """Time the peer on three frames, once, and compare the cost of a frame."""
    out = folder / "reproject.npy"
    command = [sys.executable, "-m", "bench.stack_job", "reproject"]
    cost, told = run([*command, str(folder / "peer"), str(like), str(out), "3"])
    level = _three(folder, np.load(out), grid, stars)
    per_frame = told["call_s"] / 3
    return Figure(
        "stack_2k_speedup_reproject", per_frame / mine, ">= 15", "x", 1,
        "CPU a frame: reproject_and_coadd (bicubic, roundtrip_coords=False, weighted mean, "
        f"neither clipping nor errors) {per_frame:.2f} s from three frames without imports "
        f"({cost.cpu_s:.1f} s in all), skymill {mine:.3f} s from ten with imports; fluxes of the "
        f"three differ by {level:+.2f} mmag",
    )  # fmt: skip


def _three(folder: Path, peer: NDArray[np.float32], grid: Grid, stars: Stars) -> float:
    """Compare the peer's stack of three frames with ours of the same three."""
    out = folder / "out" / "three.fits"
    results = folder / "results"
    rows = io.read_json(results / "rows.json")
    io.write_json(results / "rows.json", rows[:3])
    ours(results, out)
    io.write_json(results / "rows.json", rows)
    frame = io.read_frame(out)
    # without clipping their hits stay: bright stars and a robust scatter are compared
    return agreement(frame.sci, frame.err, peer, grid, stars)[0]


def many(
    folder: Path, side: int = 2048, distinct: int = 8, counts: tuple[int, ...] = (10, 100, 1000)
) -> list[Figure]:
    """Stack 10, 100 and 1000 frames of 2k and return memory and cost a frame.

    The frames are hard links to a few files of noise and hits, each told to lie elsewhere
    (dithers of 20 px, turns of 0.3 degrees), so that the stack sees 1000 different frames
    and the disk holds eight.
    """
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(1000)
    shape = (side, side)
    level = replace(Exposure(fwhm_px=3.0), sky_e=300.0)
    from bench.cosmics import tracks

    originals = [
        stack_input(name, level, np.full(shape, level.sky_e), rng, extra=tracks(shape, 100, rng))
        for name in names(distinct)
    ]
    source = folder / "files"
    write_products(source, originals)
    costs, memory = {}, {}
    for n in counts:
        place = folder / f"n{n}"
        inputs = []
        for i, name in enumerate(names(n)):
            for step in ("calibrated", "mask", "background"):
                path = place / step / BLOCK / f"{name}.fits"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.hardlink_to(source / step / BLOCK / f"f{i % distinct:04d}.fits")
            how = replace(
                level, rotation_deg=float(rng.uniform(-0.3, 0.3)),
                shift_px=tuple(rng.uniform(-20, 20, 2)),
            )  # fmt: skip
            inputs.append(replace(originals[i % distinct], frame_id=name, wcs=how.wcs(shape)))
        write_tables(place, inputs)
        cost, told = ours(place, place / "out" / "field.fits", warm=folder / f"n{counts[0]}")
        costs[n], memory[n] = told["call_s"], told["rss_gb"]
        _check_depth(place / "out" / "field.fits", n, level)
        print(f"{n} frames: {cost.cpu_s:.1f} CPU s, {told['rss_gb']:.2f} GB", file=sys.stderr)
    shutil.rmtree(folder)
    most = max(counts)
    text = ", ".join(f"{n}: {costs[n] / n:.3f} s, {memory[n]:.2f} GB" for n in costs)
    return [
        Figure("stack_1000x2k_rss_gb", memory[most], "< 2", "GB", 1,
               f"peak memory of the process; frames: CPU a frame and memory {text}"),
        Figure("stack_cost_ratio_1000_to_10", costs[most] / most / (costs[10] / 10), "<= 1.1", "",
               1, "CPU a frame of 1000 frames over that of 10, imports left out; "
               f"{most} frames took {costs[most]:.0f} s"),
    ]  # fmt: skip


def _check_depth(path: Path, n: int, level: Exposure) -> None:
    """Assert that the stack is as deep as its frames are many."""
    frame = io.read_frame(path)
    ny, nx = frame.shape
    middle = frame.sci[ny // 2 - 100 : ny // 2 + 100, nx // 2 - 100 : nx // 2 + 100]
    expected = np.sqrt(level.sky_variance / n)
    ratio = float(np.nanstd(middle) / expected)
    if not 0.7 < ratio < 1.05:
        raise RuntimeError(f"{n} frames: noise {ratio:.2f} times that of single frames / sqrt(N)")


def figures(folder: Path = BUILD / "bench" / "stacks") -> list[Figure]:
    """Measure everything: about ten CPU minutes, most of them SWarp's."""
    found = []
    if swarp_binary() is not None:
        found += speed(folder / "2k", 2048, 3, peers=True)
        found += speed(folder / "4k", 4096, 2, peers=False)
    return found + many(folder / "many")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("2k", "4k", "many"), help="one part")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the pairs")
    arguments = parser.parse_args()
    folder = BUILD / "bench" / "stacks"
    if arguments.only == "many":
        found = many(folder / "many")
    elif arguments.only:
        side = 1024 * int(arguments.only[0])
        found = speed(folder / arguments.only, side, arguments.rounds, peers=side == 2048)
    else:
        found = figures(folder)
    publish(found, BUILD / "stacks.json")


if __name__ == "__main__":
    main()
