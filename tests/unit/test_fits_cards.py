"""Headers made as text are those that astropy makes; what is read is what was written."""

import os

import numpy as np
import pytest
from astropy.io import fits

from skymill import io
from skymill.fits_bytes import image_unit, primary_unit
from skymill.fits_cards import CardText, extended, primary_cards
from skymill.frame import Frame, Later
from skymill.wcsmath import wcs_from_header

CARDS = {"OBJECT": ("M 31", "it's"), "EXPTIME": (30.0, ""), "ZERO": (-0.0, "s"), "N": (3, "")}


def header_with(**more):
    header = fits.Header()
    for key, value in {**CARDS, **more}.items():
        header[key] = value
    return header


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_a_plane_has_the_same_bytes_with_a_header_or_its_text(dtype):
    plane = np.arange(35).reshape(5, 7).astype(dtype)
    header = header_with(FLAG=(True, "logical"))
    one, two = (image_unit(plane, h, "SCI") for h in (header, CardText(header)))
    assert b"".join(map(bytes, one.chunks())) == b"".join(map(bytes, two.chunks()))


def test_a_primary_header_has_the_same_bytes_with_a_header_or_its_text():
    header = header_with()
    text = primary_cards(header, {"OBJECT": ("M 33", "new"), "SMSTEP": ("mask", "step")})
    assert text is not None
    header["OBJECT"] = ("M 33", "new")
    header["SMSTEP"] = ("mask", "step")
    assert primary_unit(text).header == primary_unit(header).header


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.add_history("x"),
        lambda h: h.add_comment("x"),
        lambda h: h.set("LONG", "x" * 100),
        lambda h: h.set("HIERARCH ESO DET", 1),
        lambda h: h.append(("OBJECT", "twice")),
        lambda h: h.set("NAXIS1", 7),
        lambda h: h.set("TFORM1", "1J"),
    ],
)
def test_cards_that_astropy_treats_in_its_own_way_are_left_to_it(change):
    header = header_with()
    change(header)
    assert not CardText(header).plain
    assert primary_cards(header, {}) is None


def frame(**more):
    mask = np.zeros((40, 60), np.uint16)
    mask[3, 4] = 512
    sci = np.arange(2400, dtype=np.float32).reshape(40, 60)
    return Frame(sci, np.ones((40, 60), np.float32), mask, header_with(**more))


@pytest.mark.parametrize("more", [{}, {"HISTORY": "made long ago", "LONG": "x" * 100}])
def test_astropy_reads_what_is_written_and_finds_its_checksums_right(tmp_path, more):
    io.write_frame(tmp_path / "a.fits", frame(**more), {"SMSTEP": ("test", "")})
    with fits.open(tmp_path / "a.fits", checksum=True) as hdus:
        hdus.verify("exception")
        assert hdus[0].header["OBJECT"] == "M 31"
        assert hdus[0].header["SMSTEP"] == "test"
        np.testing.assert_array_equal(hdus["SCI"].data, frame().sci)
        np.testing.assert_array_equal(hdus["MASK"].data, frame().mask)
    with fits.open(tmp_path / "a.fits", disable_image_compression=True) as hdus:
        for hdu in hdus:
            assert hdu.verify_checksum() == hdu.verify_datasum() == 1


def test_a_cut_file_is_refused_as_before(tmp_path):
    path = tmp_path / "a.fits"
    io.write_frame(path, frame(), {})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 2880])
    with pytest.raises(Exception, match=r"truncated|MASK|buffer|read"):
        io.read_frame(path)


def test_headers_that_nobody_looked_at_are_still_there(tmp_path):
    io.write_frame(tmp_path / "a.fits", frame(), {})
    back = io.read_frame(tmp_path / "a.fits")
    changed = back.replace(mask=np.ones((40, 60), np.uint16))
    assert changed.header["OBJECT"] == "M 31"
    assert changed.wcs is None
    with pytest.raises(AttributeError, match="no attribute 'heeder'"):
        _ = back.heeder


def test_lossless_compression_knows_no_clock(tmp_path, monkeypatch):
    io.write_frame(tmp_path / "a.fits", frame(), {}, compression="lossless")
    monkeypatch.setattr("time.time", lambda: 1e9)
    io.write_frame(tmp_path / "b.fits", frame(), {}, compression="lossless")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    np.testing.assert_array_equal(io.read_frame(tmp_path / "a.fits").sci, frame().sci)
    data = (tmp_path / "a.fits").read_bytes()
    assert data.count(b"\x1f\x8b\x08\x00\0\0\0\0") >= 6


