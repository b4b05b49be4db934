"""Raw pixels are those that the FITS standard means, in types that later steps can use."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import json
import lzma
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from astropy.io import fits

from skymill.errors import FrameRejected
from skymill.io_raw import Limits, hash_file, read_frame, read_raw, scan_file

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(5)


def _uint16() -> Any:
    data = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
    data[0, :3] = (0, 32768, 65535)
    return data


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (_uint16(), np.uint16),
        (RNG.integers(0, 256, (20, 30)).astype(np.uint8), np.uint16),
        (RNG.integers(-500, 500, (20, 30)).astype(np.int16), np.float32),
        (RNG.integers(-(2**20), 2**20, (20, 30)).astype(np.int32), np.float32),
        (RNG.integers(0, 2**20, (20, 30)).astype(np.uint32), np.float32),
        (RNG.normal(0, 1, (20, 30)).astype(np.float32), np.float32),
        (RNG.normal(0, 1, (20, 30)), np.float32),
    ],
)
def test_pixels_of_every_type_are_read_as_meant(data: Any, kind: Any, tmp_path: Path) -> None:
    fits.PrimaryHDU(data).writeto(tmp_path / "x.fits")
    got, _ = read_raw(tmp_path / "x.fits", 0)
    assert got.dtype == kind and got.dtype.isnative and got.flags.writeable
    np.testing.assert_array_equal(got, data.astype(kind))


def test_scaled_integers_are_scaled_and_blank_ones_are_nan(tmp_path: Path) -> None:
    stored = RNG.integers(-100, 100, (20, 30)).astype(np.int16)
    stored[3, 4] = -99
    stored[stored == -100] = 7
    hdu = fits.PrimaryHDU(stored)
    hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 0.5, 100.0, -99
    # Written as bytes: astropy would rescale the pixels to the new cards.
    plain = fits.PrimaryHDU(stored)
    content = bytearray(_bytes(plain))
    end = content.index(b"END".ljust(80))
    for number, text in enumerate(("BSCALE  =  0.5", "BZERO   =  100.0", "BLANK   =  -99", "END")):
        content[end + 80 * number : end + 80 * (number + 1)] = text.ljust(80).encode()
    (tmp_path / "x.fits").write_bytes(content)
    got, _ = read_raw(tmp_path / "x.fits", 0)
    expected = stored * 0.5 + 100.0
    expected[stored == -99] = np.nan
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    assert np.isnan(got[3, 4])


def _bytes(hdu: Any) -> bytes:
    import io

    file = io.BytesIO()
    hdu.writeto(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".fits.gz", gzip.compress), (".fits.bz2", bz2.compress), (".fits.xz", lzma.compress)],
)
def test_compressed_files_hold_the_same(suffix: str, pack: Any, tmp_path: Path) -> None:
    data = _uint16()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(pack(_bytes(fits.PrimaryHDU(data))))
    np.testing.assert_array_equal(read_raw(path, 0)[0], data)
    assert scan_file(path)[0].axes == (30, 20)


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_1", "GZIP_2"])
def test_tile_compressed_integers_are_exact(kind: str, tmp_path: Path) -> None:
    data = _uint16()
    image = fits.CompImageHDU(data, compression_type=kind)
    image.header["EXPTIME"] = 5.0
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "x.fits.fz")
    got, header = read_raw(tmp_path / "x.fits.fz", 1)
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, data)
    assert header["EXPTIME"] == 5.0
    assert not [key for key in header if key.startswith(("Z", "TTYPE", "TFORM", "NAXIS"))]


def test_extension_inherits_cards_but_its_own_come_first(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU()
    primary.header["EXPTIME"], primary.header["FILTER"] = 5.0, "R"
    image = fits.ImageHDU(_uint16())
    image.header["FILTER"] = "V"
    fits.HDUList([primary, image]).writeto(tmp_path / "x.fits")
    header = read_raw(tmp_path / "x.fits", 1)[1]
    assert (header["EXPTIME"], header["FILTER"]) == (5.0, "V")


def test_scan_reads_no_pixels_of_plain_files(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(_uint16()), fits.ImageHDU(_uint16(), name="TWO")]).writeto(path)
    first, second = scan_file(path)
    assert (first.axes, first.bitpix, second.name) == ((30, 20), 16, "TWO")
    with pytest.raises(FrameRejected, match="TOO_LARGE"):
        scan_file(path, Limits(max_bytes=1000))


def test_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    fits.PrimaryHDU(_uint16()).writeto(path)
    assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_raw(path, 0, hash_file(path))[0].shape == (20, 30)


def test_asking_for_an_image_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    fits.PrimaryHDU(_uint16()).writeto(path)
    for number in (1, -1):
        with pytest.raises(FrameRejected, match="NO_IMAGE"):
            read_raw(path, number)


def test_file_that_grows_while_it_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skymill import io_raw

    path = tmp_path / "x.fits"
    fits.PrimaryHDU(_uint16()).writeto(path)
    real = io_raw._opened

    class Growing:
        """A file to which a block is added when it is read."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def fileno(self) -> int:
            return int(self.file.fileno())

        def read(self, count: int) -> bytes:
            data = bytes(self.file.read(count))
            with path.open("ab") as more:
                more.write(bytes(2880))
            return data

    monkeypatch.setattr(io_raw, "_opened", lambda p: Growing(real(p)))
    with pytest.raises(FrameRejected, match="GROWING"):
        read_raw(path, 0)


