"""Pictures of images: stretch, colours and a small PNG encoder.

Written here rather than with a plotting library because the bytes must not depend on
its version: an indexed PNG of at most 255 colours, without text or time chunks. Blank
(NaN) pixels are transparent.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["COLORMAPS", "Picture", "limits", "make_overlay", "make_picture", "shrink", "to_png"]

Stretch = Literal["asinh", "zscale", "linear"]

#: Colours at equal steps from dark to bright; between them straight lines in RGB.
COLORMAPS: dict[str, tuple[str, ...]] = {
    "gray": ("000000", "ffffff"),
    "gray_r": ("ffffff", "000000"),
    "night": ("05070f", "101a3c", "2c3f7a", "7387c0", "cdd6ee", "fff9ec", "ffffff"),
    "tide": ("0a0f24", "22316b", "4a63b8", "93a9e8", "e3ebff"),
    "ember": ("0b0a16", "3b1456", "8c2369", "d5483f", "f79a2e", "fdf3a8"),
    "viridis": (
        "440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Parameters
    ----------
    png : bytes
        The file.
    width, height : int
        Its size in pixels.
    low, high : float
        Values shown as darkest and brightest.
    alt : str
        What is to be seen, for those who do not see it.
    """

    png: bytes
    width: int
    height: int
    low: float
    high: float
    alt: str = ""


def to_png(
    array: NDArray[np.floating] | NDArray[np.integer],
    *,
    stretch: Stretch = "asinh",
    cmap: str = "gray",
    max_size: int = 1024,
) -> bytes:
    """Return a PNG of a two-dimensional array.

    Parameters
    ----------
    array : ndarray, shape (ny, nx)
        Values; NaN and infinite ones become transparent. Row 0 is at the bottom.
    stretch : {"asinh", "zscale", "linear"}
        ``asinh`` shows faint and bright together, ``zscale`` shows the background in
        the manner of IRAF, ``linear`` goes from the 0.5th to the 99.5th percentile.
    cmap : str
        One of `COLORMAPS`.
    max_size : int
        Longest side of the picture in pixels; larger images are averaged over whole
        blocks of pixels.

    Returns
    -------
    bytes
        The PNG file; the same for the same input.

    Raises
    ------
    ValueError
        If the array is not two-dimensional or empty, or a name is unknown.
    """
    return make_picture(array, stretch=stretch, cmap=cmap, max_size=max_size).png


def make_picture(
    array: NDArray[np.floating] | NDArray[np.integer],
    *,
    stretch: Stretch = "asinh",
    cmap: str = "gray",
    max_size: int = 1024,
    levels: int = 128,
    span: tuple[float, float] | None = None,
    alt: str = "",
) -> Picture:
    """Return a picture of an array with its size and limits; see `to_png`.

    Parameters
    ----------
    array, stretch, cmap, max_size
        As for `to_png`.
    levels : int
        Number of colours, 2 to 255; fewer make a smaller file.
    span : tuple of float, optional
        Values of the darkest and the brightest colour; by default from the stretch.
    alt : str
        Text for those who do not see the picture.
    """
    if cmap not in COLORMAPS:
        raise ValueError(f"cmap must be one of {sorted(COLORMAPS)}, got {cmap!r}")
    if not 2 <= levels <= 255:
        raise ValueError(f"levels must be 2 to 255, got {levels}")
    small = shrink(array, max_size)
    low, high = limits(small, stretch) if span is None else span
    unit = _stretched(small, stretch, low, high)
    shown = np.isfinite(unit)
    index = np.zeros(small.shape, np.uint8)
    index[shown] = 1 + np.rint(np.clip(unit[shown], 0, 1) * (levels - 1)).astype(np.uint8)
    png = _encode(index[::-1], _palette(cmap, levels))
    return Picture(png, small.shape[1], small.shape[0], float(low), float(high), alt)


def make_overlay(
    array: NDArray[np.floating],
    layers: Sequence[tuple[str, NDArray[np.bool_]]],
    *,
    stretch: Stretch = "asinh",
    max_size: int = 1024,
    levels: int = 64,
    alt: str = "",
) -> Picture:
    """Return a grey picture of an array with coloured layers over it.

    Parameters
    ----------
    array, stretch, max_size, levels, alt
        As for `make_picture`; at most 200 levels.
    layers : sequence of (str, ndarray of bool)
        Colour as six hex digits and where it is drawn, at the size of the picture; later
        ones lie above.
    """
    small = shrink(array, max_size)
    low, high = limits(small, stretch)
    unit = _stretched(small, stretch, low, high)
    shown = np.isfinite(unit)
    index = np.zeros(small.shape, np.uint8)
    index[shown] = 1 + np.rint(np.clip(unit[shown], 0, 1) * (levels - 1)).astype(np.uint8)
    colours = [list(bytes.fromhex(colour)) for colour, _ in layers]
    for number, (_, where) in enumerate(layers, levels + 1):
        index[where] = number
    palette = np.concatenate([_palette("gray", levels), np.array(colours, np.uint8).reshape(-1, 3)])
    png = _encode(index[::-1], palette)
    return Picture(png, small.shape[1], small.shape[0], float(low), float(high), alt)


