"""Masks and backgrounds on the page: which frame, which colours, which words."""

from __future__ import annotations

import io as bytes_io
import re
from importlib.resources import files

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from skymill.frame import Background, Frame, MaskBit
from skymill.io import write_background, write_frame, write_mask
from skymill.report.blocks import (
    MASK_COLOURS,
    cell_picture,
    load_blocks,
    mask_picture,
    noise_meaning,
)
from skymill.report.funnel import GroupOutcome

COLOUR = {css: tuple(bytes.fromhex(colour)) for css, _, _, colour in MASK_COLOURS}


def frame(shape=(96, 128), bits=()):
    rng = np.random.default_rng(3)
    mask = np.zeros(shape, np.uint16)
    for where, bit in bits:
        mask[where] |= np.uint16(int(bit))
    sci = rng.normal(100, 10, shape)
    return Frame(sci.astype("f4"), np.full(shape, 10, "f4"), mask, fits.Header())


def pixels(picture):
    return np.array(Image.open(bytes_io.BytesIO(picture.png)).convert("RGB"))[::-1]


def told(name, step, numbers, group="b1"):
    return GroupOutcome(name, step, "ok", "", "", numbers, group)


def night(folder):
    """Two frames of a block; the second has a trail."""
    given = {
        "a": frame(bits=[(np.s_[5, 5], MaskBit.HOT)]),
        "b": frame(bits=[(np.s_[40, :], MaskBit.TRAIL), (np.s_[10, 10], MaskBit.COSMIC)]),
    }
    for name, one in given.items():
        write_frame(folder / "calibrated/b1" / f"{name}.fits", one, {})
        write_mask(folder / "mask/b1" / f"{name}.fits", one.mask, one, {})
        mesh = np.full((3, 4), 100, np.float32)
        sky = Background(mesh, mesh / 10, one.shape, 32, 0.1)
        write_background(folder / "background/b1" / f"{name}.fits", sky, {})
    return [
        told("a", "mask", {"n_cosmic_px": 9, "n_cosmics": 3, "n_trail_px": 0}),
        told("b", "mask", {"n_cosmic_px": 1, "n_cosmics": 1, "n_trail_px": 128}),
        told("a", "background", {"err_ratio": 1.02}),
        told("b", "background", {"err_ratio": 1.2}),
    ]


def test_the_frame_with_most_pixels_of_its_own_is_shown(tmp_path):
    missing = []
    (view,) = load_blocks(tmp_path, night(tmp_path), {}, 24, missing)
    assert view.frame_id == "b"
    assert view.sums["cosmic rays"] == 4
    assert view.ratios == (1.02, pytest.approx(1.11), 1.2)
    assert {css: n for css, _, n in view.layers} == {
        "m-cosmic": 1, "m-trail": 128, "m-bleed": 0, "m-saturated": 0, "m-bad": 0,
    }  # fmt: skip
    assert view.picture and view.boxes and view.level and view.rms
    assert not missing


def test_a_poor_background_judges_no_error(tmp_path):
    outcomes = night(tmp_path)
    outcomes.append(
        GroupOutcome("c", "background", "degraded", "BKG_POOR", "", {"err_ratio": 3.0}, "b1")
    )
    (view,) = load_blocks(tmp_path, outcomes, {}, 0, [])
    assert view.ratios[2] == 1.2
    assert view.n_frames == 2


def test_nothing_is_read_beyond_the_limit_and_what_is_gone_is_left_out(tmp_path):
    outcomes = night(tmp_path)
    assert load_blocks(tmp_path, outcomes, {}, 0, [])[0].picture is None
    missing = []
    (tmp_path / "background/b1/b.fits").write_bytes(b"SIMPLE")
    (view,) = load_blocks(tmp_path, outcomes, {}, 24, missing)
    assert view.picture
    assert view.level is None
    assert len(missing) == 1
    (tmp_path / "mask/b1/b.fits").unlink()
    (view,) = load_blocks(tmp_path, outcomes, {}, 24, [])
    assert view.picture is None


def test_every_bit_has_its_colour_and_hits_lie_above_bad_pixels():
    one = frame(bits=[
        (np.s_[5, 5], MaskBit.HOT), (np.s_[6, 6], MaskBit.HOT | MaskBit.COSMIC),
        (np.s_[7, 7], MaskBit.TRAIL), (np.s_[8, 8], MaskBit.BLEED | MaskBit.SATURATED),
        (np.s_[9, 9], MaskBit.SATURATED), (np.s_[20, 20], MaskBit.SOURCE),
    ])  # fmt: skip
    shown = pixels(mask_picture(one, 128))
    for at, css in ((5, "m-bad"), (6, "m-cosmic"), (7, "m-trail"), (8, "m-bleed"),
                    (9, "m-saturated")):  # fmt: skip
        assert tuple(shown[at, at]) == COLOUR[css]
    assert len(set(shown[20, 20].tolist())) == 1  # light of a source is no fault: grey


def test_a_single_hit_shows_in_a_small_picture_and_a_single_bad_pixel_does_not():
    one = frame((400, 400), [
        (np.s_[100, 100], MaskBit.COSMIC), (np.s_[200, 200], MaskBit.HOT),
        (np.s_[:, 300], MaskBit.DEAD),
    ])  # fmt: skip
    shown = pixels(mask_picture(one, 100))
    assert tuple(shown[25, 25]) == COLOUR["m-cosmic"]
    assert tuple(shown[50, 50]) != COLOUR["m-bad"]
    assert (shown[:, 75] == COLOUR["m-bad"]).all()


def test_the_style_of_the_page_has_the_colours_of_the_pictures():
    style = files("skymill.report").joinpath("templates", "report.css").read_text("utf-8")
    found = dict(re.findall(r"\.(m-\w+)\{--c:#([0-9a-f]{6})\}", style))
    assert found == {css: colour for css, _, _, colour in MASK_COLOURS}


def test_o15_the_cells_of_the_background_are_drawn_over_the_frame():
    """O15: mesh boxes over a frame; none where they would cover it."""
    one, mesh = frame((128, 128)), np.full((4, 4), 1, np.float32)
    shown = pixels(cell_picture(one, Background(mesh, mesh, one.shape, 32, 0.1), 128))
    grey = (shown[..., 0] == shown[..., 1]) & (shown[..., 1] == shown[..., 2])
    assert np.flatnonzero(~grey.any(axis=1)).tolist() == [32, 64, 96]
    assert np.flatnonzero(~grey.any(axis=0)).tolist() == [32, 64, 96]
    fine = Background(np.full((128, 128), 1, "f4"), np.full((128, 128), 1, "f4"), (128, 128), 1, 0)
    assert (np.ptp(pixels(cell_picture(one, fine, 128)), axis=2) == 0).all()


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(1.01, "are true"), (0.92, "nearly"), (1.16, "too high or read noise too low"),
     (0.7, "too low or read noise too high")],
)  # fmt: skip
def test_the_noise_ratio_is_put_into_words(ratio, word):
    assert word in noise_meaning(ratio)


def test_a_frame_without_a_value_has_a_picture():
    empty = frame(bits=[(np.s_[:], MaskBit.NO_DATA)])
    empty = empty.replace(sci=np.full(empty.shape, np.nan, np.float32))
    assert mask_picture(empty, 64).width == 64
