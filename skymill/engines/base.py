"""What every resampling engine offers, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from skymill.frame import MaskBit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.resample import PixelMap

__all__ = ["BAD", "ArrayRows", "FrameRows", "Rows", "Warp", "WarpPlanes", "empty_planes"]

#: Bits that exclude an input pixel.
BAD = int(MaskBit.bad())


@dataclass(frozen=True)
class Rows:
    """Some rows of a frame.

    Parameters
    ----------
    value : ndarray of float32, shape (n, mx)
        Background-subtracted signal in the frame's own unit.
    err : ndarray of float32, shape (n, mx)
        One-sigma error in the same unit.
    mask : ndarray of uint16, shape (n, mx)
        Bits of `MaskBit`.
    """

    value: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]


class FrameRows(Protocol):
    """A frame of which only the rows that are needed are read."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (my, mx) of the frame."""

    def rows(self, y0: int, y1: int) -> Rows:
        """Return the rows ``y0`` to ``y1 - 1``, contiguous and of native byte order."""


@dataclass(frozen=True)
class ArrayRows:
    """Planes in memory as `FrameRows`.

    Parameters
    ----------
    value, err : ndarray of float32, shape (my, mx)
    mask : ndarray of uint16, shape (my, mx)
    """

    value: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (my, mx)."""
        my, mx = self.value.shape
        return my, mx

    def rows(self, y0: int, y1: int) -> Rows:
        """Return some rows."""
        return Rows(
            np.ascontiguousarray(self.value[y0:y1], np.float32),
            np.ascontiguousarray(self.err[y0:y1], np.float32),
            np.ascontiguousarray(self.mask[y0:y1], np.uint16),
        )


class WarpPlanes(NamedTuple):
    """Output planes of a band, filled in place.

    Parameters
    ----------
    value, variance : ndarray of float32, shape (rows, nx)
        Signal and its variance on the common scale; NaN where there is none.
    k2 : ndarray of uint16, shape (rows, nx)
        Sum of the squared kernel, before scaling, times 65535; 0 where there is no value.
    mask : ndarray of uint16, shape (rows, nx)
        OR of the bits of all input pixels that the kernel touches; EDGE where it leaves
        the frame; INTERPOLATED with a value is of second class: bilinear, because the
        wider kernel touches a bad pixel.
    """

    value: NDArray[np.float32]
    variance: NDArray[np.float32]
    k2: NDArray[np.uint16]
    mask: NDArray[np.uint16]


def empty_planes(rows: int, nx: int) -> WarpPlanes:
    """Return planes to be filled."""
    return WarpPlanes(
        np.empty((rows, nx), np.float32),
        np.empty((rows, nx), np.float32),
        np.empty((rows, nx), np.uint16),
        np.empty((rows, nx), np.uint16),
    )


class Warp(Protocol):
    """One frame on its way to a grid."""

    @property
    def mapping(self) -> PixelMap:
        """Positions of the output pixels in the frame."""

    @property
    def correlation(self) -> NDArray[np.float64]:
        """Mean correlation of resampled white noise by lag (dy, dx), shape (11, 11)."""

    @property
    def kernel(self) -> str:
        """Name of the kernel, for the header."""

    def input_rows(self, row0: int, rows: int) -> tuple[int, int]:
        """Return the input rows that these output rows need; (0, 0) for none."""

    def fill(self, row0: int, planes: WarpPlanes) -> None:
        """Resample as many output rows as the planes have, from ``row0`` on."""

    def close(self) -> None:
        """Remove temporary files, if there are any."""
