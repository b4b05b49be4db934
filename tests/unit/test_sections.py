"""FITS sections are read strictly and turned into half-open slices."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.errors import FrameRejected
from skymill.sections import format_section, parse_section, section_slices


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
