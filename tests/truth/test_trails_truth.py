"""Planted trails that the mask step finds, and clean frames that it leaves clean.

The full figures are in ``bench/trails.py``; here is a part of them that is quick.
"""

import numpy as np
import pytest

from bench.trails import CLEAN, KINDS, _clean, completeness, marked


def test_planted_trails_of_every_kind_are_found():
    """Of 28 at 95 per cent, five or more are missed once in 10^3 runs: four may be."""
    planted = completeness(28, seed=21)
    found = [part >= 0.8 for _, part, _ in planted]
    assert sum(found) >= 24
    assert {trail.kind for trail, _, _ in planted} == set(KINDS)
    assert float(np.mean([off for _, _, off in planted])) < 0.01


@pytest.mark.parametrize("kind", CLEAN)
def test_clean_frames_have_no_trails(kind):
    rng = np.random.default_rng(22)
    assert marked(_clean(kind, rng, 1024)).mean() <= 0.001