def _row(path: Path, **cells: Any) -> dict[str, Any]:
    return {"hdu": 0, "sha256": hash_file(path)} | cells


def test_frame_of_one_image_is_read_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    data = _uint16()
    hdu = fits.PrimaryHDU(data)
    hdu.header["FILTER"] = "V"
    hdu.writeto(path)
    images, header = read_frame(path, _row(path))
    assert list(images) == [0]
    assert images[0].dtype == np.uint16 and images[0].flags.writeable
    np.testing.assert_array_equal(images[0], data)
    assert header["FILTER"] == "V"
    with pytest.raises(FrameRejected, match="CHANGED"):
        read_frame(path, _row(path, sha256="0" * 64))
    with pytest.raises(FrameRejected, match="NO_IMAGE"):
        read_frame(path, _row(path, hdu=2))
    with pytest.raises(FrameRejected, match="TOO_LARGE"):
        read_frame(path, _row(path), limits=Limits(max_bytes=1000))


def test_h137_frame_of_several_amplifiers_reads_the_images_they_name(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    parts = [_uint16() for _ in range(3)]
    units = [fits.ImageHDU(part, name=f"A{n}") for n, part in enumerate(parts)]
    units[1].header["GAIN"] = 2.5
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(path)
    entries = [
        {"name": name, "hdu": hdu, "data": "[1:30,1:20]", "place": place}
        for name, hdu, place in (("a", 3, "[1:30,1:20]"), ("b", 2, "[31:60,1:20]"))
    ]
    row = _row(path, hdu=2, amplifiers=json.dumps(entries))
    images, header = read_frame(path, row)
    assert list(images) == [2, 3]
    np.testing.assert_array_equal(images[2], parts[1])
    np.testing.assert_array_equal(images[3], parts[2])
    assert header["GAIN"] == 2.5
    for broken in ("[{]", '[{"name": "a"}]', "[3]"):
        with pytest.raises(FrameRejected, match="BAD_SECTION"):
            read_frame(path, row | {"amplifiers": broken})


@pytest.mark.parametrize("tiled", [False, True])
def test_plane_of_a_cube_is_a_frame_of_its_own(tiled: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    cube = RNG.integers(0, 65536, (4, 20, 30)).astype(np.uint16)
    if tiled:
        unit = fits.CompImageHDU(cube, compression_type="RICE_1", tile_shape=(1, 20, 30))
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path)
    else:
        fits.PrimaryHDU(cube).writeto(path)
    row = _row(path, hdu=int(tiled))
    for plane in range(4):
        image = read_frame(path, row | {"plane": plane}).images[int(tiled)]
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, cube[plane])
    with pytest.raises(FrameRejected, match="CUBE"):
        read_frame(path, row)
    with pytest.raises(FrameRejected, match="BAD_SHAPE"):
        read_frame(path, row | {"plane": 4})


