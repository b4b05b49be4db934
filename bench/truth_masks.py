"""Masks, backgrounds and error maps against their truth: what the accuracy table shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import background, cosmic_check, cosmics, error_maps, trails

if TYPE_CHECKING:
    from pathlib import Path

    from bench.runs import Figure


def figures(folder: Path | None = None) -> list[Figure]:
    """Measure on simulated frames, and compare cosmic rays with the peer on real ones.

    Parameters
    ----------
    folder : Path, optional
        Folder of reduced real nights, see `bench.truth_real`; None: simulated frames only.
    """
    return [
        *cosmics.truth_figures(),
        cosmics.disagreement_figure(folder),
        *cosmic_check.figures(),
        *trails.figures(),
        *background.truth_figures(),
        *error_maps.figures(),
    ]
