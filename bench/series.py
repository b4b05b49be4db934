"""A long series of small frames from raw files to light curves: how long it takes.

1,000 frames of 500 x 500 px with 100 stars, as a high-cadence camera makes them, with two
cores: ``skymill ingest`` and ``skymill run``, report included. The simulation is not counted.

``python -m bench.series --frames 200`` measures a shorter series.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bench.runs import BUILD, Figure, project, publish, simulated, skymill
from skymill.simulate import NightConfig

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["figures", "night"]

#: The series that the goal is set for.
FRAMES = 1000
GOAL_S = 60.0
CORES = 2


def night(n_light: int) -> NightConfig:
    """Return a series of short exposures of one field."""
    return NightConfig(
        seed=42,
        shape=(500, 500),
        n_bias=7,
        n_dark=5,
        n_flat=5,
        n_light=n_light,
        exptime_s=5.0,
        dark_exptime_s=5.0,
        cadence_s=6.0,
        sky_e_s=20.0,
        n_stars=100,
        mag_bright=9.5,
        mag_faint=15.5,
        min_separation_px=20.0,
        wcs="offset",
        dither_px=3.0,
        truth_images=False,
    )


def figures(folder: Path, n_light: int = FRAMES) -> list[Figure]:
    """Reduce the series once and return wall clock, CPU and the shares of the steps.

    Parameters
    ----------
    folder : Path
        Keeps the raw frames for the next time.
    n_light : int
        Light frames; the name of the main figure tells their number.

    Raises
    ------
    RuntimeError
        If the run fails or makes no light curves.
    """
    from bench.bench import step_costs

    place = simulated(folder / f"night_{n_light}", night(n_light))
    made = project(folder / "project", place / "raw", reference=place / "truth" / "reference.csv")
    first = skymill("ingest", "-d", made)
    second = skymill("run", "-d", made, "--cores", CORES)
    curves = list((made / "results" / "lightcurves").glob("*.parquet"))
    if not curves:
        raise RuntimeError("series: the run made no light curves")
    wall, cpu = first.wall_s + second.wall_s, first.cpu_s + second.cpu_s
    work = step_costs(made / "logs")
    goal = f"<= {GOAL_S:g}" if n_light == FRAMES else ""
    out = [
        Figure(f"series_{n_light}_wall_s", wall, goal, "s", n_light,
               f"raw files to light curves and report, {CORES} cores, 500 x 500 px, 100 stars; "
               f"reading the headers {first.wall_s:.1f} s of it"),
        Figure(f"series_{n_light}_cpu_s", cpu, "", "CPU s", n_light, "the same, all processes"),
        Figure(f"series_{n_light}_orchestration_share", 1 - sum(work.values()) / cpu, "", "",
               n_light, "CPU outside the work of the steps: Snakemake, interpreters, imports"),
    ]  # fmt: skip
    out += [
        Figure(f"series_{n_light}_{step}_cpu_s", work[step], "", "CPU s", n_light,
               f"{1000 * work[step] / n_light:.1f} ms a frame")
        for step in sorted(work, key=lambda name: -work[name])
    ]  # fmt: skip
    return out


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES, help="light frames of the series")
    arguments = parser.parse_args()
    publish(figures(BUILD / "bench" / "series", arguments.frames), BUILD / "series.json")


if __name__ == "__main__":
    main()
