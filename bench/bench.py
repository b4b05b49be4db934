"""The speed table: whole processes first, single steps as explanation.

``make bench`` prints it and writes ``build/bench.json``. The machine is shared, so the
figures are CPU seconds (user and system, children included), and ratios against a peer
of the same run where there is one.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from bench import (
    apertures,
    background,
    cosmics,
    ingest_rescan,
    masters,
    peers,
    series,
    stacks,
)
from bench.runs import BUILD, Figure, project, publish, simulated, skymill
from skymill.simulate import NightConfig

if TYPE_CHECKING:
    from pathlib import Path

#: Steps that work on single frames: their cost is that of a frame.
FRAME_STEPS = (
    "calibrate",
    "mask",
    "background",
    "sources",
    "astrometry",
    "photcal",
    "stack",
    "photometry",
)


def night_2k(n_light: int) -> NightConfig:
    """Return a night of 2048 x 2048 px frames with 3000 stars."""
    return NightConfig(
        seed=40,
        shape=(2048, 2048),
        n_bias=5,
        n_dark=3,
        n_flat=5,
        n_light=n_light,
        n_stars=3000,
        wcs="offset",
        cosmic_rate_mpx_s=2.4,
    )


def chain(folder: Path, n_light: int) -> list[Figure]:
    """Run the whole chain once and tell what it cost, by step."""
    night = simulated(folder / "night", night_2k(n_light))
    place = project(folder / "project", night / "raw", reference=night / "truth" / "reference.csv")
    skymill("ingest", "-d", place)
    cost = skymill("run", "-d", place, "--cores", 1)
    work = step_costs(place / "logs")
    total = sum(work.values())
    figures = [
        Figure("chain_2k_cpu_s_per_frame", sum(work[s] for s in FRAME_STEPS) / n_light, "",
               "CPU s", n_light, "calibrate to photometry of one 2048 x 2048 px frame, one core"),
        Figure("orchestration_share_40x2k", 1 - total / cost.cpu_s, "< 0.10", "", n_light,
               "share of the run's CPU outside the work of the steps: Snakemake, interpreters, "
               "imports"),
        Figure("run_40x2k_cpu_s", cost.cpu_s, "", "CPU s", 1, "skymill run with a sheet, 1 core"),
        Figure("run_40x2k_wall_s", cost.wall_s, "", "s", 1, "the same, wall clock"),
    ]  # fmt: skip
    for step in sorted(work):
        n = n_light if step in FRAME_STEPS else 1
        figures.append(
            Figure(f"step_{step}_cpu_s", work[step] / n, "", "CPU s", n,
                   "per frame" if step in FRAME_STEPS else "per run")
        )  # fmt: skip
    return figures


def step_costs(logs: Path) -> dict[str, float]:
    """Return the CPU seconds of the work of each step, from the logs of the jobs."""
    costs: dict[str, float] = defaultdict(float)
    for path in sorted(logs.glob("*/*.log")):
        found = re.findall(r"cpu_s=([\d.]+)", path.read_text(encoding="utf-8"))
        if found:
            costs[path.parent.name] += float(found[-1])
    return dict(costs)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=40, help="light frames of the 2k night")
    parser.add_argument("--series", type=int, default=series.FRAMES, help="frames of the series")
    parser.add_argument("--quick", action="store_true", help="leave out what takes over 3 minutes")
    arguments = parser.parse_args()
    figures = masters.combination(BUILD / "bench" / "masters")
    figures += masters.calibration(BUILD / "bench" / "calibrate")
    figures += [*cosmics.speed_figures(), *cosmics.mask_figures(), *background.figures()]
    figures += ingest_rescan.figures(BUILD / "bench" / "rescan")
    figures += apertures.apertures()
    if not arguments.quick:
        figures += stacks.figures(BUILD / "bench" / "stacks")
        figures += chain(BUILD / "bench" / "chain", arguments.frames)
        figures += series.figures(BUILD / "bench" / "series", arguments.series)
        figures += peers.figures(BUILD / "bench" / "peers")
    publish(figures, BUILD / "bench.json")


if __name__ == "__main__":
    main()
