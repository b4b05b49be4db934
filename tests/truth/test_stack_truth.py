"""Stacks against scenes of their own: small versions of `bench.truth_stack`, by engine.

Tolerances are at least four standard errors of the measurement.
"""

import math

import numpy as np
import pytest

from bench import truth_stack_flux as flux
from bench import truth_stack_masks as masks
from bench.stack_scene import Exposure, dithered
from bench.truth_stack import block_ratios, noise_over_ideal, pulls

ENGINES = ("skymill", "reproject")


@pytest.mark.parametrize("engine", ENGINES)
def test_aperture_errors_are_true_from_2_to_8_px(engine):
    """S8: aperture errors of a stack with the stored correlation."""
    found = pulls(engine, 3, side=500, repeats=2)
    assert {p.kind for p in found} == {"star", "empty"}
    for p in found:
        n = p.true.size
        assert n > 500
        # Bilinear: at r = 2 the photons of a star lie within the circle, and its noise is
        # that of a large aperture (1.50 against 1.40 for an even background).
        excess = 0.06 if engine == "reproject" and p.radius < 5 and p.kind == "star" else 0.03
        assert abs(p.true.std() - 1) < excess + 4 / math.sqrt(2 * n), p
        assert abs(p.true.mean()) < 4 / math.sqrt(n), p
    # Without the factor the errors are too small: 1.12 for Lanczos-3, 1.45 for bilinear.
    naive = math.sqrt(np.mean([p.naive.var() for p in found]))
    assert naive > 1.06


def test_stack_is_as_deep_as_inverse_variance_weights_allow():
    rng = np.random.default_rng(5)
    ratio, modes = noise_over_ideal("skymill", dithered(3, rng), 51, side=700)
    error = 1 / math.sqrt(4 * modes)
    assert ratio < 1.02 + 4 * error
    assert ratio > 0.98 - 4 * error


def test_block_means_vary_as_the_stack_says():
    found = block_ratios("skymill", side=700, repeats=2)
    for ratio, n in found.values():
        assert abs(ratio - 1) < 0.015 + 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("convention", ["flux", "surface_brightness"])
@pytest.mark.parametrize("geometry", flux.GEOMETRIES, ids=lambda item: item.name)
def test_flux_is_conserved_to_half_a_millimagnitude(engine, convention, geometry):
    """S10: flux times the local ratio of the pixel areas."""
    kernel = {"skymill": "lanczos3", "reproject": "bilinear"}[engine]
    ratio = flux.flux_ratios(engine, kernel, geometry, convention)
    assert ratio.size >= 15
    # Single stars in a strongly distorted frame scatter by 2 mmag, see `flux_ratios`.
    error = ratio.std() / math.sqrt(ratio.size)
    assert flux.MMAG * abs(ratio.mean() - 1) < 0.5
    assert abs(ratio.mean() - 1) < 1e-4 + 4 * error


@pytest.mark.parametrize("kernel", ["lanczos2", "lanczos4", "bilinear", "area"])
@pytest.mark.parametrize("name", ["scale 0.5", "scale 2", "rotation 20 deg"])
def test_other_kernels_conserve_flux_too(kernel, name):
    geometry = next(item for item in flux.GEOMETRIES if item.name == name)
    ratio = flux.flux_ratios("skymill", kernel, geometry)
    assert flux.MMAG * abs(ratio.mean() - 1) < 0.5


@pytest.mark.parametrize("kind", ["cosmic", "trail"])
@pytest.mark.parametrize("depth", [3, 10])
def test_strong_outliers_leave_less_than_a_tenth_of_a_sigma(kind, depth):
    """Hits and trails that no mask knows."""
    leak = flux.outlier_leaks("skymill", kind, depth)
    assert leak.n > 300
    assert abs(leak.strong) < 0.1 + 4 / math.sqrt(leak.n) * 0.2


def test_wrong_frame_leaves_less_than_a_tenth_of_a_sigma():
    leak = flux.outlier_leaks("skymill", "wrong", 5)
    assert leak.n > 300
    assert abs(leak.strong) < 0.1


@pytest.mark.parametrize("seeing", flux.SEEINGS.values(), ids=flux.SEEINGS.keys())
def test_bright_cores_survive_changes_of_seeing(seeing):
    total, _, core = flux.core_bias("skymill", seeing)
    assert abs(total) < 1
    assert abs(core) < 1


@pytest.mark.parametrize("engine", ENGINES)
def test_no_polluted_pixel_is_without_flag(engine):
    """S11: bad pixels through the footprint of the kernel."""
    alone = [Exposure(shift_px=(0.5, 0.5))]
    for case in (alone, dithered(3, np.random.default_rng(12))):
        wrong, worst, touched = masks.pollution(engine, case)
        assert touched > 500
        assert wrong == 0, worst


@pytest.mark.parametrize("engine", ENGINES)
def test_mosaic_has_level_and_error_of_the_frames_that_are_there(engine):
    """S12: coverage counts, and sums are divided by the frames that are there."""
    found = masks.mosaic(engine)
    for n in (2, 4):
        assert found[f"share_{n}"] > 0.2
        # 90 000 correlated pixels and more: standard error of the width 0.003.
        assert abs(found[f"width_{n}"] - 1) < 0.02
        assert abs(found[f"level_{n}"] - 1) < 0.005


def test_engines_agree_on_a_clean_field():
    found = flux.parity(ENGINES)
    apart = (found["reproject"] - found["skymill"]) / found["err"]
    assert apart.size > 150
    # Two kernels keep nearly the same noise at 8 px; the fluxes are those of S/N 250.
    assert apart.std() < 0.2
    assert abs(apart.mean()) < 0.05


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_broken_frames_are_named_and_do_no_harm(tmp_path):
    """One product cut short, one blank, one far away; by the function of the rule."""
    found = masks.bad_inputs(tmp_path, engine="skymill")
    said = found["said"]
    for name in ("f0005", "f0006", "f0007"):
        assert said[name][1] != "", name
        assert said[name][0] not in ("ok", "degraded") or said[name][1] == "ALL_MASKED", name
    for i in range(5):
        assert said[f"f000{i}"][0] in ("ok", "degraded")
    assert found["change"] == 0
    assert found["lost"] == 0
