"""Disks in a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["add_disks"]


def add_disks(
    mask: NDArray[np.uint16], x: ArrayLike, y: ArrayLike, radius: ArrayLike, bit: int
) -> NDArray[np.uint16]:
    """Return a mask with a bit set where the centre of a pixel lies inside a disk.

    Parameters
    ----------
    mask : ndarray of uint16, shape (ny, nx)
        Not modified.
    x, y, radius : array_like of float, shape (n,)
        0-based centres and radii in px, finite.
    bit : int
        The bit.
    """
    out = np.array(mask, np.uint16, order="C")
    _add(
        out, np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64),
        np.ascontiguousarray(radius, np.float64), np.uint16(bit),
    )  # fmt: skip
    return out


@njit(cache=True, nogil=True)
def _add(out: Any, x: Any, y: Any, radius: Any, bit: Any) -> None:
    ny, nx = out.shape
    for k in range(len(x)):
        square = radius[k] * radius[k]
        if not (-radius[k] < x[k] < nx + radius[k] and -radius[k] < y[k] < ny + radius[k]):
            continue
        for j in range(max(0, int(y[k] - radius[k])), min(ny, int(y[k] + radius[k]) + 2)):
            rest = square - (j - y[k]) ** 2
            if rest <= 0.0:
                continue
            half = np.sqrt(rest) + 1.0
            for i in range(max(0, int(x[k] - half)), min(nx, int(x[k] + half) + 2)):
                if (j - y[k]) ** 2 + (i - x[k]) ** 2 < square:
                    out[j, i] |= bit
