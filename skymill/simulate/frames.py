"""What one simulated frame is: its plan, its file and the truth behind it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Any

from astropy.io import fits

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Exposure", "LightTruth", "RawFrame", "TruthBit"]


class TruthBit(IntFlag):
    """Bits of the truth masks."""

    COSMIC = 1
    TRAIL = 2
    SATURATED = 4
    BLEED = 8


@dataclass(frozen=True)
class Exposure:
    """What is special about one light frame.

    ``stream`` and ``index`` choose its random numbers. ``clouds`` is a throughput,
    ``jump_px`` a jump of the telescope in mid-exposure, ``sky_slope`` an added slope
    of the sky in units of the sky.
    """

    name: str
    band: str
    stream: str
    index: int
    start: datetime
    target: str
    clouds: float = 1.0
    trail: bool = False
    jump_px: float = 0.0
    sky_factor: float = 1.0
    sky_slope: float = 0.0


@dataclass(frozen=True, eq=False)
class RawFrame:
    """Pixels and header of one file."""

    name: str
    data: NDArray[Any]
    header: fits.Header

    def hdu(self) -> fits.PrimaryHDU:
        """Return a primary HDU; unsigned integers get BZERO."""
        return fits.PrimaryHDU(self.data, self.header.copy())

    def bytes(self) -> bytes:
        """Return the content of a FITS file."""
        buffer = io.BytesIO()
        self.hdu().writeto(buffer)
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class LightTruth:
    """Truth of one light frame.

    Parameters
    ----------
    numbers : dict
        Per-frame values for truth.json.
    ids : tuple of str
        Stars, then moving objects.
    x, y : ndarray of float64, shape (n,)
        Places at mid-exposure in the image area, 0-based; NaN far outside.
    flux_e, relative : ndarray of float64, shape (n,)
        Expected electrons in the frame; brightness relative to the catalogue.
    image : ndarray of float32, shape (ny, nx)
        Noiseless sky and sources in electron, flat not applied.
    mask : ndarray of uint8, shape (ny, nx)
        Bits of `TruthBit`.
    cosmic_e : ndarray of float64, shape (ny, nx)
        Electrons by cosmic rays.
    wcs_cards : dict
        True world coordinates of the image area.
    """

    numbers: dict[str, Any]
    ids: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux_e: NDArray[np.float64]
    relative: NDArray[np.float64]
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    cosmic_e: NDArray[np.float64]
    wcs_cards: dict[str, Any]
