"""Compressed files: told by their first bytes, unpacked in memory up to a limit."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import PurePath
from typing import Any

from skymill.errors import FrameRejected

__all__ = ["compression", "decompress"]

CHUNK = 1 << 22
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
_DAMAGED = (zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError)


def compression(begin: bytes) -> str | None:
    """Return gzip, bzip2 or xz by the first bytes of a file, None if it is neither."""
    return next((name for magic, name in _MAGIC.items() if begin.startswith(magic)), None)


def decompress(name: str, data: bytes, max_bytes: int) -> tuple[bytes, list[tuple[str, str]]]:
    """Return the content of a file and repairs, (code, message), of its name.

    Parameters
    ----------
    name : str
        File name, whose suffix may be wrong.
    data : bytes
        The file.
    max_bytes : int
        Largest content.

    Raises
    ------
    FrameRejected
        TRUNCATED_GZ, DOUBLE_COMPRESSED, TOO_LARGE or UNREADABLE.
    """
    form = compression(data[:16])
    named = _SUFFIXES.get(PurePath(name).suffix.lower())
    if form is None:
        fixes = []
        if named and data:
            fixes.append(("NAME_MISMATCH", f"the name says {named}, the content is plain"))
        return data, fixes
    content = _inflate(data, form, max_bytes)
    if compression(content[:16]) is not None:
        raise FrameRejected(
            "DOUBLE_COMPRESSED", f"The {form} content is itself compressed; unpack it once."
        )
    fixes = []
    if named != form:
        fixes.append(("COMPRESSED", f"the content is compressed with {form} although not named so"))
    return content, fixes


def _inflate(data: bytes, form: str, max_bytes: int) -> bytes:
    """Uncompress in pieces, so that a bomb is stopped at the limit."""
    openers = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
    pieces: list[bytes] = []
    total = 0
    try:
        stream: Any = (
            openers[form](fileobj=io.BytesIO(data))
            if form == "gzip"
            else openers[form](io.BytesIO(data))
        )
        with stream:
            while piece := stream.read(CHUNK):
                total += len(piece)
                if total > max_bytes:
                    raise FrameRejected(
                        "TOO_LARGE",
                        f"The content exceeds the limit of {max_bytes} bytes after "
                        "decompression (settings: ingest.max_file_mb).",
                    )
                pieces.append(piece)
    except EOFError:
        raise FrameRejected(
            "TRUNCATED_GZ",
            f"The {form} data end too early, after {total} bytes of content; copy the file again.",
        ) from None
    except _DAMAGED as error:
        if pieces and isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):
            return b"".join(pieces)  # junk after the last member
        raise FrameRejected("UNREADABLE", f"The {form} data are damaged: {error}.") from None
    return b"".join(pieces)
