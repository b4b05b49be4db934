"""Flags of measurements, and what is done about masked pixels."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.frame import MaskBit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MaskedPolicy", "PhotFlag", "flags_of", "policy"]

#: What is done about masked pixels in an aperture.
MaskedPolicy = Literal["replace", "exclude", "flag"]


class PhotFlag(IntFlag):
    """Why a measurement should be looked at twice. Zero is a good one."""

    OUTSIDE = 1 << 0  #: the position is not on the frame; no flux
    EDGE = 1 << 1  #: the aperture leaves the frame
    MASKED = 1 << 2  #: bad pixels in the aperture: replaced, left out or used, as the policy says
    SATURATED = 1 << 3  #: saturated pixels in the aperture
    NO_FLUX = 1 << 4  #: nothing could be measured
    NO_ANNULUS = 1 << 5  #: too few good pixels in the annulus, the global level was used
    NEIGHBOUR = 1 << 6  #: fitted together with neighbours, or pixels of a neighbour in the aperture
    BAD_FIT = 1 << 7  #: the fit failed, did not settle or wanted to move away

    @classmethod
    def bad(cls) -> PhotFlag:
        """Flags of measurements that are left out of statistics."""
        return cls.OUTSIDE | cls.EDGE | cls.MASKED | cls.SATURATED | cls.NO_FLUX


def policy(masked: str) -> dict[str, Any]:
    """Return the arguments of the kernels for a policy on masked pixels.

    Parameters
    ----------
    masked : {"replace", "exclude", "flag"}
        Replace a masked pixel by that opposite the centre; leave it out of the sum; use its
        value as it is. It is flagged in any case; a pixel without a finite value is left
        out under the last two.

    Raises
    ------
    ValueError
        For another word.
    """
    known: dict[str, dict[str, Any]] = {
        "replace": {"replace": True},
        "exclude": {"replace": False},
        "flag": {"replace": False, "bad_bits": 0},
    }
    if masked not in known:
        raise ValueError(f"masked must be one of {', '.join(known)}, got {masked!r}")
    return known[masked]


def flags_of(
    shape: tuple[int, int],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    mask_or: NDArray[Any],
    measured: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return `PhotFlag` bits of measurements.

    Parameters
    ----------
    shape : (int, int)
        Shape (ny, nx) of the frame.
    x, y : ndarray of float64, shape (n,)
        0-based positions; NaN is off the frame.
    mask_or : ndarray of int, shape (n,)
        OR of the mask of the pixels of each aperture.
    measured : ndarray of bool, shape (n,)
        Where there is a flux.
    """
    ny, nx = shape
    with np.errstate(invalid="ignore"):
        outside = ~((x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5))
    bits = mask_or.astype(np.int64)
    edge = (bits & int(MaskBit.OUTSIDE | MaskBit.EDGE)) != 0
    saturated = (bits & int(MaskBit.SATURATED | MaskBit.BLEED)) != 0
    masked = (bits & int(MaskBit.bad() & ~MaskBit.OUTSIDE & ~MaskBit.EDGE)) != 0
    flags = np.zeros(x.size, np.int64)
    for where, flag in (
        (outside, PhotFlag.OUTSIDE),
        (edge & ~outside, PhotFlag.EDGE),
        (masked, PhotFlag.MASKED),
        (saturated, PhotFlag.SATURATED),
        (~measured, PhotFlag.NO_FLUX),
    ):
        flags[where] |= int(flag)
    return flags
