"""Engines whose values come from elsewhere: everything else is our own.

Variance, squared kernel and mask follow from the definition of the kernel, which our own
engine computes; only the values are those of the other program. So bad pixels, edges and
second-class values are treated alike in all engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.engines.base import BAD, FrameRows, Rows, WarpPlanes
from skymill.frame import MaskBit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.engines.native import NativeWarp
    from skymill.resample import PixelMap

__all__ = ["ExternalWarp", "cleaned"]


def cleaned(rows: Rows) -> NDArray[np.float32]:
    """Return the values with zero, the background, in place of bad pixels."""
    good = (rows.mask & np.uint16(BAD)) == 0
    good &= np.isfinite(rows.value) & np.isfinite(rows.err)
    return np.where(good, rows.value, np.float32(0))


class ExternalWarp:
    """Base of the engines that take values from another program.

    Parameters
    ----------
    name : str
        Name of the kernel.
    own : NativeWarp
        Our engine with the same kernel.
    frame : FrameRows
        Pixels of the frame.
    """

    def __init__(self, name: str, own: NativeWarp, frame: FrameRows) -> None:
        self.kernel = name
        self.own = own
        self.frame = frame

    @property
    def mapping(self) -> PixelMap:
        """Positions of the output pixels in the frame."""
        return self.own.mapping

    @property
    def correlation(self) -> NDArray[np.float64]:
        """Mean correlation of resampled white noise by lag, shape (11, 11)."""
        return self.own.correlation

    def input_rows(self, row0: int, rows: int) -> tuple[int, int]:
        """Return the input rows that these output rows need; (0, 0) for none."""
        return self.own.input_rows(row0, rows)

    def fill(self, row0: int, planes: WarpPlanes) -> None:
        """Resample as many output rows as the planes have, from ``row0`` on."""
        self.own.fill(row0, planes)
        # The nearest pixel is a copy in every engine; at ties, where rounding decides, value
        # and mask must be of one pixel.
        if self.kernel == "nearest" or not planes.k2.any():
            return
        values = self.values(row0, planes.value.shape[0])
        second = np.uint16(int(MaskBit.INTERPOLATED))
        first = (planes.k2 > 0) & ((planes.mask & second) == 0)
        values *= self.own.scale_rows(row0, planes.value.shape[0])
        lost = first & ~np.isfinite(values)
        first &= ~lost
        planes.value[first] = values[first]
        self.adjust(row0, planes, first)
        for plane in (planes.value, planes.variance):
            plane[lost] = np.nan
        planes.k2[lost] = 0
        planes.mask[lost] |= np.uint16(int(MaskBit.NO_DATA))

    def values(self, row0: int, rows: int) -> NDArray[np.float32]:
        """Return the resampled surface brightness of some output rows, shape (rows, nx)."""
        raise NotImplementedError

    def adjust(self, row0: int, planes: WarpPlanes, first: NDArray[np.bool_]) -> None:
        """Correct variance and squared kernel where ours is not that of the engine."""

    def close(self) -> None:
        """Remove what was kept."""
        self.own.close()
