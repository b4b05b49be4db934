"""Raw cards are read without raising; products get valid cards and believable coordinates."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skymill.cards import parse_cards
from skymill.headers import celestial_wcs, clean_header, raw_cards, to_fits


def _cards(*lines: str | bytes) -> bytes:
    return b"".join((x if isinstance(x, bytes) else x.encode()).ljust(80) for x in lines)


def _header(*lines: str) -> fits.Header:
    return fits.Header.fromstring(_cards(*lines))


@pytest.mark.parametrize(
    ("line", "value", "code"),
    [
        ("A       =                    5 / five", 5, ""),
        ("A       = +3.276800000000E+004 /", 32768.0, ""),
        ("A       =               3.0D+1", 30.0, ""),
        ("A       =                    T", True, ""),
        ("A       = 'it''s  '           / text", "it's", ""),
        ("A       =", None, ""),
        ("A       =                 30,5", 30.5, "DECIMAL_COMMA"),
        ("A       = 'Observer's Name'", "Observer's Name", "BAD_CARD"),
        ("A       = 'open end", "open end", "BAD_CARD"),
        ("A       = 'open end / why", "open end", "BAD_CARD"),
        ("A       = words", "words", "BAD_CARD"),
        ("A       =                  NaN", None, "BAD_CARD"),
        ("A       =               1E+999", None, "BAD_CARD"),
        (b"A       = 'caf\xc3\xa9'", "café", "NON_ASCII"),
        (b"A       = 'caf\xe9'", "café", "NON_ASCII"),
        (b"A       = 'R\x00\t'", "R", "BAD_CARD"),
        ("a       =                    5", 5, ""),
    ],
)
def test_cards_are_read_to_their_best_sense(line: Any, value: Any, code: str) -> None:
    card = parse_cards(_cards(line)).card("A")
    assert card is not None
    assert card.value == value and type(card.value) is type(value)
    assert (card.problem.code if card.problem else "") == code


def test_hierarch_and_continue_cards_are_joined() -> None:
    header = parse_cards(
        _cards(
            "HIERARCH ESO DET NAME = 'ccd one' / detector",
            f"LONG    = '{'x' * 60}&'",
            "CONTINUE  'yz' / end",
        )
    )
    assert header.get("ESO DET NAME") == "ccd one"
    assert header.get("LONG") == "x" * 60 + "yz"


def test_first_of_two_cards_counts_and_the_conflict_is_known() -> None:
    header = parse_cards(_cards("A       = 1", "B       = 2", "A       = 3", "B       = 2"))
    assert header.get("A") == 1
    assert header.conflicts("A") == [1, 3]
    assert header.conflicts("B") == []


def test_any_bytes_give_cards_that_can_be_written() -> None:
    rng = np.random.default_rng(11)
    for trial in range(300):
        # Half of the trials stay near printable text, where more of the parser is reached.
        low, high = (0, 256) if trial % 2 else (32, 128)
        raw = rng.integers(low, high, 80).astype(np.uint8).tobytes()
        header = to_fits(parse_cards(b"AIRMASS = " + raw[:70] + b"OBJECT  = '" + raw[:69] + raw))
        text = header.tostring()
        assert text.isascii() and len(text) % 2880 == 0
        for card in fits.Header.fromstring(text).cards:
            card.verify("exception")


def test_clean_header_is_valid_fits_and_reads_back() -> None:
    raw = _header(
        "OBSERVER= 'Observer's Name'",
        "OBJECT  = 'M31' / caf\u00e9".encode("ascii", "replace").decode(),
        "EXPTIME = +5.000000000000E+000 / EXPOSURE IN SECONDS",
        "BZERO   =                32768",
        "NAXIS1  =                   10",
        "CRVAL1  =                150.0",
        "CRPIX1C =                  0.5",
        "FLXSCALE= '0.0'",
        "TRIMSEC = '[18:1382,1:1370]'",
        "HISTORY something",
    )
    clean = clean_header(raw, drop=["history"])
    assert clean["OBSERVER"] == "Observer's Name"
    assert clean["EXPTIME"] == 5.0
    for gone in ("BZERO", "NAXIS1", "CRVAL1", "CRPIX1C", "FLXSCALE", "TRIMSEC"):
        assert gone not in clean
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits.PrimaryHDU(np.zeros((4, 4), np.float32), clean).writeto(
            file, output_verify="exception"
        )
        file.seek(0)
        again = fits.getheader(file)
    assert again["OBSERVER"] == "Observer's Name"
    assert b"OBSERVER= 'Observer''s Name'" in file.getvalue()


def test_clean_header_leaves_its_input_alone_and_keeps_wcs_on_request() -> None:
    raw = _header("CRVAL1  =                150.0", "EXPTIME =                  5.0")
    before = raw.tostring()
    assert "CRVAL1" in clean_header(raw, keep_wcs=True)
    assert raw.tostring() == before


def test_raw_cards_of_an_astropy_header_are_those_of_the_file() -> None:
    lines = ("OBSERVER= 'Observer's Name'", "EXPTIME = +3.05E+001", "FILTER  = 'R'")
    found = raw_cards(_header(*lines))
    assert [c.value for c in found] == ["Observer's Name", 30.5, "R"]


# --- world coordinates ------------------------------------------------------------


def _wcs_header(**cards: Any) -> fits.Header:
    header = fits.Header()
    base = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CRPIX1": 500.5, "CRPIX2": 400.5,
        "CD1_1": -2.8e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 2.8e-4,
    }  # fmt: skip
    for key, value in {**base, **cards}.items():
        if value is not None:
            header[key] = value
    return header


X, Y = np.array([0.0, 998.0, 3.0]), np.array([1.0, 797.0, 600.0])


def _sky(wcs: WCS, x: Any = X, y: Any = Y) -> Any:
    sky = wcs.pixel_to_world(x, y).icrs
    return np.array([sky.ra.deg, sky.dec.deg])


def test_trimming_moves_the_reference_pixel() -> None:
    """S6."""
    header = _wcs_header()
    wcs, code, _ = celestial_wcs(header, shift_x=17, shift_y=5, shape=(800, 980))
    assert code == "" and wcs is not None
    np.testing.assert_allclose(_sky(wcs, X - 17, Y - 5), _sky(WCS(header)), atol=1e-10)


def test_unbinned_cards_are_binned() -> None:
    wcs, _, _ = celestial_wcs(_wcs_header(), policy="unbinned", binning=(2, 2), shape=(400, 500))
    assert wcs is not None
    # The middle of a binned pixel (i, j) is the point (2 i + 0.5, 2 j + 0.5) of the unbinned grid.
    np.testing.assert_allclose(
        _sky(wcs), _sky(WCS(_wcs_header()), 2 * X + 0.5, 2 * Y + 0.5), atol=1e-10
    )


def test_text_cards_give_the_same_as_numbers() -> None:
    text = _wcs_header()
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        text[key] = repr(text[key])
    wcs, code, _ = celestial_wcs(text, shape=(800, 1000))
    assert code == "WCS_STRINGS" and wcs is not None
    np.testing.assert_allclose(_sky(wcs), _sky(WCS(_wcs_header())), atol=1e-12)


def test_scamp_terms_under_tan_are_a_polynomial() -> None:
    terms = {
        "PV1_0": 2e-4,
        "PV1_1": 1.001,
        "PV1_2": 3e-4,
        "PV1_4": 0.01,
        "PV2_1": 0.999,
        "PV2_5": -0.02,
    }
    wcs, code, _ = celestial_wcs(_wcs_header(**terms), shape=(800, 1000))
    assert code == "PV_ON_TAN" and wcs is not None
    # The polynomial of TPV, written out: xi' = sum PV1_k t_k(xi, eta), eta' with the axes swapped.
    xi = -2.8e-4 * (X - 499.5) + 1e-5 * (Y - 399.5)
    eta = 1e-5 * (X - 499.5) + 2.8e-4 * (Y - 399.5)
    new_xi = np.radians(2e-4 + 1.001 * xi + 3e-4 * eta + 0.01 * xi**2)
    new_eta = np.radians(0.999 * eta - 0.02 * eta * xi)
    dec0 = np.radians(2.0)
    below = np.cos(dec0) - new_eta * np.sin(dec0)
    ra = 150.0 + np.degrees(np.arctan2(new_xi, below))
    dec = np.degrees(np.arctan2(np.sin(dec0) + new_eta * np.cos(dec0), np.hypot(new_xi, below)))
    np.testing.assert_allclose(_sky(wcs), [ra, dec], atol=1e-9)


def test_old_equinox_is_precessed() -> None:
    from astropy.coordinates import SkyCoord

    wcs, code, _ = celestial_wcs(_wcs_header(EQUINOX=1950.0), shape=(800, 1000))
    assert code == "FRAME" and wcs is not None
    there = SkyCoord(150.0, 2.0, unit="deg", frame="fk4", equinox="B1950").icrs
    here = wcs.pixel_to_world(499.5, 399.5).icrs
    assert here.separation(there).arcsec < 0.1
    assert wcs.wcs.radesys == "ICRS"


def test_galactic_axes_become_equatorial() -> None:
    header = _wcs_header(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN")
    wcs, code, _ = celestial_wcs(header, shape=(800, 1000))
    assert code == "FRAME" and wcs is not None
    assert wcs.wcs.ctype[0].startswith("RA")
    np.testing.assert_allclose(_sky(wcs), _sky(WCS(header)), atol=0.1 * 2.8e-4)


@pytest.mark.parametrize("dec", [89.9, -89.9])
def test_fields_at_the_poles_and_across_zero_hours_are_accepted(dec: float) -> None:
    for cards in ({"CRVAL2": dec}, {"CRVAL1": 359.99}):
        wcs, code, message = celestial_wcs(
            _wcs_header(**cards),
            shape=(800, 1000),
            pointing=(cards.get("CRVAL1", 150.0) + 0.02, cards.get("CRVAL2", 2.0)),
        )
        assert wcs is not None and code == "", message


def test_swapped_axes_are_read_through_their_names() -> None:
    header = _wcs_header(
        CTYPE1="DEC--TAN", CTYPE2="RA---TAN", CRVAL1=2.0, CRVAL2=150.0,
        CD1_1=1e-5, CD1_2=2.8e-4, CD2_1=-2.8e-4, CD2_2=1e-5,
    )  # fmt: skip
    wcs, code, _ = celestial_wcs(header, shape=(800, 1000), pointing=(150.0, 2.0))
    assert code == "" and wcs is not None
    np.testing.assert_allclose(_sky(wcs), _sky(WCS(_wcs_header())), atol=1e-10)


def test_no_celestial_cards_are_no_fault() -> None:
    header = fits.Header()
    header["CTYPE1"] = "Linear Unbinned ADC Pixels"
    header["CRVAL1"] = 1.0
    assert celestial_wcs(header) == (None, "", "")
    assert celestial_wcs(_wcs_header(), policy="ignore") == (None, "", "")
