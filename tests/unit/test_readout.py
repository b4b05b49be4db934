"""Rows of the sheet become amplifiers: sections, gain, noise, linearity, place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from skymill.errors import ConfigError, FrameRejected
from skymill.readout import Readout, as_images
from skymill.sections import Section

ROW = {
    "datasec": "[1:40,1:64]",
    "biassec": "[41:72,1:64]",
    "gain_e_adu": 2.0,
    "read_noise_e": 10.0,
    "saturation_adu": 60_000.0,
}
SHAPE = (64, 72)


def raw_frame(dtype=np.uint16):
    return np.random.default_rng(1).normal(1000, 5, SHAPE).round().astype(dtype)


def test_row_becomes_sections_and_noise():
    readout = Readout.from_row(ROW, raw_frame())
    (only,) = readout.amplifiers
    assert readout.shape == (64, 40)
    assert only.data.slices == (slice(0, 64), slice(0, 40))
    assert [one.slices for one in only.overscans] == [(slice(0, 64), slice(40, 72))]
    assert only.place == Section(0, 40, 0, 64)
    assert only.read_noise_adu == 5.0
    assert only.dark_variance_adu2 == 25.0
    assert only.cut(raw_frame()).shape == (64, 40)
    assert only.saturation_known
    assert (readout.gain_e_adu, readout.read_noise_e) == (2.0, 10.0)
    assert readout.linear


def test_rounding_is_added_below_half_an_adu_only():
    (quiet,) = Readout.from_row(ROW | {"read_noise_e": 0.8}, raw_frame()).amplifiers
    assert quiet.dark_variance_adu2 == pytest.approx(0.16 + 1 / 12)


def test_missing_saturation_is_that_of_the_data_type():
    row = ROW | {"saturation_adu": None}
    (integers,) = Readout.from_row(row, raw_frame()).amplifiers
    assert integers.saturation_adu == 65_535
    assert not integers.saturation_known
    (floats,) = Readout.from_row(row, raw_frame(np.float32)).amplifiers
    assert floats.saturation_adu == np.inf


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"gain_e_adu": None}, "NO_GAIN"),
        ({"gain_e_adu": 0.0}, "NO_GAIN"),
        ({"gain_e_adu": np.nan}, "NO_GAIN"),
        ({"read_noise_e": None}, "NO_READ_NOISE"),
        ({"datasec": "[1:41,1:64]"}, "BAD_SECTION"),  # overlaps the overscan
        ({"biassec": "[41:99,1:64]"}, "BAD_SECTION"),
        ({"biassec": "[41:50,1:64];[30:45,1:64]"}, "BAD_SECTION"),
        ({"nx": 71, "ny": 64}, "WRONG_SIZE"),
        ({"hdu": 3}, "NO_IMAGE"),
    ],
)
def test_impossible_rows_are_rejected(change, code):
    with pytest.raises(FrameRejected, match=code) as caught:
        Readout.from_row(ROW | change, {0: raw_frame()})
    assert caught.value.code == code


def test_cube_is_not_a_frame():
    with pytest.raises(FrameRejected, match="BAD_SHAPE"):
        Readout.from_row(ROW, np.zeros((2, 64, 72), np.uint16))


def test_several_overscans_are_kept_in_their_order():
    """A2: several areas at once."""
    row = ROW | {"datasec": "[9:40,1:64]", "biassec": "[41:72,1:64];[1:8,1:64]"}
    (only,) = Readout.from_row(row, raw_frame()).amplifiers
    assert [str(one) for one in only.overscans] == ["[41:72,1:64]", "[1:8,1:64]"]


def entry(name, **change):
    return {
        "name": name, "hdu": 1, "data": "[1:32,1:64]", "bias": ["[33:36,1:64]"],
        "place": "[1:32,1:64]", "gain": 1.5, "noise": 6.0, "saturation": 50_000.0,
    } | change  # fmt: skip


def several(*entries, **cells):
    return {"hdu": 1, "nx": 64, "ny": 64, "amplifiers": json.dumps(entries)} | cells


def test_amplifiers_have_gain_noise_and_saturation_of_their_own():
    row = several(
        entry("a"),
        entry("b", hdu=2, place="[64:33,1:64]", gain=2.0, noise=8.0, linear_max=40_000.0),
    )
    readout = Readout.from_row(row, {1: raw_frame(), 2: raw_frame(np.float32)})
    a, b = readout.amplifiers
    assert readout.shape == (64, 64)
    assert (a.gain_e_adu, b.gain_e_adu) == (1.5, 2.0)
    assert (a.linear_max_adu, b.linear_max_adu) == (np.inf, 40_000.0)
    assert (a.flip_x, b.flip_x, a.corner, b.corner) == (False, True, "ll", "lr")
    assert b.place == Section(32, 64, 0, 64)
    assert readout.gain_e_adu == 1.75
    assert readout.read_noise_e == pytest.approx(np.sqrt(50))
    assert (a.label, b.label) == ("amplifier a", "amplifier b")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"place": "[33:60,1:64]"}, "BAD_SECTION"),  # smaller than the data
        ({"place": "[32:63,1:64]"}, "BAD_SECTION"),  # twice and open
        ({"place": "[34:65,1:64]"}, "BAD_SECTION"),  # outside
        ({"hdu": 3}, "NO_IMAGE"),
        ({"gain": None}, "NO_GAIN"),
        ({"noise": -1.0}, "NO_READ_NOISE"),
        ({"corner": "middle"}, "BAD_SECTION"),
        ({"hdu": 1, "bias": ["[1:4,1:64]"], "data": "[37:68,1:64]"}, "BAD_SECTION"),
    ],
)
def test_impossible_amplifiers_are_rejected(change, code):
    """The last one takes the light of the other amplifier for its overscan."""
    row = several(entry("a"), entry("b", **({"hdu": 2, "place": "[33:64,1:64]"} | change)))
    with pytest.raises(FrameRejected) as caught:
        Readout.from_row(row, {1: raw_frame(), 2: raw_frame()})
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["{", "[1]", '[{"name": "a"}]', '{"a": 1}'])
def test_amplifiers_that_cannot_be_read_are_told(text):
    with pytest.raises(FrameRejected, match="BAD_SECTION"):
        Readout.from_row({"amplifiers": text, "nx": 9, "ny": 9}, raw_frame())


def test_linearity_goes_to_the_amplifier_it_names():
    row = several(entry("a"), entry("b", hdu=2, place="[33:64,1:64]"))
    images = {1: raw_frame(), 2: raw_frame()}
    electronics = {"linearity": {"b": {"polynomial": [1e-6]}}}
    a, b = Readout.from_row(row, images, electronics).amplifiers
    assert a.linearity is None
    assert b.linearity is not None
    assert not Readout.from_row(row, images, electronics).linear
    only = Readout.from_row(ROW, images[1], {"linearity": {"": {"polynomial": [1e-6]}}})
    assert not only.linear


def test_linearity_need_not_make_sense_above_saturation():
    """m - 1e-5 m^2 turns at 50000 ADU."""
    rule = {"linearity": {"": {"polynomial": [-1e-5]}}}
    with pytest.raises(ConfigError, match="does not grow"):
        Readout.from_row(ROW, raw_frame(), rule)
    Readout.from_row(ROW | {"saturation_adu": 45_000.0}, raw_frame(), rule)


def test_one_array_stands_for_the_image_of_the_row():
    array = raw_frame()
    assert as_images(array, {"hdu": 4})[4] is array
    assert as_images(array, {})[0] is array
    images = {2: array}
    assert as_images(images, {"hdu": 4}) is images
