"""Header coordinates follow every pixel to the frame: trim, mirror, place, channel, binning."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skymill.header_wcs import celestial_wcs, frame_wcs
from skymill.pixel_map import PixelMap, trimmed_shape


def _header(**cards: Any) -> fits.Header:
    """A turned field with distortion: 20 px of SIP at the corners."""
    header = fits.Header()
    base = {
        "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CRPIX1": 130.3, "CRPIX2": 81.7, "CD1_1": -1.9e-4, "CD1_2": 4e-5, "CD2_1": 4e-5,
        "CD2_2": 1.9e-4, "RADESYS": "ICRS", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-4,
        "A_1_1": -1e-4, "B_0_2": 3e-4, "B_1_1": 5e-5, "AP_ORDER": 0, "BP_ORDER": 0,
    }  # fmt: skip
    for key, value in {**base, **cards}.items():
        header[key] = value
    return header


def _check(raw: WCS, frame: WCS | None, pixels: PixelMap, nx: int, ny: int) -> None:
    """The sky under a pixel must be the same before and after, to a billionth of a degree."""
    assert frame is not None
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 7), np.linspace(0, ny - 1, 5)))
    before = np.array(raw.all_pix2world(x, y, 0))
    there = np.array([pixels(*pair) for pair in zip(x, y, strict=True)]).T
    after = np.array(frame.all_pix2world(*there, 0))
    np.testing.assert_allclose(after, before, atol=1e-9, rtol=0)


@pytest.mark.parametrize("flip", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize(("step", "phase"), [((1, 1), (0, 0)), ((2, 2), (1, 0)), ((2, 2), (0, 1))])
def test_positions_survive_trim_mirror_and_channel(
    flip: tuple[bool, bool], step: tuple[int, int], phase: tuple[int, int]
) -> None:
    header = _header()
    shape = (60, 100)
    wcs, code, _ = celestial_wcs(
        header, shift_x=7, shift_y=3, flip=flip, step=step, phase=phase, shape=shape
    )
    assert code == ""
    # Written out once more, by hand: cut, trim, mirror.
    for x_raw, y_raw in ((40, 30), (60, 41), (41, 60)):
        place = []
        for axis, raw in enumerate((x_raw, y_raw)):
            at = (raw - phase[axis]) / step[axis] - (7, 3)[axis]
            place.append(shape[1 - axis] - 1 - at if flip[axis] else at)
        sky = WCS(header).all_pix2world(x_raw, y_raw, 0)
        assert wcs is not None
        np.testing.assert_allclose(wcs.all_pix2world(*place, 0), sky, atol=1e-9, rtol=0)


def test_unbinned_coordinates_are_binned_before_anything_else() -> None:
    header = _header()
    wcs, _, _ = celestial_wcs(
        header, policy="unbinned", binning=(2, 2), shift_x=5, flip=(True, False), shape=(50, 60)
    )
    # Binned pixel b holds unbinned pixels 2b and 2b + 1, its centre lies at 2b + 0.5.
    b = 20.0
    sky = WCS(header).all_pix2world(2 * (b + 5) + 0.5, 2 * 10 + 0.5, 0)
    assert wcs is not None
    np.testing.assert_allclose(wcs.all_pix2world(59 - b, 10.0, 0), sky, atol=1e-9, rtol=0)


def test_a_mirrored_frame_needs_its_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        celestial_wcs(_header(), flip=(True, False))


@pytest.mark.parametrize("place", ["[1:100,1:60]", "[200:101,1:60]", "[101:200,120:61]"])
def test_the_row_of_an_amplifier_says_where_its_pixels_went(place: str) -> None:
    entry = {"name": "A", "hdu": 2, "data": "[11:110,6:65]", "bias": [], "place": place}
    other = {**entry, "name": "B", "hdu": 1}
    row: dict[str, Any] = {
        "hdu": 2, "nx": 200, "ny": 120, "datasec": "[1:200,1:120]", "binning": "1x1",
        "amplifiers": json.dumps([other, entry]), "channel": "", "ra_deg": 150.0, "dec_deg": 2.0,
    }  # fmt: skip
    header = _header()
    verdict = frame_wcs(header, row)
    pixels = PixelMap.of_row(row)
    _check(WCS(header), verdict.wcs, pixels, 120, 70)
    # The first pixel of the data section lies at the first corner that the place names.
    x1, y1 = (int(part.split(":")[0]) for part in place.strip("[]").split(","))
    assert pixels(10, 5) == (x1 - 1, y1 - 1)
    assert trimmed_shape(row) == (120, 200)


def test_the_row_of_a_channel_says_which_pixels_it_holds() -> None:
    row: dict[str, Any] = {
        "hdu": 0, "nx": 100, "ny": 60, "datasec": "[3:100,1:60]", "binning": "1x1",
        "amplifiers": "", "channel": "G1[0::2,1::2]", "ra_deg": None, "dec_deg": None,
    }  # fmt: skip
    header = _header()
    pixels = PixelMap.of_row(row)
    assert pixels(1 + 2 * 2, 0) == (0, 0)
    _check(WCS(header), frame_wcs(header, row).wcs, pixels, 200, 120)
    assert trimmed_shape(row) == (60, 98)


def test_sections_that_cannot_be_read_leave_the_frame_without_coordinates() -> None:
    row = {"hdu": 0, "nx": 10, "ny": 10, "datasec": "[0:5,1:5]", "binning": "1x1"}
    verdict = frame_wcs(_header(), row)
    assert verdict.wcs is None and verdict.notes[0][0] == "NO_WCS"
