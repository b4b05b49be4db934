"""Files are whole, verified, deterministic, or not there at all."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skymill import io
from skymill.errors import Outcome
from skymill.frame import Background, Frame, MaskBit, Master


@pytest.fixture
def frame():
    rng = np.random.default_rng(7)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [30.0, 20.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    mask = np.zeros((40, 60), np.uint16)
    mask[3, 4] = MaskBit.COSMIC | MaskBit.NO_DATA
    sci = rng.normal(100, 5, (40, 60)).astype(np.float32)
    sci[3, 4] = np.nan
    err = np.full((40, 60), 5, np.float32)
    return Frame(sci, err, mask, fits.Header({"OBJECT": "M 31", "EXPTIME": 30.0}), wcs)


def test_frame_comes_back_as_it_was(frame, tmp_path):
    io.write_frame(tmp_path / "a.fits", frame, {"SMSTEP": ("test", "a step")})
    back = io.read_frame(tmp_path / "a.fits")
    for name in ("sci", "err", "mask"):
        np.testing.assert_array_equal(getattr(back, name), getattr(frame, name))
    assert back.unit == "electron"
    assert back.header["OBJECT"] == "M 31"
    assert back.header["SMSTEP"] == "test"
    assert back.wcs is not None
    np.testing.assert_allclose(back.wcs.all_pix2world(3, 4, 0), frame.wcs.all_pix2world(3, 4, 0))


def test_mask_header_names_the_bits(frame, tmp_path):
    io.write_frame(tmp_path / "a.fits", frame, {})
    with fits.open(tmp_path / "a.fits") as hdus:
        assert hdus["MASK"].header["MBIT09"] == "COSMIC"
        assert hdus["MASK"].data.dtype == np.uint16


def test_checksums_are_there_and_right_and_without_a_clock(frame, tmp_path):
    io.write_frame(tmp_path / "a.fits", frame, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(tmp_path / "a.fits", checksum=True, disable_image_compression=True) as hdus:
            for hdu in hdus:
                assert "CHECKSUM" in hdu.header
                assert hdu.header.comments["CHECKSUM"] == ""


def test_same_frame_gives_the_same_bytes(frame, tmp_path):
    io.write_frame(tmp_path / "a.fits", frame, {"A": 1})
    io.write_frame(tmp_path / "b.fits", frame, {"A": 1})
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_nan_without_mask_bit_is_refused_and_the_earlier_file_survives(frame, tmp_path):
    path = tmp_path / "a.fits"
    io.write_frame(path, frame, {})
    before = path.read_bytes()
    bad = frame.replace(mask=np.zeros_like(frame.mask))
    with pytest.raises(io.BadProduct, match="x=4, y=3"):
        io.write_frame(path, bad, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.fits"]


def test_error_of_zero_is_refused(frame, tmp_path):
    err = frame.err.copy()
    err[0, 0] = 0
    with pytest.raises(io.BadProduct, match="not positive"):
        io.write_frame(tmp_path / "a.fits", frame.replace(err=err), {})


def test_full_disk_leaves_nothing_behind(frame, tmp_path, monkeypatch):
    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        io.write_frame(tmp_path / "a.fits", frame, {})
    assert os.listdir(tmp_path) == []


def test_failed_verification_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def never(_):
        raise io.BadProduct("wrong")

    with pytest.raises(io.BadProduct):
        io.write_atomic(path, b"new", never)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_master_comes_back_with_its_counts(frame, tmp_path):
    """O6."""
    nused = np.full(frame.shape, 9, np.uint16)
    master = Master(frame.sci, frame.err, frame.mask, frame.header, None, "adu", nused)
    io.write_master(tmp_path / "m.fits", master, {})
    back = io.read_master(tmp_path / "m.fits")
    assert back.unit == "adu"
    np.testing.assert_array_equal(back.nused, nused)


def test_background_comes_back(tmp_path):
    level = np.arange(6, dtype=np.float32).reshape(2, 3) + 100
    background = Background(level, np.sqrt(level), (100, 150), 64, 0.25)
    io.write_background(tmp_path / "b.fits", background, {})
    back = io.read_background(tmp_path / "b.fits")
    np.testing.assert_array_equal(back.level, level)
    assert (back.shape, back.box_size_px, back.level_err) == ((100, 150), 64, 0.25)


def test_table_keeps_units_descriptions_text_and_facts(tmp_path):
    table = Table({"name": ["a", "β"], "flux": [1.5, np.nan], "n": [1, 2], "ok": [True, False]})
    table["flux"].unit = "electron"
    table["flux"].description = "what was measured"
    io.write_table(tmp_path / "t.parquet", table, {"step": "test"})
    back = io.read_table(tmp_path / "t.parquet")
    assert back["name"].tolist() == ["a", "β"]
    np.testing.assert_array_equal(back["flux"], table["flux"])
    assert str(back["flux"].unit) == "electron"
    assert back["flux"].description == "what was measured"
    assert back.meta == {"step": "test"}


def test_empty_table_keeps_its_columns(tmp_path):
    table = Table({"name": np.zeros(0, "U3"), "x": np.zeros(0)})
    io.write_table(tmp_path / "t.parquet", table, {})
    back = io.read_table(tmp_path / "t.parquet")
    assert back.colnames == ["name", "x"]
    assert len(back) == 0


def test_outcomes_come_back_and_nan_becomes_unknown(tmp_path):
    numbers = {"n": np.int64(3), "f": np.float32(2.5), "x": float("nan")}
    outcome = Outcome("f-1", "mask", "degraded", "NO_DATA", 'a, "quoted"\nline', numbers)
    io.write_outcomes(tmp_path / "o.csv", [outcome])
    (back,) = io.read_outcomes(tmp_path / "o.csv")
    assert back.message == outcome.message
    assert back.numbers == {"n": 3, "f": 2.5, "x": None}


def test_wcs_survives_as_text(frame):
    back = io.wcs_from_text(io.wcs_to_text(frame.wcs))
    np.testing.assert_allclose(back.all_pix2world(5, 6, 0), frame.wcs.all_pix2world(5, 6, 0))


def test_linear_wcs_survives_as_text():
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.crval = [3.25, -7.5]
    wcs.wcs.cd = [[0.99, 0.01], [-0.01, 0.99]]
    back = io.wcs_from_text(io.wcs_to_text(wcs))
    assert not back.has_celestial
    np.testing.assert_allclose(back.all_pix2world(50, 60, 0), wcs.all_pix2world(50, 60, 0))


def test_identity_wcs_survives_as_text():
    back = io.wcs_from_text(io.wcs_to_text(WCS(naxis=2)))
    np.testing.assert_allclose(
        back.all_pix2world(5.5, 6.5, 0), WCS(naxis=2).all_pix2world(5.5, 6.5, 0)
    )


@pytest.mark.parametrize(
    "values",
    [
        np.arange(5),
        np.arange(5, dtype=">i4"),
        np.arange(10.0)[::2],
        np.arange(3, dtype="f4"),
        np.array(["a", "bcd", ""]),
        np.array(["é", 1, None], dtype=object),
        np.array([True, False, True] * 5),
        np.zeros(0),
        np.zeros(0, "U1"),
        np.zeros(0, bool),
    ],
)
def test_columns_are_those_that_arrow_makes(values):
    pa = pytest.importorskip("pyarrow")
    made = io._arrow(values)
    made.validate(full=True)
    if values.dtype.kind in "USO":
        wanted = pa.array([str(value) for value in values], pa.string())
    else:
        wanted = pa.array(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))
    assert made.equals(wanted)
    assert made.type == wanted.type


def test_tables_do_without_pandas(tmp_path):
    """A job would take half a second longer to start."""
    script = (
        "import sys; from pathlib import Path; from astropy.table import Table; "
        "from skymill import io; t = Table({'x': [1.0], 's': ['a'], 'b': [True]}); "
        "io.write_table(Path(sys.argv[1]), t, {}); io.read_table(Path(sys.argv[1])); "
        "sys.exit('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "t.parquet")], check=False)
    assert done.returncode == 0
