"""Hazards of the detector: several amplifiers, colour mosaics, cubes, lost offsets, windows.

The images of these tests are pixel-index images: every pixel says where on the detector it is,
so that a wrong flip, step or section cannot go unseen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skymill.assembly import assemble
from skymill.ingest import Overrides
from skymill.ingest.overrides import Entry
from skymill.io_raw import read_frame

LIGHT = """kinds: [{kind: light, when: {IMAGETYP: 'light*'}}]
gain: {keywords: [GAIN]}
read_noise: {keywords: [RDNOISE]}
saturation: {keywords: [SATURATE]}
site: {longitude: {keywords: [SITELONG]}, latitude: {keywords: [SITELAT]}}
"""
NY, NX = 40, 60
INDEX = (np.arange(NY)[:, None] * 100 + np.arange(NX)[None, :] + 1000).astype(np.uint16)


def _mine(tmp_path: Any, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\n" + LIGHT + text)
    return str(path)


def _assembled(maker: Any, row: dict[str, Any]) -> Any:
    images, _ = read_frame(maker.folder / row["path"], row)
    return assemble(images, row)


#: Quadrants: part of the detector, DETSEC, whether columns and rows are stored backwards,
#: side of the overscan.
QUADRANTS = [
    ("A", (slice(0, 20), slice(0, 30)), "[1:30,1:20]", False, False, "right"),
    ("B", (slice(0, 20), slice(30, 60)), "[60:31,1:20]", True, False, "left"),
    ("C", (slice(20, 40), slice(0, 30)), "[1:30,40:21]", False, True, "left"),
    ("D", (slice(20, 40), slice(30, 60)), "[60:31,40:21]", True, True, "right"),
]


def _quadrants(maker: Any) -> None:
    hdus: list[Any] = [fits.PrimaryHDU(header=maker.header())]
    for number, (name, part, detsec, flip_x, flip_y, side) in enumerate(QUADRANTS):
        data = INDEX[part][:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        level = np.full((20, 5), 500 + 10 * number, np.uint16)
        level[::2] += 2
        left = side == "left"
        image = np.hstack([level, data] if left else [data, level])
        header = fits.Header()
        header["EXTNAME"] = name
        header["DETSEC"] = detsec
        header["DATASEC"] = "[6:35,1:20]" if left else "[1:30,1:20]"
        header["BIASSEC"] = "[1:5,1:20]" if left else "[31:35,1:20]"
        hdus.append(fits.ImageHDU(image, header))
    fits.HDUList(hdus).writeto(maker.path)


_FOUR = "hdu: amplifiers\namplifiers:\n" + "".join(
    f"  - {{name: {name}, hdu: {name}, data: {{keywords: [DATASEC]}}, "
    "bias: [{keywords: [BIASSEC]}], place: {keywords: [DETSEC]}}\n"
    for name, *_ in QUADRANTS
)


def test_h018_h137_flipped_amplifiers_assemble_exactly(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    _quadrants(maker)
    assert rows_of(maker)[0]["code"] == "AMBIGUOUS_HDU"
    (row,) = rows_of(maker, instrument=_mine(tmp_path, _FOUR))
    assert row["verdict"] == "ok", row["message"]
    assert (row["nx"], row["ny"]) == (NX, NY)
    exposure = _assembled(maker, row)
    np.testing.assert_array_equal(exposure.pixels, INDEX)
    levels = [float(np.mean(level.level)) for level in exposure.levels]
    np.testing.assert_allclose(levels, [501, 511, 521, 531], atol=1.01)


def test_h137_amplifier_that_does_not_fit_its_place_is_rejected(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    _quadrants(maker)
    with fits.open(maker.path, mode="update") as hdus:
        hdus[2].header["DETSEC"] = "[60:32,1:20]"
    (row,) = rows_of(maker, instrument=_mine(tmp_path, _FOUR))
    assert (row["verdict"], row["code"]) == ("rejected", "BAD_SECTION")


@pytest.mark.parametrize(
    ("cards", "colours"),
    [
        ({}, {"R": (0, 0), "G1": (0, 1), "G2": (1, 0), "B": (1, 1)}),
        ({"XBAYROFF": 1}, {"R": (0, 1), "G1": (0, 0), "G2": (1, 1), "B": (1, 0)}),
        ({"YBAYROFF": 1}, {"R": (1, 0), "G1": (1, 1), "G2": (0, 0), "B": (0, 1)}),
        # An even number of rows upside down: the last row of the pattern comes first.
        ({"ROWORDER": "BOTTOM-UP"}, {"R": (1, 0), "G1": (1, 1), "G2": (0, 0), "B": (0, 1)}),
        ({"ROWORDER": "TOP-DOWN"}, {"R": (0, 0), "G1": (0, 1), "G2": (1, 0), "B": (1, 1)}),
    ],
)
def test_h138_colours_of_a_mosaic_become_frames_of_their_own(
    cards: dict[str, Any], colours: dict[str, tuple[int, int]], maker: Any, rows_of: Any
) -> None:
    maker.base(INDEX, BAYERPAT="RGGB", FILTER=None, **cards)
    rows = rows_of(maker)
    assert len({row["frame_id"] for row in rows}) == 4
    found = {row["channel"].partition("[")[0]: row for row in rows}
    assert set(found) == set(colours)
    for name, (y, x) in colours.items():
        row = found[name]
        assert row["verdict"] != "rejected", row["message"]
        assert row["filter"] == name[0]
        np.testing.assert_array_equal(_assembled(maker, row).pixels, INDEX[y::2, x::2])


def test_h138_mosaic_with_white_pixels_is_no_monochrome_frame(maker: Any, rows_of: Any) -> None:
    maker.base(INDEX, BAYERPAT="RGBW")
    assert {row["channel"].partition("[")[0] for row in rows_of(maker)} == {"R", "G", "B", "W"}


def test_h138_mosaic_is_rejected_where_the_instrument_does_not_split(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    maker.base(INDEX, BAYERPAT="RGGB")
    (row,) = rows_of(maker, instrument=_mine(tmp_path, "split_channels: false\n"))
    assert (row["verdict"], row["code"]) == ("rejected", "MOSAIC_CFA")


def test_h023_planes_of_a_cube_are_frames_with_a_time_each(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    planes = np.stack([maker.pixels(1000 + 50 * n) for n in range(3)])
    maker.base(planes)
    (row,) = rows_of(maker)
    assert row["verdict"] == "rejected"
    text = "cube: {split: true, cycle: {constant: 40.0, unit: s}}\n"
    rows = rows_of(maker, instrument=_mine(tmp_path, text))
    assert [row["plane"] for row in rows] == [0, 1, 2]
    assert len({row["frame_id"] for row in rows}) == 3
    starts = [row["mjd_start"] * 86400 for row in rows]
    np.testing.assert_allclose(np.diff(starts), 40.0, atol=1e-4)
    for number, row in enumerate(rows):
        assert row["verdict"] != "rejected", row["message"]
        np.testing.assert_array_equal(_assembled(maker, row).pixels, planes[number])


def test_h041_lost_bzero_is_restored_by_an_override(maker: Any, rows_of: Any) -> None:
    data = maker.pixels(30000, 4000)
    maker.base(data)
    maker.raw(b"BZERO   ", b"BZEROX  ")
    assert rows_of(maker)[0]["code"] == "SUSPECT_BZERO"
    fix = Overrides((Entry(files=("*",), set={"header": {"BZERO": 32768}}),))
    (row,) = rows_of(maker, overrides=fix)
    assert row["verdict"] == "ok", row["message"]
    np.testing.assert_array_equal(_assembled(maker, row).pixels, data)


def test_h041_bias_with_a_negative_level_is_rejected(maker: Any, rows_of: Any) -> None:
    maker.base(maker.pixels(300, 4), IMAGETYP="Bias Frame", EXPTIME=0.0)
    maker.raw(b"BZERO   ", b"BZEROX  ")
    (row,) = rows_of(maker)
    assert (row["verdict"], row["code"]) == ("rejected", "SUSPECT_BZERO")


def test_h136_section_runs_in_fits_order_from_one(maker: Any, rows_of: Any) -> None:
    maker.base(INDEX, TRIMSEC="[11:60,1:40]", BIASSEC="[1:10,1:40]")
    (row,) = rows_of(maker)
    assert row["verdict"] == "ok", row["message"]
    np.testing.assert_array_equal(_assembled(maker, row).pixels, INDEX[:, 10:])


def test_h164_difference_of_unsigned_pixels_does_not_wrap(maker: Any, rows_of: Any) -> None:
    data = maker.pixels(400, 4)
    data[:, 90:] = 500
    data[::2, 90:] += 4
    maker.base(data, TRIMSEC="[1:90,1:100]", BIASSEC="[91:100,1:100]")
    (row,) = rows_of(maker)
    below = _assembled(maker, row).subtracted()
    assert below.dtype == np.float32
    assert -110 < float(np.median(below)) < -95


def test_h165_pixels_are_native_and_writeable(maker: Any, rows_of: Any) -> None:
    for data in (maker.pixels(), maker.pixels().astype(">f4"), maker.pixels().astype(">i4")):
        maker.path.unlink(missing_ok=True)
        maker.base(data)
        (row,) = rows_of(maker)
        (image,) = read_frame(maker.path, row).images.values()
        assert image.dtype.isnative
        assert image.flags.writeable
        assert image.flags.c_contiguous
