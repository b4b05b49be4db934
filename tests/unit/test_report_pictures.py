"""Pictures show what is in the array: right side up, blank where it is blank."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from skymill.report.pictures import COLORMAPS, limits, make_picture, shrink, to_png


def decoded(png: bytes) -> np.ndarray:
    """Picture as RGBA, first row at the top; decoded by another program's code."""
    image = Image.open(io.BytesIO(png))
    image.load()
    return np.asarray(image.convert("RGBA"))


def sky(shape: tuple[int, int] = (60, 80), seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(1000, 12, shape).astype(np.float32)


@pytest.mark.parametrize("stretch", ["asinh", "zscale", "linear"])
def test_brighter_pixels_are_never_darker(stretch):
    ramp = np.repeat(np.linspace(0, 100, 200)[None, :], 3, axis=0)
    gray = decoded(to_png(ramp, stretch=stretch))[1, :, 0].astype(int)
    assert (np.diff(gray) >= 0).all()
    assert gray[0] == 0
    assert gray[-1] == 255


def test_row_zero_is_at_the_bottom_and_column_zero_at_the_left():
    data = np.zeros((20, 30))
    data[:5, :10] = 100.0
    light = decoded(to_png(data, stretch="linear"))[..., 0]
    assert light[-1, 0] == 255
    assert light[0, 0] == 0
    assert light[-1, -1] == 0


def test_blank_pixels_are_transparent_and_others_are_not():
    data = sky()
    data[10:20, 30:40] = np.nan
    data[0, 0] = np.inf
    alpha = decoded(to_png(data))[::-1, :, 3]
    assert (alpha == 0).sum() == 101
    assert (alpha[10:20, 30:40] == 0).all()


def test_faint_and_bright_are_both_seen_with_asinh():
    data = sky()
    data[30, 40] = 60000.0
    data[10, 10] = 1000 + 8 * 12
    light = decoded(to_png(data))[::-1, :, 0].astype(int)
    background = np.median(light)
    # A source of 8 sigma stands out by more than the scatter of the sky, though the
    # brightest pixel is 600 times as bright.
    assert light[10, 10] > background + 3 * light[40:, 50:].std()
    assert light[30, 40] == 255
    assert background < 128


def test_limits_do_not_follow_single_outliers():
    data = sky((100, 100))
    low, high = limits(data, "linear")
    data[3, 3] = 1e7
    assert limits(data, "linear") == pytest.approx((low, high), abs=1.0)
    assert limits(data, "zscale")[1] < 1100


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (101, 203)])
def test_large_images_are_averaged_within_the_size(shape):
    data = np.full(shape, 5.0)
    small = shrink(data, 50)
    assert max(small.shape) <= 50
    assert small == pytest.approx(5.0)
    picture = make_picture(data, max_size=50)
    assert (picture.height, picture.width) == small.shape


def test_shrinking_keeps_the_mean_and_ignores_blanks():
    data = sky((96, 96)).astype(np.float64)
    assert shrink(data, 12).mean() == pytest.approx(data.mean(), rel=1e-12)
    data[:8, :8] = np.nan
    data[8, 0] = np.nan
    small = shrink(data, 12)
    assert np.isnan(small[0, 0])
    assert small[1, 0] == pytest.approx(np.nanmean(data[8:16, :8]), rel=1e-12)


def test_input_is_not_changed():
    data = sky()
    before = data.copy()
    data.flags.writeable = False
    to_png(data)
    assert np.array_equal(data, before)


@pytest.mark.parametrize(
    "data",
    [np.full((5, 5), np.nan), np.zeros((5, 5)), np.full((4, 4), -3.0), np.ones((1, 1))],
)
@pytest.mark.parametrize("stretch", ["asinh", "zscale", "linear"])
def test_empty_and_constant_images_give_a_picture(data, stretch):
    assert decoded(to_png(data, stretch=stretch)).shape[:2] == data.shape


def test_integers_and_booleans_are_pictures_too():
    for data in (np.arange(12, dtype=np.uint16).reshape(3, 4), np.eye(4, dtype=bool)):
        assert decoded(to_png(data, stretch="linear")).shape[:2] == data.shape


@pytest.mark.parametrize("cmap", sorted(COLORMAPS))
def test_colours_begin_and_end_as_declared(cmap):
    ramp = np.repeat(np.linspace(0, 1, 50)[None, :], 2, axis=0)
    colours = decoded(make_picture(ramp, stretch="linear", cmap=cmap, span=(0.0, 1.0)).png)[0]
    assert bytes(colours[0, :3]).hex() == COLORMAPS[cmap][0]
    assert bytes(colours[-1, :3]).hex() == COLORMAPS[cmap][-1]


def test_bytes_are_the_same_for_the_same_image_and_carry_no_time():
    assert to_png(sky()) == to_png(sky())
    png = to_png(sky())
    assert b"tIME" not in png
    assert b"tEXt" not in png


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="2-D array, got shape"):
        to_png(np.zeros(5))
    with pytest.raises(ValueError, match="non-empty"):
        to_png(np.zeros((0, 5)))
    with pytest.raises(ValueError, match="cmap must be one of .* got 'jet'"):
        to_png(sky(), cmap="jet")
    with pytest.raises(ValueError, match="stretch must be"):
        to_png(sky(), stretch="log")  # type: ignore[arg-type]
