"""Compressed products: lossless ones are exact, rounded ones tell the noise they add (A21)."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

import skymill
from skymill import io
from skymill.frame import Frame, MaskBit

SHAPE = (301, 280)


@pytest.fixture
def frame():
    rng = np.random.default_rng(3)
    sky = np.linspace(200, 260, SHAPE[1])[None, :] + np.zeros(SHAPE)
    sky[100:110, 50:60] += 20_000
    err = np.sqrt(sky + 36).astype(np.float32)
    sci = (sky + err * rng.standard_normal(SHAPE)).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint16)
    sci[7, 9] = err[7, 9] = np.nan
    mask[7, 9] = MaskBit.NO_DATA
    mask[20:22, 3:9] = MaskBit.SATURATED | MaskBit.USER
    return Frame(sci, err, mask, fits.Header({"FRAMEID": "a-01234567"}), unit="electron")


def test_lossless_is_exact_and_smaller(frame, tmp_path):
    """A21."""
    path, plain = tmp_path / "a.fits", tmp_path / "plain.fits"
    io.write_frame(path, frame, {}, compression="lossless")
    io.write_frame(plain, frame, {})
    back = io.read_frame(path)
    for name in ("sci", "err", "mask"):
        np.testing.assert_array_equal(getattr(back, name), getattr(frame, name))
    assert "QNOISE" not in back.header
    assert path.stat().st_size < 0.9 * plain.stat().st_size
    with fits.open(path, disable_image_compression=True, checksum=True) as hdus:
        assert [hdus[i].header["ZCMPTYPE"] for i in (1, 2, 3)] == ["GZIP_2", "GZIP_2", "RICE_1"]


@pytest.mark.parametrize("q", [4.0, 16.0])
def test_quantised_adds_the_noise_that_its_header_tells(frame, tmp_path, q):
    """A21."""
    path = tmp_path / "a.fits"
    io.write_frame(path, frame, {}, compression="quantised", quantise_q=q)
    back = io.read_frame(path)
    np.testing.assert_array_equal(back.mask, frame.mask)
    np.testing.assert_array_equal(np.isnan(back.sci), np.isnan(frame.sci))
    np.testing.assert_array_equal(np.isnan(back.err), np.isnan(frame.err))
    step = float(np.nanmedian(frame.err)) / q
    assert back.header["QUANTQ"] == q
    assert back.header["QNOISE"] == pytest.approx(step / np.sqrt(12), rel=1e-6)
    added = (back.sci.astype(float) - frame.sci)[np.isfinite(frame.sci)]
    n = added.size
    # the rms of n uniform numbers scatters by rms sqrt(0.8)/(2 sqrt(n)) = 0.45 rms/sqrt(n)
    assert added.std() == pytest.approx(step / np.sqrt(12), rel=4 * 0.45 / np.sqrt(n))
    assert abs(added.mean()) < 4 * step / np.sqrt(12 * n)
    assert np.abs(added).max() <= step / 2 * 1.001
    # dithered: what is added does not depend on the value
    bright = (back.sci.astype(float) - frame.sci)[100:110, 50:60]
    assert abs(bright.mean()) < 4 * step / np.sqrt(12 * bright.size)
    assert (back.err[np.isfinite(back.err)] > 0).all()
    np.testing.assert_allclose(back.err, frame.err, rtol=0.0051)


def test_quantised_products_are_the_same_bytes_again_and_differ_between_frames(frame, tmp_path):
    other = frame.replace(header=fits.Header({"FRAMEID": "b-01234567"}))
    for name, one in (("a", frame), ("b", frame), ("c", other)):
        io.write_frame(tmp_path / f"{name}.fits", one, {}, compression="quantised")
    first, second = ((tmp_path / f"{name}.fits").read_bytes() for name in ("a", "b"))
    assert first == second
    a, c = (io.read_frame(tmp_path / f"{name}.fits").sci for name in ("a", "c"))
    assert not np.array_equal(a, c, equal_nan=True)


def test_compressed_products_open_like_others(frame, tmp_path):
    for compression in ("none", "lossless", "quantised"):
        path = tmp_path / f"{compression}.fits"
        io.write_frame(path, frame, {}, compression=compression)
        assert io.read_geometry(path)[1] == SHAPE
        assert io.data_digest(path).isdigit()
        assert skymill.open(path).data.shape == SHAPE
        with fits.open(path) as hdus:
            assert hdus["SCI"].header["BUNIT"] == "electron"
            assert hdus["SCI"].data.dtype.itemsize == 4


def test_checksums_are_those_that_astropy_finds(tmp_path):
    """The sums of the standard, for arrays of many sizes, types and contents."""
    rng = np.random.default_rng(1)
    for n, shape in enumerate([(1, 1), (3, 5), (17, 24), (90, 301)]):
        sci = rng.normal(0, 10.0**n, shape).astype(np.float32)
        frame = Frame(sci, np.abs(sci) + 1, np.zeros(shape, np.uint16), fits.Header({"N": n}))
        path = tmp_path / f"{n}.fits"
        io.write_frame(path, frame, {})
        with fits.open(path, disable_image_compression=True) as hdus:
            for hdu in hdus:
                assert hdu.verify_checksum() == 1
                assert hdu.verify_datasum() == 1
            hdus.verify("exception")


@pytest.mark.parametrize("at", [100, 5000, 20_000, -1])
def test_a_changed_byte_on_the_disk_is_noticed(frame, tmp_path, monkeypatch, at):
    real = io.sum_matches

    def damaged(path, sizes):
        content = bytearray(path.read_bytes())
        content[at] ^= 0x10
        path.write_bytes(bytes(content))
        return real(path, sizes)

    monkeypatch.setattr(io, "sum_matches", damaged)
    with pytest.raises(OSError, match="not what was written"):
        io.write_frame(tmp_path / "a.fits", frame, {})
    assert list(tmp_path.iterdir()) == []
