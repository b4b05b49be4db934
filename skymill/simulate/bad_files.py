"""Bad frames whose file is damaged, hidden or not an image."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from skymill.simulate.bad_kit import DEGRADED, Kit, put_card, recipe

if TYPE_CHECKING:
    from pathlib import Path

__all__: list[str] = []

_BLOCK = 2880


def _header_size(content: bytes) -> int:
    end = content.index(b"END".ljust(80))
    return (end // _BLOCK + 1) * _BLOCK


@recipe("H001", "EMPTY")
def empty(kit: Kit) -> Path:
    """Zero bytes."""
    return kit.save(b"")


@recipe("H002", "HEADER_TRUNCATED")
def header_truncated(kit: Kit) -> Path:
    """Cut inside the header."""
    return kit.save(kit.light().bytes()[:1000])


@recipe("H003", "NO_END")
def no_end(kit: Kit) -> Path:
    """The END card is blank."""
    return kit.save(kit.light().bytes().replace(b"END".ljust(80), b" " * 80, 1))


@recipe("H004", "TRUNCATED")
def truncated(kit: Kit) -> Path:
    """Cut in the middle of the pixels."""
    content = kit.light().bytes()
    return kit.save(content[: (len(content) // 2 // _BLOCK) * _BLOCK])


@recipe("H005", "PADDING", good=True)
def padding(kit: Kit) -> Path:
    """All pixels are there, but the last block is not filled up."""
    frame = kit.light()
    content = frame.bytes()
    return kit.save(content[: _header_size(content) + frame.data.nbytes])


@recipe("H006", "TRAILING", good=True)
def trailing(kit: Kit) -> Path:
    """Bytes after the last block."""
    return kit.save(kit.light().bytes() + b"\x01" * 400)


@recipe("H007", "NOT_FITS")
def text(kit: Kit) -> Path:
    """A web page saved under an image's name."""
    return kit.save(b"<html><body>503 Service Unavailable</body></html>\n")


@recipe("H008", "NOT_FITS")
def leading_bytes(kit: Kit) -> Path:
    """A byte-order mark before SIMPLE."""
    return kit.save(b"\xef\xbb\xbf" + kit.light().bytes())


@recipe("H009", "NOT_STANDARD")
def not_standard(kit: Kit) -> Path:
    """SIMPLE = F."""
    return kit.save(put_card(kit.light().bytes(), "SIMPLE", "SIMPLE  =                    F"))


@recipe("H010", "ZERO_SIZE")
def zero_size(kit: Kit) -> Path:
    """NAXIS1 = 0."""
    return kit.save(put_card(kit.light().bytes(), "NAXIS1", "NAXIS1  =                    0"))


@recipe("H011", "BAD_STRUCTURE")
def negative_axis(kit: Kit) -> Path:
    """NAXIS1 is negative."""
    return kit.save(put_card(kit.light().bytes(), "NAXIS1", "NAXIS1  =                 -100"))


@recipe("H012", "BAD_STRUCTURE")
def missing_axis(kit: Kit) -> Path:
    """NAXIS2 is missing."""
    return kit.save(put_card(kit.light().bytes(), "NAXIS2", "NAXISX  =                  100"))


@recipe("H013", "BAD_STRUCTURE")
def bad_bitpix(kit: Kit) -> Path:
    """BITPIX = 24."""
    return kit.save(put_card(kit.light().bytes(), "BITPIX", "BITPIX  =                   24"))


@recipe("H014", "TRUNCATED", "TOO_LARGE", "BAD_STRUCTURE")
def huge_axis(kit: Kit) -> Path:
    """A small file that declares a million by a million pixels."""
    content = put_card(kit.light().bytes(), "NAXIS1", "NAXIS1  =              1000000")
    return kit.save(put_card(content, "NAXIS2", "NAXIS2  =              1000000"))


@recipe("H015", "BAD_STRUCTURE")
def short_axis(kit: Kit) -> Path:
    """NAXIS2 is half of the truth."""
    half = f"NAXIS2  = {kit.config.shape[0] // 2:20d}"
    return kit.save(put_card(kit.light().bytes(), "NAXIS2", half))


