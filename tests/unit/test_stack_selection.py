"""E67: which frames are good enough, and why the others are not."""

import numpy as np
import pytest
from astropy.wcs import WCS

from skymill.errors import CODES
from skymill.steps.stack_inputs import StackInput
from skymill.steps.stack_selection import (
    choose_frames,
    on_one_scale,
    quality,
    unknown_figures,
)

GOOD = {
    "throughput": 1.0,
    "fwhm_px": 3.0,
    "fwhm_arcsec": 1.5,
    "ellipticity": 0.05,
    "sky_e": 600.0,
    "depth_mag": 20.0,
    "depth_flux_e": 300.0,
}


def frame(name, exptime=60.0, **changes):
    def load():
        raise AssertionError("a selection reads no pixels")

    return StackInput(name, {"exptime_s": exptime}, WCS(naxis=2), (10, 10), GOOD | changes, load)


def choose(inputs, **select):
    kept, outcomes = choose_frames(inputs, select=select)
    return [item.frame_id for item in kept], {o.frame_id: o for o in outcomes}


FEW = [frame(f"f{n}") for n in range(5)]


@pytest.mark.parametrize(
    ("setting", "limit", "bad", "code", "words"),
    [
        ("max_fwhm_px", 4.0, {"fwhm_px": 4.5}, "POOR_SEEING", ("4.5 px", "= 4 px")),
        ("max_fwhm_arcsec", 2.0, {"fwhm_arcsec": 2.5}, "POOR_SEEING", ("2.5 arcsec", "= 2 arcsec")),
        ("minimum_depth_mag", 19.0, {"depth_mag": 18.5}, "SHALLOW", ("18.5 mag", "less than")),
        ("max_depth_loss_mag", 0.5, {"depth_flux_e": 600.0}, "SHALLOW", ("0.7526 mag",)),
        ("max_sky_e_s", 20.0, {"sky_e": 1500.0}, "SKY_BRIGHT", ("25 electron/s", "= 20")),
        ("max_sky_ratio", 2.0, {"sky_e": 1500.0}, "SKY_BRIGHT", ("2.5", "more than")),
        ("max_ellipticity", 0.3, {"ellipticity": 0.4}, "ELONGATED", ("0.4", "= 0.3")),
    ],
)
def test_limit_rejects_with_its_code_and_both_numbers(setting, limit, bad, code, words):
    kept, told = choose([*FEW, frame("bad", **bad)], **{setting: limit})
    assert kept == [f"f{n}" for n in range(5)]
    assert set(told) == {"bad"}
    assert told["bad"].code == code and code in CODES
    assert f"stack.select.{setting}" in told["bad"].message
    assert all(word in told["bad"].message for word in words)


def test_without_limits_all_are_kept_and_pixels_are_not_read():
    kept, told = choose([frame("b", fwhm_px=8.0, ellipticity=0.9, sky_e=1e6), *FEW])
    assert kept == ["b", "f0", "f1", "f2", "f3", "f4"] and not told


@pytest.mark.parametrize("missing", [None, float("nan")])
@pytest.mark.parametrize("unknown", ["keep", "reject"])
def test_unknown_figures_are_told_and_never_crash(missing, unknown):
    lost = frame("lost", **dict.fromkeys(GOOD, missing) | {"throughput": 1.0})
    select = {
        "max_fwhm_px": 4.0,
        "minimum_depth_mag": 19.0,
        "max_ellipticity": 0.3,
        "max_sky_ratio": 2.0,
        "unknown": unknown,
    }
    kept, told = choose([*FEW, lost], **select)
    assert ("lost" in kept) == (unknown == "keep")
    if unknown == "reject":
        assert told["lost"].code == "UNKNOWN_QUALITY"
        assert "fwhm_px is not known" in told["lost"].message
    assert unknown_figures(lost, select) == ["depth_mag", "ellipticity", "fwhm_px", "sky_ratio"]
    assert unknown_figures(FEW[0], select) == [] and unknown_figures(lost, None) == []


def test_nothing_known_of_any_frame_is_no_crash():
    bare = [frame(f"f{n}", **dict.fromkeys(GOOD)) for n in range(4)]
    kept, told = choose(bare, max_sky_ratio=2.0, max_depth_loss_mag=1.0, best_fraction=0.5)
    assert kept == ["f0", "f1"]
    assert {o.code for o in told.values()} == {"NOT_BEST"}
    assert choose([], best_fraction=0.5) == ([], {})


