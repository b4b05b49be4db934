"""Pixels that wait for a second pass: in memory while they fit, else in one scratch file."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["PixelStore", "StoredPixels"]


@dataclass(eq=False)
class StoredPixels:
    """An array in a `PixelStore`.

    Attributes
    ----------
    shape : tuple of int
        Shape (ny, nx).
    dtype : numpy dtype
        Type of the pixels.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    _store: PixelStore
    _array: NDArray[Any] | None = None
    _offset: int = -1

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows, shape (y1 - y0, nx). Do not write into them."""
        if self._array is not None:
            kept: NDArray[Any] = self._array[y0:y1]
            return kept
        return self._store.read(self, y0, y1)


class PixelStore:
    """Arrays in memory up to a limit; beyond it all of them lie in one unlinked file.

    Parameters
    ----------
    limit_bytes : float
        Memory for pixels.
    folder : str or Path, optional
        Where the file is made; the system's folder for temporary files by default. The
        file has no name (or loses it at once), so that nothing is left behind however
        the process ends.

    Notes
    -----
    The file is read, not mapped: pages of a map would count as memory of the process.
    One file serves any number of frames, so that the limit of open files is not touched.
    """

    def __init__(self, limit_bytes: float, folder: str | Path | None = None) -> None:
        self.limit = limit_bytes
        self.folder = folder
        self.parts: list[StoredPixels] = []
        self._file: BinaryIO | None = None
        self._end = 0

    @property
    def spilled(self) -> bool:
        """True if the pixels lie in the file."""
        return self._file is not None

    def expect(self, nbytes: float) -> None:
        """Go to the file at once if so many bytes will not fit into memory."""
        if nbytes > self.limit:
            self._spill()

    def put(self, array: NDArray[Any]) -> StoredPixels:
        """Keep an array of shape (ny, nx); it must not be changed afterwards."""
        part = StoredPixels((array.shape[0], array.shape[1]), array.dtype, self)
        if not self.spilled:
            used = sum(one.nbytes for one in self.parts if one._array is not None)
            self.expect(used + part.nbytes)
        if self.spilled:
            self._write(part, array)
        else:
            part._array = array
        self.parts.append(part)
        return part

    def drop(self, part: StoredPixels) -> None:
        """Forget an array."""
        part._array = None
        self.parts = [one for one in self.parts if one is not part]

    def read(self, part: StoredPixels, y0: int, y1: int) -> NDArray[Any]:
        """Return rows of an array that lies in the file."""
        assert self._file is not None
        out = np.empty((y1 - y0, part.shape[1]), part.dtype)
        row_bytes = part.shape[1] * part.dtype.itemsize
        self._file.seek(part._offset + y0 * row_bytes)
        view = memoryview(out.reshape(-1).view(np.uint8).data)
        while view:
            count = self._file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise OSError("the scratch file of the combination was cut")
            view = view[count:]
        return out

    def _spill(self) -> None:
        if self._file is not None:
            return
        file = tempfile.TemporaryFile(buffering=0, dir=self.folder)  # noqa: SIM115
        self._file = file
        weakref.finalize(self, file.close)
        for part in self.parts:
            if part._array is not None:
                self._write(part, part._array)
                part._array = None

    def _write(self, part: StoredPixels, array: NDArray[Any]) -> None:
        assert self._file is not None
        part._offset = self._end
        self._file.seek(self._end)
        view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        while view:
            view = view[self._file.write(view) :]
        self._end += part.nbytes