def shrink(array: NDArray[np.floating] | NDArray[np.integer], max_size: int) -> NDArray[np.float64]:
    """Average whole blocks of pixels until no side is longer than ``max_size``.

    Parameters
    ----------
    array : ndarray, shape (ny, nx)
        Values that are not finite are left out of the means.
    max_size : int
        Longest side in pixels, at least 1.

    Returns
    -------
    ndarray of float64, shape (ceil(ny / n), ceil(nx / n))
        NaN where a block has no finite value.
    """
    array = np.asarray(array)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a picture needs a non-empty 2-D array, got shape {array.shape}")
    if max_size < 1:
        raise ValueError(f"max_size must be at least 1, got {max_size}")
    step = -(-max(array.shape) // max_size)
    good = np.isfinite(array)
    if step == 1:
        return np.where(good, array, np.nan).astype(np.float64)
    values = np.where(good, array, 0).astype(np.float64)
    rows, columns = (np.arange(0, size, step) for size in array.shape)
    total = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    count = np.add.reduceat(np.add.reduceat(good.astype(np.float64), rows, axis=0), columns, axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def limits(array: NDArray[np.floating], stretch: Stretch) -> tuple[float, float]:
    """Return the values of the darkest and the brightest colour.

    Parameters
    ----------
    array : ndarray of float
        Values; those that are not finite are ignored.
    stretch : {"asinh", "zscale", "linear"}
        See `to_png`.

    Returns
    -------
    low, high : float
        ``low < high``; ``(0, 1)`` if nothing is finite.
    """
    values = array[np.isfinite(array)].astype(np.float64)
    if not values.size:
        return 0.0, 1.0
    if stretch == "asinh":
        middle, sigma = _middle(values)
        low = max(middle - 2.0 * sigma, float(values.min()))
        high = max(float(np.percentile(values, 99.8)), middle + 12.0 * sigma)
        high = min(high, float(values.max()))
    elif stretch == "zscale":
        from astropy.visualization import ZScaleInterval

        low, high = (float(v) for v in ZScaleInterval().get_limits(values))
    elif stretch == "linear":
        low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    else:
        raise ValueError(f"stretch must be asinh, zscale or linear, got {stretch!r}")
    if not high > low:
        half = 0.5 * abs(low) or 0.5
        return low - half, low + half
    return low, high


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median and robust sigma of the lower half, which stars do not reach."""
    middle = float(np.median(values))
    below = middle - values[values <= middle]
    return middle, 1.4826 * float(np.median(below))


def _stretched(
    array: NDArray[np.float64], stretch: Stretch, low: float, high: float
) -> NDArray[np.float64]:
    """Map low..high to 0..1."""
    unit = (array - low) / (high - low)
    if stretch != "asinh":
        return unit
    finite = array[np.isfinite(array)]
    sigma = _middle(finite)[1] if finite.size else 0.0
    soft = max(3.0 * sigma, (high - low) * 1e-3) / (high - low)
    return np.arcsinh(np.maximum(unit, 0) / soft) / np.arcsinh(1.0 / soft) + np.minimum(unit, 0)


def _palette(cmap: str, levels: int) -> NDArray[np.uint8]:
    """Colours of the indices 0 (blank) to ``levels``, shape (levels + 1, 3)."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in COLORMAPS[cmap]], np.float64)
    where = np.linspace(0, len(anchors) - 1, levels)
    nodes = np.arange(len(anchors))
    colours = np.stack([np.interp(where, nodes, anchors[:, i]) for i in range(3)], axis=1)
    return np.concatenate([np.zeros((1, 3)), np.rint(colours)]).astype(np.uint8)


def _encode(index: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Indexed PNG (colour type 3, 8 bits); colour 0 is transparent."""
    height, width = index.shape
    rows = np.zeros((height, width + 1), np.uint8)  # the leading 0 of each row: no filter
    rows[:, 1:] = index
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette.tobytes()),
            _chunk(b"tRNS", b"\x00"),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