def test_best_fraction_takes_the_best_and_says_how_far_behind_the_others_are():
    frames = [frame(f"f{n}", fwhm_px=3.0 + 0.5 * n) for n in range(4)]
    kept, told = choose(frames[::-1], best_fraction=0.5)
    assert kept == ["f0", "f1"]
    behind = 2.5 * np.log10(4.5 / 3.5)
    assert f"place 4 of 4 by quality, {behind:.3f} mag behind" in told["f3"].message
    assert "stack.select.best_fraction = 0.5" in told["f3"].message


def test_depth_seeing_and_shape_all_count():
    deep = frame("deep", depth_flux_e=200.0)
    sharp = frame("sharp", fwhm_px=2.0)
    round_ = frame("round", ellipticity=0.0)
    kept, _ = choose([*FEW, deep, sharp, round_], best_fraction=3 / 8)
    assert kept == ["deep", "round", "sharp"]


def test_order_of_frames_does_not_depend_on_a_bad_one():
    """E67's defect: a score normalised by the extremes reorders the others."""
    rng = np.random.default_rng(7)
    frames = [
        frame(
            f"f{n:02d}",
            fwhm_px=rng.uniform(2, 4),
            depth_flux_e=rng.uniform(200, 500),
            ellipticity=rng.uniform(0, 0.3),
        )
        for n in range(20)
    ]
    awful = frame("z", fwhm_px=9.0, depth_flux_e=1e5, ellipticity=0.9)
    alone, _ = choose(frames, best_fraction=0.5)
    together, told = choose_frames(
        [*frames, awful], select={"best_fraction": 10 / 21}, max_fwhm_ratio=100.0
    )
    assert [item.frame_id for item in together] == alone
    assert "z" in {o.frame_id for o in told}


def test_relative_depth_needs_no_zero_point_and_counts_exposure_and_clouds():
    one = quality(frame("a", depth_mag=None))
    longer = quality(frame("b", exptime=240.0, depth_flux_e=600.0, depth_mag=None))
    cloudy = quality(frame("c", throughput=0.5, depth_mag=None))
    # Four times the exposure at twice the noise: twice as deep.
    assert longer["depth_common"] - one["depth_common"] == pytest.approx(2.5 * np.log10(2))
    assert one["depth_common"] - cloudy["depth_common"] == pytest.approx(2.5 * np.log10(2))


def test_earlier_reasons_come_first_and_each_frame_is_told_once():
    frames = [
        *FEW,
        frame("cloudy", throughput=0.05, fwhm_px=20.0),
        frame("blurred", fwhm_px=12.0),
        frame("timeless", exptime=0.0),
        frame("lost", throughput=None),
        frame("outside", fwhm_px=20.0),
    ]
    kept, outcomes = choose_frames(
        frames[::-1],
        rejected=[("outside", "NO_OVERLAP", "outside: no")],
        select={"max_fwhm_px": 5.0},
    )
    assert [item.frame_id for item in kept] == [f"f{n}" for n in range(5)]
    assert [(o.frame_id, o.code) for o in outcomes] == [
        ("blurred", "POOR_SEEING"),
        ("cloudy", "CLOUDY"),
        ("lost", "NO_ZP"),
        ("outside", "NO_OVERLAP"),
        ("timeless", "MISSING_EXPTIME"),
    ]
    assert all(o.status == "rejected" and o.step == "stack" for o in outcomes)


def test_fields_are_joined_by_their_zero_points():
    """Two fields whose references saw other skies: the same star must give the same flux."""
    rows = {
        "a": {"zp": 24.0, "zp_err": 0.01, "throughput": 1.0},
        "b": {"zp": 23.25, "zp_err": 0.02, "throughput": 1.0},
        "c": {"zp": float("nan"), "zp_err": float("nan"), "throughput": 0.8},
    }
    joined = on_one_scale(rows)
    ratio = joined["a"]["throughput"] / joined["b"]["throughput"]
    assert ratio == pytest.approx(10 ** (0.4 * 0.75))
    error = joined["b"]["throughput_err"] / joined["b"]["throughput"]
    assert error == pytest.approx(0.02 * 0.4 * np.log(10))
    assert np.isnan(joined["c"]["throughput"]) and rows["a"]["throughput"] == 1.0
    assert joined["a"]["zp"] - 2.5 * np.log10(joined["a"]["throughput"]) == pytest.approx(
        joined["b"]["zp"] - 2.5 * np.log10(joined["b"]["throughput"])
    )
