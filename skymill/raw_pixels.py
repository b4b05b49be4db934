"""Stored numbers of a FITS image to the pixels that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import FrameRejected

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.cards import RawHeader
    from skymill.fits_structure import Hdu

__all__ = ["scaled", "squeezed_shape"]

#: BZERO of unsigned 16-bit integers, which FITS stores as signed ones.
OFFSET_BINARY = 32768


def squeezed_shape(unit: Hdu, plane: int | None = None) -> tuple[int, int]:
    """Return the shape (ny, nx) of an image; a third axis of length one is dropped.

    Parameters
    ----------
    unit : Hdu
        The unit.
    plane : int, optional
        Plane of a cube, from 0; the shape is that of the plane.

    Raises
    ------
    FrameRejected
        RGB_CUBE, CUBE or BAD_SHAPE if it is not two-dimensional.
    """
    axes = unit.axes
    sizes = " x ".join(str(n) for n in unit.axes)
    if plane is not None and not (len(axes) == 3 and 0 <= plane < axes[2]):
        raise FrameRejected(
            "BAD_SHAPE", f"The image has {sizes} pixels and no plane {plane}, counted from 0."
        )
    if len(axes) == 3 and (axes[2] == 1 or plane is not None):
        axes = axes[:2]
    if len(axes) == 3 and (axes[2] == 3 or axes[0] == 3):
        raise FrameRejected(
            "RGB_CUBE", f"The image has {sizes} pixels: colours of a camera, not a raw frame."
        )
    if len(axes) == 3:
        raise FrameRejected(
            "CUBE", f"The image is a cube of {sizes} pixels without a time for each plane."
        )
    if len(axes) != 2:
        raise FrameRejected(
            "BAD_SHAPE", f"The number of axes is {len(axes)} ({sizes}), expected 2."
        )
    return axes[1], axes[0]


def scaled(
    stored: NDArray[Any], header: RawHeader, bitpix: int, bzero: float | None = None
) -> NDArray[Any]:
    """Return pixels from stored numbers: ``BZERO + BSCALE * stored``, blank ones NaN.

    Parameters
    ----------
    stored : ndarray, any shape
        Numbers as they lie in the file, any byte order. Not modified.
    header : RawHeader
        Cards of the image: BSCALE, BZERO, BLANK.
    bitpix : int
        FITS data type.
    bzero : float, optional
        Replaces BZERO of integers.

    Returns
    -------
    ndarray of uint16 or float32, shape of ``stored``
        A new array of native byte order: uint16 if the values are unsigned integers of
        8 or 16 bits without blank ones, float32 otherwise.
    """
    scale, zero = _number(header, "BSCALE", 1.0), _number(header, "BZERO", 0.0)
    if bitpix < 0:
        return _floats(stored, scale, zero)
    blank = header.get("BLANK")
    empty = None
    if isinstance(blank, int) and not isinstance(blank, bool):
        empty = stored == blank
    has_blank = empty is not None and bool(empty.any())
    return _integers(
        stored, bitpix, scale, zero if bzero is None else bzero, empty if has_blank else None
    )


def _number(header: RawHeader, keyword: str, default: float) -> float:
    value = header.get(keyword)
    return default if value is None or isinstance(value, (str, bool)) else float(value)


def _floats(stored: NDArray[Any], scale: float, zero: float) -> NDArray[np.float32]:
    # values beyond the range of float32 become infinite, which later steps mask
    with np.errstate(over="ignore", invalid="ignore"):
        if scale == 1.0 and zero == 0.0:
            return stored.astype(np.float32)
        return (stored.astype(np.float64) * scale + zero).astype(np.float32)


def _integers(
    stored: NDArray[Any], bitpix: int, scale: float, zero: float, empty: NDArray[np.bool_] | None
) -> NDArray[Any]:
    if scale == 1.0 and empty is None:
        if bitpix == 16 and zero == OFFSET_BINARY:
            # Flipping the sign bit adds 32768 without leaving 16 bits; bytes are turned to
            # native order in the same pass.
            unsigned = stored.view(stored.dtype.str.replace("i", "u"))
            out = np.empty(stored.shape, np.uint16)
            return np.bitwise_xor(unsigned, np.uint16(OFFSET_BINARY), out=out)
        if bitpix == 8 and zero == 0:
            return stored.astype(np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        array = (stored.astype(np.float64) * scale + zero).astype(np.float32)
    if empty is not None:
        array[empty] = np.nan
    return array
