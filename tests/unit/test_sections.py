"""FITS sections are read strictly and turned into half-open slices."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.errors import FrameRejected
from skymill.sections import (
    Section,
    format_section,
    parse_area,
    parse_channel,
    parse_place,
    parse_section,
    parse_sections,
    section_slices,
    union,
)


def test_section_picks_the_pixels_that_fits_means() -> None:
    ny, nx = 7, 11
    y, x = np.mgrid[1 : ny + 1, 1 : nx + 1]
    rows, columns = section_slices("[3:5,2:7]", (ny, nx))
    assert (x[rows, columns].min(), x[rows, columns].max()) == (3, 5)
    assert (y[rows, columns].min(), y[rows, columns].max()) == (2, 7)
    assert parse_section("[3:5,2:7]", (ny, nx)).shape == (6, 3)


def test_format_and_parse_are_inverse() -> None:
    for text in ("[1:1,1:1]", "[18:1382,1:1370]", "[1:11,7:7]"):
        section = parse_section(text, (1370, 1400))
        assert str(section) == text
        assert format_section(*section.slices) == text


@pytest.mark.parametrize(
    "text",
    ["", "[1:5]", "[0:5,1:5]", "[5:1,1:5]", "[1:5,5:1]", "[1:12,1:5]", "[1:5,1:8]", "[1:5 1:5]",
     "1:5,1:5", "[1:5,1:5", "[a:5,1:5]", "[1.0:5,1:5]", "[-1:5,1:5]", "[*,1:5]", "[1:5,1:5,1:5]"],
)  # fmt: skip
def test_anything_else_is_a_bad_section(text: str) -> None:
    with pytest.raises(FrameRejected, match="BAD_SECTION") as error:
        parse_section(text, (7, 11), name="TRIMSEC")
    assert "TRIMSEC" in error.value.message


def test_overlap_is_symmetric_and_touching_is_none() -> None:
    a, b, c = (parse_section(t, (9, 99)) for t in ("[1:10,1:9]", "[11:20,1:9]", "[10:12,9:9]"))
    assert not a.overlaps(b) and not b.overlaps(a)
    assert a.overlaps(c) and c.overlaps(a) and b.overlaps(c)


def test_h136_sections_in_full_width_digits_are_refused() -> None:
    with pytest.raises(FrameRejected, match="BAD_SECTION"):
        parse_section("[１:5,1:5]", (7, 11))


def test_several_sections_are_joined_by_semicolons() -> None:
    found = parse_sections("[1:2,1:7] ; [9:11,1:7];", (7, 11), name="biassec")
    assert [str(one) for one in found] == ["[1:2,1:7]", "[9:11,1:7]"]
    assert parse_sections("", (7, 11), name="biassec") == ()
    with pytest.raises(FrameRejected, match="BAD_SECTION"):
        parse_sections("[1:2,1:7];[9:12,1:7]", (7, 11), name="biassec")


def test_h137_place_that_runs_backwards_is_a_flip() -> None:
    """Of DETSEC; the section itself is the same either way."""
    for text, flips in (
        ("[1:4,1:3]", (False, False)),
        ("[4:1,1:3]", (True, False)),
        ("[1:4,3:1]", (False, True)),
        ("[4:1,3:1]", (True, True)),
    ):
        section, *found = parse_place(text)
        assert section == Section(0, 4, 0, 3)
        assert tuple(found) == flips
    for text in ("[0:4,1:3]", "[1:4]", ""):
        with pytest.raises(FrameRejected, match="BAD_SECTION"):
            parse_place(text)


def test_area_in_both_notations_is_the_same() -> None:
    """A2, A7: `dict(xmin, xmax, ymin, ymax)`, 0-based and half-open, or a FITS section."""
    array = np.arange(77).reshape(7, 11)
    area = {"xmin": 2, "xmax": 5, "ymin": 1, "ymax": 7}
    text = parse_area(area)
    np.testing.assert_array_equal(array[section_slices(text, (7, 11))], array[1:7, 2:5])
    assert parse_area(text) == text
    for wrong in (
        area | {"xmin": 5},
        area | {"ymin": -1},
        area | {"xmax": 5.0},
        area | {"more": 1},
        {"xmin": 2, "xmax": 5},
    ):
        with pytest.raises(FrameRejected, match="BAD_SECTION"):
            parse_area(wrong)


def test_channel_is_a_name_and_a_stride() -> None:
    name, slices = parse_channel("G2[1::2,0::2]")
    assert name == "G2"
    np.testing.assert_array_equal(np.arange(24).reshape(4, 6)[slices], [[6, 8, 10], [18, 20, 22]])
    for text in ("", "G1", "[0::2,1::2]", "G1[0:2,1:2]", "G1[2::2,0::2]", "G1[0::0,0::2]"):
        with pytest.raises(FrameRejected, match="BAD_SECTION"):
            parse_channel(text)


def test_union_counts_every_pixel_once() -> None:
    """Random sections: the rectangles are disjoint and cover exactly the same pixels."""
    rng = np.random.default_rng(12)
    for _ in range(200):
        sections = []
        for _ in range(rng.integers(1, 6)):
            (x0, x1), (y0, y1) = np.sort(rng.integers(0, 12, 2)), np.sort(rng.integers(0, 9, 2))
            sections.append(Section(int(x0), int(x1) + 1, int(y0), int(y1) + 1))
        expected, count = np.zeros((10, 13), bool), np.zeros((10, 13), int)
        for one in sections:
            expected[one.slices] = True
        for one in union(sections):
            count[one.slices] += 1
        np.testing.assert_array_equal(count, expected.astype(int))
    assert union([]) == ()
    beside = union([Section(0, 4, 0, 9), Section(8, 10, 0, 9), Section(2, 4, 3, 5)])
    assert beside == (Section(0, 4, 0, 9), Section(8, 10, 0, 9))
