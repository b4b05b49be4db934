"""Headers made as text are those that astropy makes; what is read is what was written."""

import os

import numpy as np
import pytest
from astropy.io import fits

from skymill import io
from skymill.fits_bytes import image_unit, primary_unit
from skymill.fits_cards import CardText, primary_cards
from skymill.frame import Frame

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