@recipe("H016", "NO_IMAGE")
def no_image(kit: Kit) -> Path:
    """Only a header."""
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(header=kit.light().header)]))


@recipe("H017", good=True)
def in_extension(kit: Kit) -> Path:
    """The image is in the first extension, the primary is empty."""
    frame = kit.light()
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(frame.data, frame.header)]))


@recipe("H018", "AMBIGUOUS_HDU")
def several_images(kit: Kit) -> Path:
    """Two images, and no rule that chooses one."""
    frame = kit.light()
    half = frame.data.shape[1] // 2
    parts = [fits.ImageHDU(frame.data[:, :half]), fits.ImageHDU(frame.data[:, half:])]
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(header=frame.header), *parts]))


@recipe("H019", "INHERIT", good=True)
def inherit(kit: Kit) -> Path:
    """The cards are in the primary, the image in an extension with INHERIT."""
    frame = kit.light()
    image = fits.ImageHDU(frame.data)
    image.header["INHERIT"] = True
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(header=frame.header), image]))


@recipe("H020", "NO_IMAGE")
def table_only(kit: Kit) -> Path:
    """A table, no image."""
    column = fits.Column("x", "D", array=np.arange(10.0))
    primary = fits.PrimaryHDU(header=kit.light().header)
    return kit.save_hdus(fits.HDUList([primary, fits.BinTableHDU.from_columns([column])]))


@recipe("H021", "SQUEEZED", good=True)
def third_axis(kit: Kit) -> Path:
    """A third axis of length one."""
    frame = kit.light()
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(frame.data[None], frame.header)]))


@recipe("H022", "RGB_CUBE", "CUBE")
def cube(kit: Kit) -> Path:
    """A colour picture of three planes."""
    frame = kit.light()
    planes = np.stack([frame.data, frame.data // 2 + 500, frame.data // 3 + 700])
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(planes, frame.header)]))


@recipe("H023", "CUBE")
def time_cube(kit: Kit) -> Path:
    """Twenty short exposures in one file."""
    frame = kit.light()
    small = frame.data[:64, :64]
    planes = np.stack([np.roll(small, k, axis=1) for k in range(20)])
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(planes, frame.header)]))


@recipe("H024", "BAD_SHAPE")
def one_axis(kit: Kit) -> Path:
    """A single row of pixels, one-dimensional."""
    frame = kit.light()
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(frame.data[0], frame.header)]))


@recipe("H025", "COMPRESSED", good=True)
def hidden_gzip(kit: Kit) -> Path:
    """Compressed, though its name does not say so."""
    return kit.save(gzip.compress(kit.light().bytes(), 6, mtime=0))


@recipe("H026", "NAME_MISMATCH", good=True)
def plain_gz(kit: Kit) -> Path:
    """Not compressed, though its name says so."""
    return kit.save(kit.light().bytes(), f"{kit.stem}.fits.gz")


