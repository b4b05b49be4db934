"""Overscan methods of the user, by import path."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skymill.assembly import assemble
from skymill.errors import ConfigError, StepFailed
from skymill.overscan_user import load_method

ROW = {
    "datasec": "[11:50,1:64]",
    "biassec": "[51:72,1:64];[1:10,1:64]",
    "gain_e_adu": 2.0,
    "read_noise_e": 10.0,
    "saturation_adu": 60_000.0,
}

MODULE = '''
"""A method in each of the two forms."""

import numpy as np


def _pixels(image, overscans):
    mask = np.zeros(image.shape, bool)
    for area in overscans:
        mask[area["ymin"]:area["ymax"], area["xmin"]:area["xmax"]] = True
    return np.where(mask, image, np.nan)


def function(image, overscans):
    return image - np.nanmedian(_pixels(image, overscans))


def trimmed(image, overscans):
    return function(image, overscans)[:, 10:50]


def rows(image, overscans):
    return image - np.nanmean(_pixels(image, overscans), axis=1, keepdims=True)


class Median:
    """One level, with its variance and cards."""

    def __init__(self, by_row=False):
        self.by_row = by_row
        self.number = 0

    def __call__(self, *, raw_image, overscans, image_area, gain):
        assert gain == 2.0
        assert image_area == dict(xmin=10, xmax=50, ymin=0, ymax=64)
        pixels = _pixels(raw_image, overscans)
        self.number = int(np.isfinite(pixels).sum())
        if self.by_row:
            level = np.nanmean(pixels, axis=1, keepdims=True)
            return {"correction": level, "variance": np.full((64, 1), 0.5)}
        return {"correction": np.nanmedian(pixels), "variance": 0.25}

    def document_in_fits_header(self, header):
        header["OVMYN"] = (self.number, "pixels of my own median")


instance = Median()
row_object = Median(by_row=True)
number = 5


class Whole(Median):
    """As the older ones do: constant planes."""

    def __call__(self, **keywords):
        found = super().__call__(**keywords)
        return {key: np.full((64, 40), value) for key, value in found.items()}


def returns(value):
    return lambda image, overscans: value


def raises(image, overscans):
    raise RuntimeError("no luck today")


shape = returns(np.zeros((3, 4)))
text = returns("corrected")
blank = returns(np.full((64, 72), np.nan))
negative = returns({"correction": 1.0, "variance": -1.0})
ragged = returns({"correction": np.zeros(64)})
nothing = returns({"variance": 1.0})
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with a module of the user."""
    (tmp_path / "my_overscan.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import package_that_nobody_has\n")
    (tmp_path / "my_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_overscan", "my_broken", "my_syntax"):
        sys.modules.pop(name, None)


@pytest.fixture
def raw():
    return np.random.default_rng(4).normal(1000, 5, (64, 72)).round().astype(np.uint16)


def corrected(raw, method):
    exposure = assemble(raw, ROW, overscan={"method": method})
    return exposure.subtracted(), exposure.levels[0]


def test_a10_function_object_and_class_give_the_same_image(folder, raw):
    overscan = np.concatenate([raw[:, :10], raw[:, 50:]], axis=1)
    expected = (raw[:, 10:50] - np.median(overscan)).astype(np.float32)
    for name in ("function", "trimmed", "Median", "instance", "Whole"):
        image, level = corrected(raw, f"my_overscan:{name}")
        np.testing.assert_array_equal(image, expected)
        assert level.level.shape == level.variance.shape == (1, 1)
        assert level.method == f"my_overscan:{name}"
    one, level_of_one = corrected(raw, "my_overscan:rows")
    other, level_of_other = corrected(raw, "my_overscan:row_object")
    np.testing.assert_array_equal(one, other)
    assert level_of_one.level.shape == level_of_other.level.shape == (64, 1)


