"""Masks made outside the chain: sets, shapes, planes of peers, user masks, make_mask."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import astroscrappy
import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

import skymill
from skymill import io
from skymill.errors import ConfigError, FrameRejected, SkymillError
from skymill.frame import BIT_MEANINGS, Frame, MaskBit
from skymill.masks import (
    CONVENTIONS,
    apply_user_masks,
    circle_mask,
    combine,
    describe,
    import_plane,
    invalid_mask,
    make_mask,
    pile_up,
    select,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"


def sky_wcs(shape=(300, 400), scale=0.5 / 3600, angle=30.0, dec=60.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, dec]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = scale * np.array([[-c, s], [s, c]])
    wcs.wcs.set()
    return wcs


def a_frame(shape=(30, 40), wcs=None, **cards):
    header = fits.Header({"FRAMEID": "n1-0001-ab"} | cards)
    return Frame(np.ones(shape), np.ones(shape), np.zeros(shape), header, wcs)


# --- sets -------------------------------------------------------------------------


def test_every_bit_stands_in_the_docs_with_its_value_and_meaning():
    text = (DOCS / "masks.md").read_text()
    rows = re.findall(r"^\| ([A-Z_]+) \| (\d+) \| (.+?) \|$", text, re.MULTILINE)
    assert rows == [(b.name, str(int(b)), m) for b, m in BIT_MEANINGS.items()]


def test_every_convention_stands_in_the_docs():
    text = (DOCS / "masks.md").read_text()
    assert set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)) == set(CONVENTIONS)


def test_a_mask_file_names_every_bit_with_its_value_and_meaning(tmp_path):
    frame = a_frame()
    io.write_mask(tmp_path / "m.fits", np.zeros(frame.shape, np.uint16), frame, {})
    header = fits.getheader(tmp_path / "m.fits", "MASK")
    for bit, meaning in BIT_MEANINGS.items():
        key = f"MBIT{int(bit).bit_length() - 1:02d}"
        assert header[key] == bit.name
        assert header.comments[key] == f"{int(bit)}: {meaning}"[:47]
        # nothing of the meaning is lost on the way
        assert header.comments[key].endswith(meaning)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("COSMIC", [0, 1, 0, 1]),
        ("cosmic | TRAIL", [0, 1, 1, 1]),
        ("COSMIC & TRAIL", [0, 0, 0, 1]),
        ("COSMIC - TRAIL", [0, 1, 0, 0]),
        ("COSMIC ^ TRAIL", [0, 1, 1, 0]),
        ("~(COSMIC | TRAIL)", [1, 0, 0, 0]),
        ("BAD", [0, 1, 1, 1]),
        ("SOURCE", [1, 0, 0, 0]),
    ],
)
def test_bits_are_combined_by_name(expression, expected):
    """E19: set operations on masks."""
    mask = np.array([MaskBit.SOURCE, 512, 1024, 512 | 1024], np.uint16)
    assert select(mask, expression).tolist() == [bool(v) for v in expected]


@pytest.mark.parametrize("text", ["COSMOS", "COSMIC +", "COSMIC + TRAIL", "f(COSMIC)", "1", ""])
def test_an_expression_that_is_none_is_an_error(text):
    with pytest.raises(SkymillError, match=r"no mask bit|no expression"):
        select(np.zeros((2, 2), np.uint16), text)


def test_planes_are_united_intersected_and_subtracted():
    """E19: and, or, add, subtract."""
    a, b = np.array([1 | 2, 4], np.uint16), np.array([2, 8], np.uint16)
    assert combine(a, b).tolist() == combine(a, b, "add").tolist() == [3, 12]
    assert combine(a, b, "and").tolist() == [2, 0]
    assert combine(a, b, "subtract").tolist() == [1, 4]
    with pytest.raises(ValueError, match="one shape"):
        combine(a, b[:1])
    with pytest.raises(ValueError, match="how must be"):
        combine(a, b, "xor")


def test_a_table_counts_the_pixels_of_each_bit():
    mask = np.array([[0, 512, 512 | 4, 1 << 14]], np.uint16)
    table = describe(mask)
    count = dict(zip(table["bit"], table["pixels"], strict=True))
    assert (count["COSMIC"], count["SATURATED"], count["HOT"], count["SOURCE"]) == (2, 1, 0, 1)
    assert (count["BAD"], count["good"]) == (2, 2)
    assert len(table) == len(BIT_MEANINGS) + 2


# --- shapes -----------------------------------------------------------------------


def test_invalid_pixels_are_nan_both_infinities_and_large_regions_of_zeros():
    """E14: infinities too; zeros only when connected and many."""
    image = np.ones((200, 300), ">f4")
    image[5, 5], image[6, 6], image[7, 7] = np.nan, np.inf, -np.inf
    image[50:90, 50:90] = 0
    image[120:125, 120:125] = 0
    before = image.tobytes()
    out = invalid_mask(image, threshold_invalid_connection=1000)
    expected = ~np.isfinite(image)
    expected[50:90, 50:90] = True
    assert np.array_equal(out, expected)
    assert image.tobytes() == before


def test_zeros_are_connected_along_rows_and_columns_not_diagonals():
    """E14: four neighbours; the region must be larger than the threshold."""
    image = np.ones((50, 50))
    image[10:20, 10:20] = image[20:30, 20:30] = 0
    assert not invalid_mask(image, 100).any()
    image[19, 20] = 0
    assert invalid_mask(image, 100).sum() == 201


def test_an_empty_strip_along_the_edge_is_invalid_however_small():
    """E14: zero areas below the threshold passed even at the edge of the frame."""
    image = np.ones((60, 80), np.int16)
    image[:, -3:] = 0
    image[30, 40] = 0
    out = invalid_mask(image)
    assert out[:, -3:].all()
    assert out.sum() == 180


@pytest.mark.parametrize("dtype", ["u2", ">i2", "f4", ">f8", "i8"])
def test_a_frame_of_zeros_is_invalid_in_every_type(dtype):
    assert invalid_mask(np.zeros((40, 40), dtype)).all()
    assert not invalid_mask(np.ones((40, 40), dtype)).any()


def test_a_circle_in_pixels_holds_the_pixels_whose_centres_are_inside():
    y, x = np.mgrid[:30, :40]
    out = circle_mask((30, 40), 10.3, 12.8, 5.5)
    assert np.array_equal(out, (x - 10.3) ** 2 + (y - 12.8) ** 2 <= 5.5**2)
    assert circle_mask((30, 40), 7.2, 3.1, 0.0).sum() == 1
    assert not circle_mask((30, 40), -50, -50, 5).any()


@pytest.mark.parametrize(("dec", "radius"), [(60.0, 20.0), (-89.9, 20.0), (0.0, 70.0)])
def test_a_circle_on_the_sky_is_one_in_true_distance(dec, radius):
    """E16: arcsec are arcsec, also near the pole and with a rotated camera."""
    from astropy.coordinates import SkyCoord

    shape = (300, 400)
    wcs = sky_wcs(shape, dec=dec)
    x0, y0 = 170.0, 140.0
    ra, dec0 = (float(v) for v in wcs.all_pix2world(x0, y0, 0))
    out = circle_mask(shape, ra, dec0, radius, "arcsec", wcs)
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = SkyCoord(*wcs.all_pix2world(x, y, 0), unit="deg")
    distance = sky.separation(SkyCoord(ra, dec0, unit="deg")).arcsec
    differs = out != (distance <= radius)
    assert (np.abs(distance[differs] - radius) < 1e-3).all()
    assert np.array_equal(out, circle_mask(shape, ra, dec0, radius / 3600, "deg", wcs))
    assert out.sum() == pytest.approx(np.pi * (radius / 0.5) ** 2, rel=0.02)


def test_a_circle_on_the_sky_needs_celestial_coordinates():
    with pytest.raises(SkymillError, match="no celestial coordinates"):
        circle_mask((10, 10), 5, 5, 2, "arcsec")
    with pytest.raises(ValueError, match="unit must be"):
        circle_mask((10, 10), 5, 5, 2, "coord")
    with pytest.raises(ValueError, match="radius"):
        circle_mask((10, 10), 5, 5, -1)


# --- planes of other pipelines ------------------------------------------------------


def test_lsst_planes_follow_the_cards_of_the_header():
    header = {"MP_BAD": 0, "MP_SAT": 1, "MP_CR": 3, "MP_DETECTED": 5, "MP_STREAK": 9, "NAXIS": 2}
    plane = np.array([[0, 1, 2, 8, 32, 512, 2 | 8]], np.int32)
    out = import_plane(plane, "lsst", header)
    expected = [0, 128, 4, 512, 1 << 14, 1024, 4 | 512]
    assert out.tolist() == [expected]
    # the same plane with other numbers for the names
    other = {"MP_BAD": 9, "MP_SAT": 5, "MP_CR": 1, "MP_DETECTED": 3, "MP_STREAK": 0}
    moved = np.array([[0, 512, 32, 2, 8, 1, 32 | 2]], np.int32)
    assert np.array_equal(import_plane(moved, "lsst", other), out)
    with pytest.raises(SkymillError, match="NEWPLANE is not known"):
        import_plane(plane, "lsst", header | {"MP_NEWPLANE": 1})
    with pytest.raises(SkymillError, match="no MP_ cards"):
        import_plane(plane, "lsst", {})


@pytest.mark.parametrize(
    ("convention", "values", "expected"),
    [
        ("jwst", [0, 1, 2, 4, 1024, 2048, 2**31, 2 | 4], [0, 1 << 15, 4, 512, 128, 32, 2, 516]),
        ("decam", [0, 1, 2, 3, 4, 5, 8], [0, 128, 1, 4, 8, 512, 1024]),
        ("decam_bits", [0, 2, 16, 64, 18], [0, 4, 512, 8, 516]),
        ("des", [0, 2, 16, 1024, 18], [0, 4, 512, 1024, 516]),
        ("autowisp", [0, 1, 2, 4, 8, 48, 64], [0, 128, 32, 512, 2, 12, 4096]),
        ("iraf", [0, 1, 2, 7], [0, 128, 128, 128]),
        ("boolean", [0, 1], [0, 1 << 15]),
        ("skymill", [0, 512, 65535], [0, 512, 65535]),
    ],
)
def test_planes_of_peers_become_named_bits(convention, values, expected):
    """A16 for ``autowisp``: 48 is a saturated pixel and what leaked from it."""
    assert import_plane(np.array([values], np.uint32), convention).tolist() == [expected]


def test_the_sign_of_a_signed_plane_is_its_highest_bit():
    plane = np.array([[-(2**31), 2]], np.int32)
    assert import_plane(plane, "jwst").tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("plane", "convention", "message"),
    [
        (np.array([[8]]), "decam_bits", "bits that it does not name"),
        (np.array([[9]]), "decam", "number 9 has no meaning"),
        (np.array([[0.5]]), "iraf", "whole numbers"),
        (np.array([[np.nan]]), "iraf", "whole numbers"),
        (np.array([[4]]), {1: "HOT"}, "bits that it does not name"),
        (np.array([[4]]), {3: "HOT"}, "not one bit"),
        (np.array([[4]]), "HOTT", "no mask bit"),
        (np.array([[70000]]), "skymill", "16 bits"),
    ],
)
def test_nothing_of_a_plane_is_dropped_silently(plane, convention, message):
    with pytest.raises(SkymillError, match=message):
        import_plane(plane, convention)


def test_a_map_of_ones_own_gives_bits():
    out = import_plane(np.array([[0, 1, 2, 3]]), {1: "HOT|COLD", 2: None})
    assert out.tolist() == [[0, 96, 0, 96]]


# --- masks of the user --------------------------------------------------------------


def test_user_masks_apply_to_the_frames_that_they_name(tmp_path):
    plane = np.zeros((30, 40), np.uint8)
    plane[3, 4] = 1
    fits.PrimaryHDU(plane).writeto(tmp_path / "bad.fits")
    (tmp_path / "halo.reg").write_text("image\ncircle(10, 20, 3)  # the halo\n")
    specs = [
        {"file": "bad.fits", "bits": "DEAD"},
        {"file": "halo.reg", "frames": ["x*", "n1-*"]},
        {"file": "halo.reg", "frames": "n2-*", "bits": "GHOST"},
    ]
    frame = a_frame()
    out = apply_user_masks(frame, specs, tmp_path)
    assert out.dtype == np.uint16
    assert out[3, 4] == MaskBit.DEAD
    assert out[19, 9] == MaskBit.USER
    assert (out > 0).sum() == 1 + circle_mask((30, 40), 9, 19, 3).sum()
    assert not frame.mask.any()


def test_a_user_mask_is_read_as_its_header_says(tmp_path):
    frame = a_frame()
    bits = np.zeros(frame.shape, np.uint16)
    bits[0, 0] = MaskBit.TRAIL
    io.write_mask(tmp_path / "own.fits", bits, frame, {})
    lsst = fits.ImageHDU(np.full(frame.shape, 4, np.int32), name="MASK")
    lsst.header["HIERARCH MP_SAT"] = 2
    fits.HDUList([fits.PrimaryHDU(), lsst]).writeto(tmp_path / "lsst.fits")
    own = apply_user_masks(frame, [{"file": "own.fits"}], tmp_path)
    assert np.array_equal(own, bits)
    assert (apply_user_masks(frame, [{"file": "lsst.fits"}], tmp_path) == 4).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"file": "none.fits"}, "does not exist"),
        ({"file": "small.fits"}, "is 5 x 4 px, the frame 40 x 30 px after trimming"),
        ({"file": "small.fits", "hdu": 3}, "cannot be read"),
        ({"file": "text.fits"}, "cannot be read"),
        ({"file": "bad.reg"}, "bad.reg, line 2"),
        ({"file": "sky.reg"}, "no celestial coordinates"),
        ({"file": "small.fits", "bit": "HOT"}, "unknown .'bit'"),
        ({"frames": "*"}, "`file` is missing"),
        ({"file": "sky.reg", "bits": {1: "HOT"}}, "no bit values|no celestial"),
    ],
)
def test_a_user_mask_that_cannot_apply_says_why(tmp_path, spec, message):
    fits.PrimaryHDU(np.zeros((4, 5), np.uint8)).writeto(tmp_path / "small.fits")
    (tmp_path / "text.fits").write_text("no FITS")
    (tmp_path / "bad.reg").write_text("image\ncircle(1, 2)\n")
    (tmp_path / "sky.reg").write_text('fk5\ncircle(10, 20, 3")\n')
    with pytest.raises(ConfigError, match=message):
        apply_user_masks(a_frame(), [spec], tmp_path)


# --- make_mask ----------------------------------------------------------------------


def star_field(seed=0, shape=(256, 300), stars=60, hits=25, peak=30_000.0, fwhm=3.2):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, 500.0)
    sigma = fwhm / 2.3548
    heights = peak * 10 ** rng.uniform(-2.5, 0, stars)
    heights[0] = peak
    for height in heights:
        cx, cy = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        image += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    image = rng.poisson(image * 1.5) / 1.5 + rng.normal(0, 5, shape)
    for _ in range(hits):
        i, j = rng.integers(3, shape[1] - 12), rng.integers(3, shape[0] - 3)
        image[j, i : i + rng.integers(1, 8)] += rng.uniform(300, 4000)
    return image.astype(np.float32)


def recipe(image, header=None, saturation=None, external_mask=None, mask_cosmics=False, gain=None):
    """The rules of S2 and S4 written again, with full medians and the masked mean."""
    mask = ~np.isfinite(image)
    for keyword in ("TRIMSEC", "DATASEC"):
        if header is not None and keyword in header:
            x1, x2, y1, y2 = (int(v) for v in re.findall(r"\d+", header[keyword]))
            outside = np.ones(image.shape, bool)
            outside[y1 - 1 : y2, x1 - 1 : x2] = False
            mask |= outside
    if saturation is not None:
        mask |= image >= saturation
    if external_mask is not None:
        mask |= external_mask.astype(bool)
    if mask_cosmics:
        sky = sep.Background(image, mask=mask)
        variance = sky.rms() ** 2
        if gain:
            variance += np.maximum(image - sky.back(), 0) / np.float32(gain)
        scale = gain or 1.0
        hits, _ = astroscrappy.detect_cosmics(
            image, mask, invar=variance.astype(np.float32), gain=scale, sepmed=False,
            cleantype="meanmask", satlevel=np.inf if saturation is None else saturation * scale,
        )  # fmt: skip
        mask |= hits
    return mask


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"header": {"DATASEC": "[11:290,1:256]"}},
        {"header": {"DATASEC": "[11:290,1:256]", "TRIMSEC": "[1:280,5:250]"}},
        {"saturation": 20_000.0},
        {"external_mask": np.eye(256, 300)},
        {"mask_cosmics": True},
        {"mask_cosmics": True, "gain": 1.5},
        {"mask_cosmics": True, "gain": 1.5, "saturation": 20_000.0,
         "external_mask": np.eye(256, 300)},
    ],
    ids=lambda o: "+".join(o) or "plain",
)  # fmt: skip
@pytest.mark.parametrize("seed", [1, 2])
def test_the_recipe_is_reproduced_bit_for_bit(options, seed):
    """S2 and S4 against rules written again with astroscrappy and sep."""
    image = star_field(seed)
    if not options.get("mask_cosmics"):
        image[7, 9], image[8, 9] = np.nan, np.inf
    ours = make_mask(image, verbose=False, **options)
    assert np.array_equal(ours, recipe(image, **options))
    assert ours.dtype == bool


def test_the_call_as_it_stands_in_the_peer_differs_by_a_few_pixels_of_hits():
    """S4: separable medians and the median as replacement, in the peer; every other bit agrees."""
    image = star_field(3, hits=40)
    ours = make_mask(image, mask_cosmics=True, verbose=False)
    mask = np.zeros(image.shape, bool)
    variance = sep.Background(image, mask=mask).rms() ** 2
    theirs, _ = astroscrappy.detect_cosmics(
        image, mask, invar=variance, gain=1.0, satlevel=np.max(image), cleantype="medmask"
    )
    assert ours.sum() > 60
    # hits that only one of the two finds touch a hit of the other: their outskirts
    from scipy import ndimage

    near = [ndimage.binary_dilation(m, np.ones((5, 5)), iterations=2) for m in (ours, theirs)]
    alone = (ours & ~near[1]) | (theirs & ~near[0])
    assert alone.sum() <= 0.1 * ours.sum()


def test_an_unsaturated_field_loses_no_star_to_saturation():
    """S3: the brightest star is not saturated because it is the brightest."""
    for seed in range(6):
        image = star_field(seed, hits=0, peak=30_000.0)
        assert not make_mask(image, saturation=True, verbose=False).any()
        old = 0.05 * np.median(image) + 0.95 * image.max()
        assert (image >= old).any()


@pytest.mark.parametrize("spread", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(4))
def test_a_pile_up_is_found_where_pixels_saturate(seed, spread):
    """S3: sharp in raw counts, a few per cent wide after flat-fielding, hot pixels above."""
    rng = np.random.default_rng(seed)
    image = star_field(seed, hits=0, peak=120_000.0)
    truth = image >= 40_000
    image = np.minimum(image, 40_000) * rng.normal(1, spread, image.shape).astype(np.float32)
    image[5, 5] = 44_000
    out = make_mask(image, saturation=True, verbose=False)
    out[5, 5] = False
    assert truth.sum() >= 8
    assert (out & truth).sum() >= 0.97 * truth.sum()
    # what flat-fielding spreads reaches three sigma below the level, where stars have pixels
    assert (out & ~truth).sum() <= (0.3 if spread else 0.02) * truth.sum() + 3


def test_the_level_of_the_header_comes_before_the_histogram():
    image = star_field(1)
    out = make_mask(image, {"SATURATE": 12_000}, saturation=True, verbose=False)
    assert np.array_equal(out, image >= 12_000)


@pytest.mark.parametrize(
    "image", [np.zeros((20, 20)), np.full((20, 20), 7), np.full((20, 20), -3.0)]
)
def test_a_constant_image_has_no_pile_up(image):
    assert pile_up(image) is None


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", ">f8", "u2", ">u2", "i2", ">i2", "i4", ">i4"])
def test_all_number_types_and_byte_orders_give_one_mask(dtype):
    """S4: integers and big-endian data, as FITS files hold them, raised in the peer."""
    image = np.rint(star_field(4, peak=20_000.0))
    expected = make_mask(image, mask_cosmics=True, gain=1.5, saturation=15_000, verbose=False)
    given = image.astype(dtype)
    before = given.tobytes()
    out = make_mask(given, mask_cosmics=True, gain=1.5, saturation=15_000, verbose=False)
    assert np.array_equal(out, expected)
    assert given.tobytes() == before


def test_pixels_that_are_not_finite_do_not_spoil_the_search_around_them():
    """S4: a NaN in the medians of the peer hides what is near it."""
    image = star_field(5)
    clean = make_mask(image, mask_cosmics=True, verbose=False)
    holes = np.zeros(image.shape, bool)
    holes[::32, ::32] = True
    image[holes] = np.nan
    out = make_mask(image, mask_cosmics=True, verbose=False)
    assert out[holes].all()
    assert (out != clean)[~holes].sum() <= 0.1 * clean.sum()


@pytest.mark.parametrize(
    "text", ["[0:10,1:10]", "[1:301,1:256]", "[20:10,1:256]", "[1:10]", "(1:10,1:10)", "1 10 1 10"]
)
def test_a_section_that_is_none_is_an_error(text):
    """S5: sections are read strictly."""
    with pytest.raises(FrameRejected, match="DATASEC is"):
        make_mask(star_field(1), {"DATASEC": text}, verbose=False)


def test_sections_of_several_amplifiers_are_united():
    """S5: DATASEC1, DATASEC2."""
    header = {"DATASEC1": "[11:100,1:256]", "DATASEC2": "[101:290,1:256]"}
    out = make_mask(star_field(1), header, verbose=False)
    assert out[:, :10].all()
    assert out[:, 290:].all()
    assert not out[:, 10:290].any()


def test_messages_go_to_a_callable_or_to_the_log(caplog):
    """S7."""
    said = []
    make_mask(star_field(1), saturation=True, verbose=said.append)
    assert any("no saturation level" in line for line in said)
    with caplog.at_level(logging.INFO, logger="skymill.masks"):
        make_mask(star_field(1), verbose=True)
        assert "masked" in caplog.text
        caplog.clear()
        make_mask(star_field(1), verbose=False)
        assert not caplog.text


def test_shapes_that_do_not_agree_are_an_error():
    with pytest.raises(ValueError, match="external_mask must have shape"):
        make_mask(np.ones((5, 6)), external_mask=np.ones((6, 5)), verbose=False)
    with pytest.raises(ValueError, match="two axes"):
        make_mask(np.ones(5), verbose=False)


@pytest.mark.parametrize("value", [np.nan, 0.0, -5.0, 65535.0])
def test_an_image_without_anything_is_masked_without_a_crash(value):
    out = make_mask(np.full((40, 50), value), saturation=65535.0, mask_cosmics=True, verbose=False)
    assert out.all() == (not value < 65535)
    assert out.any() == (not value < 65535)


def test_the_package_hands_the_functions_out_without_loading_them():
    assert skymill.make_mask is make_mask
    assert skymill.invalid_mask is invalid_mask
    assert skymill.circle_mask is circle_mask
    code = "import skymill, sys; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