def test_files_written_behind_have_their_names_at_the_end(tmp_path):
    with io.write_behind():
        for n in range(40):
            io.write_bytes(tmp_path / f"{n}.bin", b"x" * n)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{n}.bin" for n in range(40))
    assert all((tmp_path / f"{n}.bin").stat().st_size == n for n in range(40))


def test_a_full_disk_behind_is_raised_and_leaves_nothing(tmp_path, monkeypatch):
    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"), io.write_behind():
        for n in range(3):
            io.write_bytes(tmp_path / f"{n}.bin", b"x")
    assert os.listdir(tmp_path) == []


def projections():
    """World coordinates of every kind that products hold."""
    plain = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 123.456789012345,
             "CRVAL2": -45.678901234567, "CRPIX1": 250.123456789, "CRPIX2": 240.5,
             "CD1_1": -1.23456789e-4, "CD1_2": 1.1e-7, "CD2_1": 1.2e-7, "CD2_2": 1.23450001e-4,
             "RADESYS": "ICRS"}  # fmt: skip
    bent = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1.23456789e-6, "B_0_2": -2.3e-6, "A_1_1": 1 / 3e6}
    sip = plain | bent | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}
    tpv = plain | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_0": 1e-5, "PV1_1": 1.0,
                   "PV1_4": 1.23456789e-5, "PV2_1": 1.0, "PV2_5": -1 / 7e5}  # fmt: skip
    linear = {"CRPIX1": 1.5, "CRPIX2": 1 / 3, "CRVAL1": 0.1, "CRVAL2": -7e5, "CDELT1": 1 / 3,
              "CDELT2": 1.0, "PC1_2": 1e-9}  # fmt: skip
    return {"tan": plain, "sip": sip, "tpv": tpv, "linear": linear, "pixels": {}}


@pytest.mark.parametrize("kind", ["tan", "sip", "tpv", "linear", "pixels", "none"])
@pytest.mark.parametrize("name", ["M 31", "it's", "x" * 75])
def test_a_mask_has_the_same_bytes_whether_the_header_was_looked_at_or_not(tmp_path, kind, name):
    wcs = None if kind == "none" else wcs_from_header(fits.Header(projections()[kind]))
    header = header_with(OBJECT=(name, "target"), FRAMEID=("f1", "name"))
    one = Frame(np.ones((9, 8)), np.ones((9, 8)), np.zeros((9, 8)), header, wcs)
    cards = {"SMSTEP": ("calibrate", "step that made this file")}
    io.write_frame(tmp_path / "frame.fits", one, cards)
    io.write_frame(tmp_path / "again.fits", io.read_frame(tmp_path / "frame.fits"), cards)
    assert (tmp_path / "frame.fits").read_bytes() == (tmp_path / "again.fits").read_bytes()
    bits = np.ones((9, 8), np.uint16)
    io.write_mask(tmp_path / "quick.fits", bits, io.read_frame(tmp_path / "frame.fits"), {})
    seen = io.read_frame(tmp_path / "frame.fits")
    assert (seen.wcs is None) == (kind == "none")
    assert seen.header["OBJECT"] == name
    assert seen.stored("wcs") is None
    assert seen.stored("header") is None
    io.write_mask(tmp_path / "looked.fits", bits, seen, {})
    assert (tmp_path / "quick.fits").read_bytes() == (tmp_path / "looked.fits").read_bytes()


def test_a_frame_read_with_another_mask_has_that_mask(tmp_path):
    io.write_frame(tmp_path / "frame.fits", frame(), {"SMSTEP": ("calibrate", "")})
    bits = np.arange(frame().mask.size, dtype=np.uint16).reshape(frame().shape)
    io.write_mask(tmp_path / "mask.fits", bits, frame(), {})
    got = io.read_frame(tmp_path / "frame.fits", tmp_path / "mask.fits")
    np.testing.assert_array_equal(got.mask, bits)
    np.testing.assert_array_equal(got.sci, frame().sci)


def test_cards_added_to_a_header_are_those_that_astropy_adds():
    header = header_with()
    more = {"EXPTIME": (31.5, "longer"), "GAIN": (1.25, "gain"), "LINEAR": (True, "")}
    wanted = header.copy()
    for key, value in more.items():
        wanted[key] = value
    quick = extended(header, more)
    assert isinstance(quick, Later)
    assert quick.value().tostring() == wanted.tostring()
    header["HISTORY"] = "made by hand"
    wanted["HISTORY"] = "made by hand"
    slow = extended(header, more)
    assert isinstance(slow, fits.Header)
    assert {k: slow[k] for k in more} == {k: wanted[k] for k in more}
    assert str(slow["HISTORY"]) == "made by hand"
