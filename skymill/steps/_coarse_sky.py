"""The sky of a frame in large cells: good enough to judge single pixels by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.frame import MaskBit
from skymill.kernels.coarse_sky import cell_sky, expand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Frame

__all__ = ["CoarseSky", "coarse_sky"]

#: Side of a cell, and of the smallest in a small frame; distance of the samples.
_BOX_PX, _SMALLEST_BOX_PX, _STEP_PX = 128, 16, 4


class CoarseSky(NamedTuple):
    """Sky at the centres of cells.

    Attributes
    ----------
    level, rms : ndarray of float32, shape (my, mx)
        Median and scatter of each cell.
    box : int
        Side of a cell in px.
    typical_rms : float
        Median of the scatters; positive.
    """

    level: NDArray[np.float32]
    rms: NDArray[np.float32]
    box: int
    typical_rms: float

    def maps(self, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return level and scatter at every pixel."""
        ny, nx = shape
        return expand(self.level, self.box, ny, nx), expand(self.rms, self.box, ny, nx)


def coarse_sky(frame: Frame, bits: NDArray[np.uint16]) -> CoarseSky:
    """Measure the sky in cells of 128 px, from every fourth pixel of every fourth row.

    Parameters
    ----------
    frame : Frame
        Image and error.
    bits : ndarray of uint16, shape (ny, nx)
        Its mask.

    Returns
    -------
    CoarseSky
        Each cell is the median of itself and its neighbours, so that a galaxy that fills
        one does not count as sky; cells without good pixels take the median of all.
    """
    box, step = _BOX_PX, _STEP_PX
    if min(frame.shape) < 4 * _BOX_PX:
        box = max(_SMALLEST_BOX_PX, min(frame.shape) // 8 * 2)
        step = max(1, box // 32)
    bad = np.uint16(int(MaskBit.bad()))
    level, rms = cell_sky(frame.sci, frame.err, bits, bad, box, step)
    known = np.isfinite(level)
    if not known.any():
        # too few good pixels for any cell: they are one cell
        good = ((bits & bad) == 0) & np.isfinite(frame.sci) & (frame.err > 0)
        value = np.float32(np.median(frame.sci[good])) if good.any() else np.float32(0)
        noise = np.float32(np.median(frame.err[good])) if good.any() else np.float32(1)
        return CoarseSky(np.full((1, 1), value), np.full((1, 1), noise), max(frame.shape) * 2,
                         float(noise))  # fmt: skip
    level[~known] = np.median(level[known])
    rms[~known] = np.median(rms[known])
    level, rms = _smooth(level), _smooth(rms)
    typical = float(np.median(rms))
    if typical <= 0:  # a constant frame has no scatter; its errors say what could be seen
        errors = frame.err[np.isfinite(frame.err) & (frame.err > 0)]
        typical = float(np.median(errors)) if errors.size else 1.0
    return CoarseSky(level, np.maximum(rms, np.float32(0.1 * typical)), box, typical)


def _smooth(mesh: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of each cell and its neighbours."""
    padded = np.pad(mesh, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.ascontiguousarray(np.median(windows, axis=(2, 3)), np.float32)