@recipe("H027", "TRUNCATED_GZ")
def gz_truncated(kit: Kit) -> Path:
    """The compressed file is cut."""
    content = gzip.compress(kit.light().bytes(), 6, mtime=0)
    return kit.save(content[: len(content) // 2], f"{kit.stem}.fits.gz")


@recipe("H028", "DOUBLE_COMPRESSED")
def double_gzip(kit: Kit) -> Path:
    """Compressed twice."""
    content = gzip.compress(gzip.compress(kit.light().bytes(), 6, mtime=0), 6, mtime=0)
    return kit.save(content, f"{kit.stem}.fits.gz")


@recipe("H029", good=True)
def bzip2(kit: Kit) -> Path:
    """Compressed with bzip2, rightly named."""
    return kit.save(bz2.compress(kit.light().bytes()), f"{kit.stem}.fits.bz2")


@recipe("H030", "ARCHIVE")
def zip_(kit: Kit) -> Path:
    """An archive under an image's name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # An entry without a date gets the first one of the format, not the clock's.
        archive.writestr(zipfile.ZipInfo("light.fits"), kit.light().bytes())
    return kit.save(buffer.getvalue())


@recipe("H031", good=True)
def tiles(kit: Kit) -> Path:
    """Integers, losslessly compressed in tiles."""
    frame = kit.light()
    image = fits.CompImageHDU(frame.data, frame.header, compression_type="RICE_1")
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(), image]), f"{kit.stem}.fits.fz")


@recipe("H032", "QUANTISED", "ALREADY_CALIBRATED", statuses=DEGRADED)
def float_tiles(kit: Kit) -> Path:
    """Floating-point pixels, compressed with loss."""
    frame = kit.light()
    image = fits.CompImageHDU(
        frame.data.astype(np.float32), frame.header, compression_type="RICE_1", quantize_level=8
    )
    return kit.save_hdus(fits.HDUList([fits.PrimaryHDU(), image]), f"{kit.stem}.fits.fz")


@recipe("H034", "CHECKSUM")
def checksum(kit: Kit) -> Path:
    """One pixel differs from what the checksum says."""
    hdu = kit.light().hdu()
    # The comment of these cards would hold the date of writing.
    hdu.add_checksum(when="at the telescope")
    buffer = io.BytesIO()
    hdu.writeto(buffer)
    content = bytearray(buffer.getvalue())
    content[_header_size(bytes(content)) + 1001] ^= 0x40
    return kit.save(bytes(content))


@recipe("H036", "BAD_STRUCTURE", "TRUNCATED", "TOO_LARGE")
def huge_pcount(kit: Kit) -> Path:
    """PCOUNT declares a heap of 10^15 bytes."""
    content = put_card(kit.light().bytes(), "SITEELEV", "PCOUNT  =     1000000000000000")
    return kit.save(put_card(content, "SITELAT", "GCOUNT  =                    1"))


@recipe("H037", "HEADER_LARGE", good=True)
def header_large(kit: Kit) -> Path:
    """A header with 12 000 comments."""
    frame = kit.light()
    cards = fits.Header([("COMMENT", f"temperature log {k}") for k in range(12_000)])
    frame.header.extend(cards, end=True)
    return kit.save(frame)


@recipe("H039", good=True)
def upper_suffix(kit: Kit) -> Path:
    """The suffix is .FTS."""
    return kit.save(kit.light(), f"{kit.stem}.FTS")


@recipe("H040", "UNSUPPORTED", "NOT_FITS")
def png(kit: Kit) -> Path:
    """A picture under an image's name."""
    return kit.save(b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00" * 4000)


@recipe("H169", "DUPLICATE")
def duplicate(kit: Kit) -> Path:
    """The first light frame again, under another name."""
    return kit.save(kit.first_light())


@recipe("H170", "DUPLICATE", "DUPLICATE_PIXELS")
def duplicate_gz(kit: Kit) -> Path:
    """The first light frame again, compressed."""
    return kit.save(gzip.compress(kit.first_light(), 6, mtime=0), f"{kit.stem}.fits.gz")


@recipe("H172", "DUPLICATE_PIXELS", "DUPLICATE", statuses=("degraded", "rejected"))
def duplicate_pixels(kit: Kit) -> Path:
    """The pixels of the first light frame under an edited header."""
    return kit.save(put_card(kit.first_light(), "OBJECT", "OBJECT  = 'Edited  '"))


@recipe("H193", "BAD_LINK", "UNREADABLE")
def unreadable(kit: Kit) -> Path:
    """A link that leads nowhere."""
    path = kit.night / f"{kit.stem}.fits"
    path.unlink(missing_ok=True)
    path.symlink_to("no_such_file.fits")
    return path


@recipe("H194", "NOT_A_FILE")
def folder(kit: Kit) -> Path:
    """A folder with an image's name."""
    path = kit.night / f"{kit.stem}.fits"
    path.mkdir(exist_ok=True)
    return path


@recipe("H195", good=True)
def spaced_name(kit: Kit) -> Path:
    """Blanks, quotes and brackets in the file name."""
    return kit.save(kit.light(), "odd spaced 'name' (1).fits")
