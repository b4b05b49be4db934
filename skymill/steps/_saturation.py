"""Saturated stars: their hidden middles, their surroundings, and charge that spilt.

Saturation is judged where the raw counts are, in ``calibrate``. From its bits this
module finds what belongs to them; only the affected pixels are visited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.frame import MaskBit
from skymill.kernels import saturation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Frame
    from skymill.steps._coarse_sky import CoarseSky

__all__ = ["mark_saturated"]

#: Smaller groups of saturated pixels are hot pixels or hits: nothing bleeds from them.
_MINIMUM_CORE_PX = 4
#: A saturated group narrower and longer than this is a bad column, not a star.
_COLUMN_WIDTH_PX, _COLUMN_LENGTH_PX = 3, 20
#: A trail outshines the star's own profile at the same distance by this factor, and the
#: sky by so many sigma; a star has bled if its group is so many px longer than wide, or
#: if a column keeps this part of its height over the width of the group.
_LIMITS = (1.3, 5.0, 2.0, 0.3)


def mark_saturated(
    frame: Frame,
    bits: NDArray[np.uint16],
    sky: CoarseSky,
    *,
    grow_px: int,
    bleed: bool,
    readout: str,
) -> int:
    """Fill and grow SATURATED and add BLEED, in place.

    Parameters
    ----------
    frame : Frame
        Calibrated frame.
    bits : ndarray of uint16, shape (ny, nx)
        Its mask; changed.
    sky : CoarseSky
        Its sky.
    grow_px : int
        Growth of saturated regions.
    bleed : bool
        Follow charge that spilt.
    readout : str
        ``"columns"`` or ``"rows"``: the direction in which charge is moved, and spills.

    Returns
    -------
    int
        Number of stars that bled.
    """
    saturated = np.uint16(int(MaskBit.SATURATED))
    pixels, starts = saturation.groups(bits, saturated)
    bled = 0
    for k in range(len(starts) - 1):
        group = pixels[starts[k] : starts[k + 1]]
        if len(group) < _MINIMUM_CORE_PX:
            continue
        saturation.fill_holes(bits, group, saturated)
        if bleed:
            bled += _bleed(frame, bits, group, sky, readout) > 0
    if grow_px > 0 and len(pixels):
        saturation.grow(bits, pixels, grow_px, saturated)
    return bled


def _bleed(
    frame: Frame, bits: NDArray[np.uint16], group: NDArray[np.int64], sky: CoarseSky, readout: str
) -> int:
    """Mark what spilt from a group; return the number of pixels."""
    ny, nx = frame.shape
    sci, mask, mesh, y, x = frame.sci, bits, sky.level, group // nx, group % nx
    if readout == "rows":
        sci, mask, mesh = sci.T, bits.T, np.ascontiguousarray(mesh.T)
        y, x, nx = x, y, ny
    narrow = int(np.bincount(y - y.min()).max()) < _COLUMN_WIDTH_PX
    if narrow and np.ptp(y) + 1 > _COLUMN_LENGTH_PX:
        return 0
    return int(
        saturation.bleed(
            sci, mask, y * nx + x, mesh, sky.box, sky.typical_rms, _LIMITS,
            np.uint16(int(MaskBit.BLEED)),
        )
    )  # fmt: skip
