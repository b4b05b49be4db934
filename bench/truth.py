"""The accuracy table: simulated nights against their truth, real nights against what is known.

``make truth`` prints it and writes ``build/truth.json``.
"""

from __future__ import annotations

import argparse

from bench import (
    fuzz,
    hazards,
    truth_astrometry,
    truth_curves,
    truth_detector,
    truth_masks,
    truth_night,
    truth_photometry,
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
    parser.add_argument("--quick", action="store_true", help="leave out what takes over 3 minutes")
    arguments = parser.parse_args()
    quick, real = arguments.quick, not (arguments.no_real or arguments.quick)
    figures = truth_detector.figures()
    figures += truth_curves.figures()
    figures += truth_night.figures(BUILD / "truth" / "night")
    figures += truth_run.figures(BUILD / "truth" / "run")
    figures += truth_photometry.figures(BUILD / "truth" / "photometry")
    if not quick:
        figures += truth_stack.figures()
    figures += hazards.figures()
    figures += fuzz.figures(BUILD / "truth" / "fuzz", 1000 if quick else arguments.fuzz)
    if real:
        figures += truth_real.figures(BUILD / "truth" / "real")
    if not quick:
        # Uses a real night that was reduced before.
        figures += truth_astrometry.figures(BUILD / "truth" / "real" if real else None)
    figures += truth_masks.figures(BUILD / "truth" / "real" if real else None)
    publish(figures, BUILD / "truth.json")


if __name__ == "__main__":
    main()
