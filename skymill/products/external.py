"""Reading images that are not products: what is missing is assumed, and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill import io
from skymill.calibrator_files import FROM_FLAT, NO_INFORMATION
from skymill.error_maps import error_map
from skymill.errors import FrameRejected, ScienceFailure, SkymillError
from skymill.frame import Frame, MaskBit
from skymill.header_wcs import celestial_wcs
from skymill.io_raw import read_raw, scan_file
from skymill.steps.background import background

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skymill.fits_structure import Hdu

__all__ = ["Assumed", "read_image"]

_ELECTRON = ("electron", "electrons", "e-", "e")


@dataclass(frozen=True)
class Assumed:
    """What the caller knows of an image.

    Parameters
    ----------
    gain : float or None
        Electron per unit of the image.
    read_noise : float or None
        Electron.
    saturation : float or None
        In the unit of the file.
    """

    gain: float | None = None
    read_noise: float | None = None
    saturation: float | None = None

    def __post_init__(self) -> None:
        for name in ("gain", "read_noise", "saturation"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise SkymillError(f"{name} must be a positive number, got {value!r}")


def read_image(path: Path, assumed: Assumed) -> tuple[Frame, tuple[str, ...]]:
    """Read a product, a file of the flat layout, or any image.

    Parameters
    ----------
    path : Path
        FITS file.
    assumed : Assumed
        What the caller knows; a product knows it better and ignores it.

    Returns
    -------
    frame : Frame
        In electron.
    notes : tuple of str
        What was assumed; empty for a product.

    Raises
    ------
    SkymillError
        If the file cannot be read, or its unit is not known.
    """
    try:
        units = [unit for unit in scan_file(path) if unit.is_image]
    except FrameRejected as failure:
        raise SkymillError(f"{path.name} cannot be read: {failure.message}") from None
    if {"SCI", "ERR", "MASK"} <= {unit.name.upper() for unit in units}:
        return io.read_frame(path), ()
    if not units:
        raise SkymillError(f"{path.name} holds no image")
    try:
        return _flat_layout(path, units) or _plain(path, units[0], assumed)
    except FrameRejected as failure:
        raise SkymillError(f"{path.name} cannot be read: {failure.message}") from None


def _flat_layout(path: Path, units: Sequence[Hdu]) -> tuple[Frame, tuple[str, ...]] | None:
    """Image, error and mask as `skymill.Calibrator` writes them with layout ``flat``."""
    kinds = {str(unit.header.get("IMAGETYP") or "").lower(): unit.number for unit in units}
    if not {"error", "mask"} <= set(kinds):
        return None
    sci, header = read_raw(path, units[0].number)
    err, flags = (read_raw(path, kinds[kind])[0] for kind in ("error", "mask"))
    mask = np.zeros(sci.shape, np.uint16)
    for flag, bit in FROM_FLAT.items():
        mask[(flags.astype(np.uint16) & flag) != 0] |= np.uint16(bit)
    unknown = err >= NO_INFORMATION / 2
    mask[unknown] |= np.uint16(MaskBit.NO_DATA)
    planes = [np.where(unknown, np.float32(np.nan), plane) for plane in (sci, err)]
    unit = str(header.get("BUNIT") or "electron").strip().lower()
    return Frame(planes[0], planes[1], mask, header, _wcs(header, sci.shape), unit), ()


def _plain(path: Path, unit: Hdu, assumed: Assumed) -> tuple[Frame, tuple[str, ...]]:
    """An image alone: its errors come from its own scatter."""
    image, header = read_raw(path, unit.number)
    gain, notes = _gain(path, header, assumed)
    mask = np.where(np.isfinite(image), 0, int(MaskBit.NO_DATA)).astype(np.uint16)
    if assumed.saturation is None:
        notes.append("no pixel is taken for saturated: no saturation was given")
    else:
        mask[image >= assumed.saturation] |= np.uint16(MaskBit.SATURATED)
    sci = (image * np.float32(gain)).astype(np.float32)
    err = _error(sci, mask, notes)
    unknown = ~np.isfinite(err)
    mask[unknown] |= np.uint16(MaskBit.NO_DATA)
    header["BUNIT"] = ("electron", "unit of the pixels")
    header["GAIN"] = (gain, "[electron per unit of the file] as given")
    if assumed.read_noise is not None:
        header["RDNOISE"] = (assumed.read_noise, "[electron] read noise, as given")
    if assumed.saturation is not None:
        header["SATURATE"] = (assumed.saturation * gain, "[electron] saturation, as given")
    wcs = _wcs(header, sci.shape)
    return Frame(sci, err, mask, header, wcs, "electron"), tuple(notes)


def _gain(path: Path, header: fits.Header, assumed: Assumed) -> tuple[float, list[str]]:
    if assumed.gain is not None:
        return assumed.gain, [f"the gain is {assumed.gain:g} electron per unit of the file"]
    if str(header.get("BUNIT") or "").strip().lower() in _ELECTRON:
        return 1.0, ["the image is in electron, as its header says"]
    raise SkymillError(
        f"{path.name} is no product of skymill and does not say that it is in electron; open it "
        "with gain=... (electron per unit of the file). A card GAIN is not taken for it: it is "
        "often a setting of the camera"
    )


def _error(
    sci: NDArray[np.float32], mask: NDArray[np.uint16], notes: list[str]
) -> NDArray[np.float32]:
    """Scatter of the sky plus photons of what lies above it."""
    from skymill.products.measure import source_pixels

    frame = Frame(sci, np.ones(sci.shape, np.float32), mask, fits.Header())
    try:
        found = background(frame).value
    except ScienceFailure as failure:
        notes.append(f"no error could be measured: {failure.message}")
        return np.full(sci.shape, np.nan, np.float32)
    level, rms = found.level_map(), found.rms_map()
    lit = source_pixels(frame.replace(err=_positive(rms)), found)
    notes.append(
        "the error is the measured scatter of the sky and the photons of the sources above it; "
        "the flat is taken for 1, errors of masters are not in it"
    )
    return error_map(sci, level, rms, sources=lit)


def _positive(rms: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(rms) & (rms > 0), rms, np.float32(np.nan))


def _wcs(header: fits.Header, shape: tuple[int, ...]) -> Any:
    return celestial_wcs(header, shape=(shape[0], shape[1]))[0]