def test_channel_is_cut_from_the_mosaic(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    data = _uint16()
    fits.PrimaryHDU(data).writeto(path)
    parts = {
        name: read_frame(path, _row(path, channel=f"{name}[{y}::2,{x}::2]")).images[0]
        for name, y, x in (("R", 0, 0), ("G1", 0, 1), ("G2", 1, 0), ("B", 1, 1))
    }
    assert all(part.flags.c_contiguous and part.flags.writeable for part in parts.values())
    together = np.zeros_like(data)
    together[0::2, 0::2], together[0::2, 1::2] = parts["R"], parts["G1"]
    together[1::2, 0::2], together[1::2, 1::2] = parts["G2"], parts["B"]
    np.testing.assert_array_equal(together, data)


@pytest.mark.parametrize("tiled", [False, True])
def test_declared_bzero_replaces_that_of_the_file(tiled: bool, tmp_path: Path) -> None:
    """Signed integers without BZERO that were meant as unsigned ones."""
    path = tmp_path / "x.fits"
    meant = _uint16()
    stored = (meant.astype(np.int32) - 32768).astype(np.int16)
    if tiled:
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(stored)]).writeto(path)
    else:
        fits.PrimaryHDU(stored).writeto(path)
    row = _row(path, hdu=int(tiled))
    plain = read_frame(path, row).images[int(tiled)]
    np.testing.assert_array_equal(plain, stored.astype(np.float32))
    image = read_frame(path, row | {"bzero": 32768.0}).images[int(tiled)]
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, meant)
    # the other way round: BZERO in the file, but the numbers count from zero
    fits.PrimaryHDU(meant).writeto(tmp_path / "y.fits")
    row = _row(tmp_path / "y.fits", bzero=0.0)
    got = read_frame(tmp_path / "y.fits", row).images[0]
    np.testing.assert_array_equal(got, stored.astype(np.float32))


def test_bzero_of_the_sheet_leaves_floating_point_pixels_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    data = RNG.normal(0, 1, (20, 30)).astype(np.float32)
    fits.PrimaryHDU(data).writeto(path)
    np.testing.assert_array_equal(read_frame(path, _row(path, bzero=32768.0)).images[0], data)


class _Failing:
    """A file of which the first reads fail."""

    def __init__(self, file: Any, failures: list[int]) -> None:
        self.file, self.failures = file, failures

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, *count: int) -> bytes:
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        return bytes(self.file.read(*count))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINTR])
def test_failures_of_the_disk_that_pass_are_waited_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skymill import io_raw

    path = tmp_path / "x.fits"
    data = _uint16()
    fits.PrimaryHDU(data).writeto(path)
    digest = hash_file(path)
    waits: list[float] = []
    monkeypatch.setattr(io_raw.time, "sleep", waits.append)
    real, failures = io_raw._opened, [number] * 3
    monkeypatch.setattr(io_raw, "_opened", lambda p: _Failing(real(p), failures))
    np.testing.assert_array_equal(read_raw(path, 0, digest)[0], data)
    assert waits == list(io_raw.WAITS_S)
    failures[:] = [number]
    assert hash_file(path) == digest
    failures[:] = [number]
    assert scan_file(path)[0].axes == (30, 20)
    failures[:] = [number] * 4
    with pytest.raises(FrameRejected, match="UNREADABLE"):
        read_raw(path, 0)
    waits.clear()
    failures[:] = [errno.EACCES]
    with pytest.raises(FrameRejected, match="UNREADABLE"):
        read_raw(path, 0)
    assert waits == []  # what does not pass is said at once
