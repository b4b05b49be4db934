"""The accuracy table: simulated nights against their truth, real nights against what is known.

``make truth`` prints it and writes ``build/truth.json``.
"""

from __future__ import annotations

import argparse

from bench import truth_night, truth_real, truth_run
from bench.runs import BUILD, publish


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-real", action="store_true", help="leave the real nights out")
    arguments = parser.parse_args()
    figures = truth_night.figures(BUILD / "truth" / "night")
    figures += truth_run.figures(BUILD / "truth" / "run")
    if not arguments.no_real:
        figures += truth_real.figures(BUILD / "truth" / "real")
    publish(figures, BUILD / "truth.json")


if __name__ == "__main__":
    main()
