"""The accuracy table: simulated nights against their truth, real nights against what is known.

``make truth`` prints it and writes ``build/truth.json``.
"""

from __future__ import annotations

import argparse

from bench import (
    fuzz,
    hazards,
    truth_curves,
    truth_detector,
    truth_masks,
    truth_night,
    truth_real,
    truth_run,
    truth_stack,
)
from bench.runs import BUILD, publish


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-real", action="store_true", help="leave the real nights out")
    parser.add_argument("--fuzz", type=int, default=20_000, help="spoilt files to try")
    arguments = parser.parse_args()
    figures = truth_detector.figures()
    figures += truth_curves.figures()
    figures += truth_night.figures(BUILD / "truth" / "night")
    figures += truth_run.figures(BUILD / "truth" / "run")
    figures += truth_stack.figures()
    figures += hazards.figures()
    figures += fuzz.figures(BUILD / "truth" / "fuzz", arguments.fuzz)
    if not arguments.no_real:
        figures += truth_real.figures(BUILD / "truth" / "real")
    figures += truth_masks.figures(None if arguments.no_real else BUILD / "truth" / "real")
    publish(figures, BUILD / "truth.json")


if __name__ == "__main__":
    main()