def test_variance_is_that_of_the_method_or_of_a_mean_of_the_pixels(folder, raw):
    s2 = raw[:, :10].astype(float).var()
    assert corrected(raw, "my_overscan:instance")[1].variance[0, 0] == 0.25
    assert (corrected(raw, "my_overscan:row_object")[1].variance == 0.5).all()
    frame = corrected(raw, "my_overscan:function")[1].variance[0, 0]
    assert frame == pytest.approx(s2 / (64 * 32), rel=0.2)
    row = corrected(raw, "my_overscan:rows")[1].variance.mean()
    # 32 columns of the 72 between the first and the last
    assert row == pytest.approx(s2 / 32, rel=0.2)


def test_what_the_object_documents_goes_into_the_header(folder, raw):
    level = corrected(raw, "my_overscan:instance")[1]
    header = fits.Header()
    for keyword, value, comment in level.cards:
        header[keyword] = (value, comment)
    assert header["OVMYN"] == 64 * 32
    assert header.comments["OVMYN"] == "pixels of my own median"
    assert header["OVSCAN"] == "my_overscan:instance"
    assert len(header["OVCODE"]) == 16
    assert header["OVLEVEL"] == pytest.approx(1000, abs=1)


def test_areas_of_an_amplifier_are_turned_like_its_pixels(folder, raw):
    """A mirrored amplifier: the method sees pixels as stored, the level is mirrored."""
    entry = {
        "name": "a", "hdu": 0, "data": "[11:50,1:64]", "bias": ["[51:72,1:64]", "[1:10,1:64]"],
        "place": "[40:1,64:1]", "gain": 2.0, "noise": 10.0, "saturation": None,
    }  # fmt: skip
    row = {"nx": 40, "ny": 64, "amplifiers": json.dumps([entry])}
    exposure = assemble(raw, row, overscan={"method": "my_overscan:rows"})
    plain, level = corrected(raw, "my_overscan:rows")
    np.testing.assert_array_equal(exposure.subtracted(), plain[::-1, ::-1])
    np.testing.assert_array_equal(exposure.levels[0].level, level.level[::-1])


def test_pixels_without_a_value_show_no_level_but_do_not_spoil_it(folder, raw):
    holes = raw.astype(np.float32)
    holes[5, 20] = np.nan
    image, level = corrected(holes, "my_overscan:function")
    assert level.level.shape == (1, 1)
    assert np.isnan(image[5, 10])
    assert np.isfinite(image).sum() == image.size - 1


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("no_such_module:f", "no_such_module"),
        ("my_overscan:no_such_name", "no_such_name"),
        ("my_broken:f", "package_that_nobody_has"),
        ("my_syntax:f", "SyntaxError"),
        ("my_overscan:number", "not callable"),
    ],
)
def test_path_that_leads_nowhere_is_an_error_of_the_configuration(folder, path, match):
    before = list(sys.path)
    with pytest.raises(ConfigError, match=match):
        load_method(path)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("raises", "no luck today"),
        ("shape", r"\(3, 4\)"),
        ("text", "not an image"),
        ("blank", "not finite"),
        ("negative", "negative variance"),
        ("ragged", r"\(64,\)"),
        ("nothing", "no `correction`"),
    ],
)
def test_method_that_fails_is_told_by_name(folder, raw, name, match):
    with pytest.raises(StepFailed, match=match) as caught:
        corrected(raw, f"my_overscan:{name}")
    assert caught.value.code == "OVERSCAN_METHOD"
    assert f"my_overscan:{name}" in caught.value.message


def test_example_of_the_documentation_works_in_both_forms(folder, raw):
    page = (Path(__file__).resolve().parents[2] / "docs" / "overscan.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    (folder / "my_documented.py").write_text(code)
    try:
        one, level_of_one = corrected(raw, "my_documented:middle")
        other, level_of_other = corrected(raw, "my_documented:Middle")
    finally:
        sys.modules.pop("my_documented", None)
    np.testing.assert_array_equal(one, other)
    assert level_of_one.mean_adu == pytest.approx(1000, abs=4 * 5 / np.sqrt(64 * 32))
    assert level_of_other.variance[0, 0] == pytest.approx(1.19 * 25 / (64 * 32), rel=0.2)
    assert ("OVMID", 64 * 16, "overscan pixels in the middle half") in level_of_other.cards
