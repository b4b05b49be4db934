"""Stacks through the real SWarp against scenes of their own, and against its own stack."""

import math

import numpy as np
import pytest

from bench import truth_stack_flux as flux
from bench import truth_stack_masks as masks
from bench.stack_files import swarp_binary
from bench.stack_scene import Exposure, dithered
from bench.truth_stack import pulls

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(swarp_binary() is None, reason="SWarp is not installed"),
]


def test_aperture_errors_are_true_from_2_to_8_px():
    """S8: SWarp's own weights would make errors 12 % too small or too large."""
    for p in pulls("swarp", 3, side=500, repeats=2):
        n = p.true.size
        assert n > 500
        assert abs(p.true.std() - 1) < 0.03 + 4 / math.sqrt(2 * n), p
        assert abs(p.true.mean()) < 4 / math.sqrt(n), p


@pytest.mark.parametrize("convention", ["flux", "surface_brightness"])
@pytest.mark.parametrize("geometry", flux.GEOMETRIES, ids=lambda item: item.name)
def test_flux_is_conserved_to_half_a_millimagnitude(convention, geometry):
    """S9: also for SIP, which SWarp itself does not know."""
    ratio = flux.flux_ratios("swarp", "lanczos3", geometry, convention)
    assert ratio.size >= 15
    assert flux.MMAG * abs(ratio.mean() - 1) < 0.5


def test_no_polluted_pixel_is_without_flag():
    """S11: bad pixels through the footprint of the kernel."""
    alone = [Exposure(shift_px=(0.5, 0.5))]
    for case in (alone, dithered(3, np.random.default_rng(12))):
        wrong, worst, touched = masks.pollution("swarp", case)
        assert touched > 500
        assert wrong == 0, worst


def test_engines_agree_on_a_clean_field():
    found = flux.parity(("skymill", "swarp"))
    apart = (found["swarp"] - found["skymill"]) / found["err"]
    # The same kernel: what differs is the clipping of single pixels by rounding.
    assert apart.std() < 0.05


def test_our_stack_is_that_of_swarp_alone():
    (figure,) = masks.swarp_parity_figure(["skymill"])
    assert figure.value < 0.2
