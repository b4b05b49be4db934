"""Files of a `skymill.Calibrator`: the raw one, the name of the output, masks, flat layout."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import ConfigError, FrameRejected
from skymill.frame import Frame, MaskBit, has_bits
from skymill.headers import raw_cards
from skymill.ingest.values import CardReader, Notes
from skymill.instruments import load_instrument
from skymill.io_raw import hash_file, read_frame, scan_file
from skymill.sections import parse_section
from skymill.sheet import frame_id, slug

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.calibrator_parameters import Parameters

__all__ = ["OutputError", "as_user_bits", "flat_planes", "output_file", "raw_row"]

#: Bits of the 8-bit mask of the flat layout, with those of skymill that they stand for.
FLAT_BITS = {
    1: MaskBit.NO_DATA | MaskBit.NONLINEAR | MaskBit.COLD | MaskBit.DEAD | MaskBit.LOW_FLAT
    | MaskBit.GHOST | MaskBit.USER,
    2: MaskBit.HOT,
    4: MaskBit.COSMIC | MaskBit.TRAIL,
    8: MaskBit.OUTSIDE | MaskBit.EDGE,
    16: MaskBit.SATURATED,
    32: MaskBit.BLEED,
    64: MaskBit.INTERPOLATED,
}  # fmt: skip
#: How such bits are read back.
FROM_FLAT = {
    1: MaskBit.USER, 2: MaskBit.HOT, 4: MaskBit.COSMIC, 8: MaskBit.OUTSIDE,
    16: MaskBit.SATURATED, 32: MaskBit.BLEED, 64: MaskBit.INTERPOLATED,
}  # fmt: skip
#: Error of a pixel without a value in the flat layout, where every number must be finite.
NO_INFORMATION = np.float32(1e30)


class OutputError(ConfigError, ValueError):
    """The name of an output file cannot be made."""


def raw_row(
    path: Path, used: Parameters
) -> tuple[dict[str, Any], Mapping[int, NDArray[Any]], fits.Header, str]:
    """Read a raw file and describe it as a row of the sheet does.

    Parameters
    ----------
    path : Path
        Raw FITS file.
    used : Parameters
        What is not told by them is looked up in the header by the instrument file.

    Returns
    -------
    row : dict
        The columns that calibration needs.
    images : dict of int to ndarray
        Raw image by the number of its HDU.
    header : astropy.io.fits.Header
        Its cards.
    digest : str
        SHA-256 of the file.

    Raises
    ------
    FrameRejected
        If the file cannot be read.
    """
    units = scan_file(path)
    if used.hdu is None:
        number = next((unit.number for unit in units if unit.is_image), None)
        if number is None:
            raise FrameRejected("NO_IMAGE", f"{path.name} holds no image.")
    else:
        number = used.hdu
    digest = hash_file(path)
    images, header = read_frame(path, {"hdu": number, "sha256": digest})
    ny, nx = images[number].shape
    instrument = load_instrument(used.instrument)
    reader = CardReader(raw_cards(header), instrument.sentinels, Notes())

    def known(value: float | None, rule: Any, name: str) -> float | None:
        return reader.number(rule, name)[0] if value is None else float(value)

    row: dict[str, Any] = {
        "frame_id": frame_id(path.name, number),
        "hdu": number, "nx": nx, "ny": ny, "sha256": digest, "instrument": used.instrument,
        "datasec": used.image_area or "", "biassec": ";".join(used.overscans),
        "gain_e_adu": known(used.gain, instrument.gain, "gain"),
        "read_noise_e": known(used.read_noise, instrument.read_noise, "read noise"),
        "saturation_adu": known(used.saturation, instrument.saturation, "saturation"),
        "linear_max_adu": used.linear_max,
        "exptime_s": known(used.exposure, instrument.exposure, "exposure"),
        "temperature_c": known(None, instrument.temperature, "temperature"),
    }  # fmt: skip
    low, high = instrument.gain.range or (0.0, np.inf)
    if used.gain is None and row["gain_e_adu"] is not None and not low <= row["gain_e_adu"] <= high:
        raise FrameRejected(
            "NO_GAIN",
            f"GAIN of the header is {row['gain_e_adu']:g}: a setting of the camera, not "
            "electron/ADU. Give the Calibrator a gain.",
        )
    return row, images, header, digest


def output_file(
    pattern: str | Path, raw: Path, row: Mapping[str, Any], header: fits.Header
) -> Path:
    """Return the file to write; names in braces are replaced by header values.

    Each value becomes a slug (letters, digits, ``._+-``), so it cannot lead out of the
    folder that the pattern names.

    Raises
    ------
    OutputError
        If a value is missing, the pattern is not understood, or it names the raw file.
    """
    stem = raw.name
    for suffix in (".gz", ".bz2", ".xz", ".fz", ".fits", ".fit", ".fts"):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
    own = {"RAWFNAME": stem, "FRAMEID": row["frame_id"], "EXPTIME": row["exptime_s"]}
    parts: list[str] = []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(str(pattern)):
            parts.append(literal)
            if name is None:
                continue
            value = own.get(name.upper())
            value = header.get(name) if value is None else value
            if conversion or not name.replace("_", "").replace("-", "").isalnum() or value is None:
                raise OutputError(f"{pattern}: the header has no value {name!r}")
            parts.append(slug(format(value, spec or "")))
    except OutputError:
        raise
    except ValueError as error:
        raise OutputError(f"{pattern}: {error}") from None
    target = Path("".join(parts))
    if target.exists() and target.resolve() == raw.resolve():
        raise OutputError(f"{target.name} is the raw file; it is not overwritten")
    return target


def as_user_bits(
    plane: NDArray[Any], kind: str, shape: tuple[int, int], name: str, used: Parameters
) -> NDArray[np.uint16]:
    """Return the flags of a mask file on the calibrated frame.

    Parameters
    ----------
    plane, kind
        Of `skymill.io.read_flags`.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    name : str
        Name of the file.
    used : Parameters
        With the image area, that is cut from a mask of the whole raw image.

    Raises
    ------
    FrameRejected
        ``WRONG_SIZE``.
    """
    if plane.shape != shape and used.image_area:
        with contextlib.suppress(FrameRejected):
            plane = plane[parse_section(used.image_area, plane.shape).slices]
    if plane.shape != shape:
        raise FrameRejected(
            "WRONG_SIZE", f"the mask {name} has {plane.shape} px (y, x), the frame {shape}."
        )
    if kind == "bits":
        return plane.astype(np.uint16)
    out = np.zeros(shape, np.uint16)
    if kind == "mask" and plane.dtype.kind in "ui":
        for flag, bit in FROM_FLAT.items():
            out[(plane & flag) != 0] |= np.uint16(bit)
        return out
    out[plane != 0] = np.uint16(MaskBit.USER)
    return out


def flat_planes(frame: Frame) -> dict[str, NDArray[Any]]:
    """Return image, error and 8-bit mask of a frame, every number finite.

    Pixels without a value get 0 with an error of 1e30 and the bit 1.
    """
    known = np.isfinite(frame.sci) & np.isfinite(frame.err)
    mask = np.zeros(frame.shape, np.uint8)
    for flag, bits in FLAT_BITS.items():
        mask[has_bits(frame.mask, bits)] |= np.uint8(flag)
    return {
        "image": np.where(known, frame.sci, np.float32(0)),
        "error": np.where(known, frame.err, NO_INFORMATION),
        "mask": mask,
    }
