"""Putting a raw frame together: amplifiers side by side, overscan measured and cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.overscan import OverscanLevel, fit_overscan
from skymill.readout import Images, Readout, as_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from skymill.readout import Amplifier

__all__ = ["Exposure", "assemble", "read_order"]


@dataclass(frozen=True, eq=False)
class Exposure:
    """A raw frame in the orientation of its detector.

    Parameters
    ----------
    pixels : ndarray of uint16 or float32, shape (ny, nx)
        Raw values (ADU) with the overscan level still inside, free of crosstalk. Do not
        write into it: for a single amplifier it may be a view of the raw image.
    levels : tuple of OverscanLevel
        One per amplifier.
    readout : Readout
        How the frame was read.
    """

    pixels: NDArray[Any]
    levels: tuple[OverscanLevel, ...]
    readout: Readout

    def subtracted(self) -> NDArray[np.float32]:
        """Return the pixels without their electronic level (ADU), shape (ny, nx)."""
        out = np.empty(self.readout.shape, np.float32)
        for one, level in zip(self.readout.amplifiers, self.levels, strict=True):
            out[one.place.slices] = self.pixels[one.place.slices] - level.level
        return out


def assemble(
    raw: NDArray[Any] | Images,
    row: Mapping[str, Any],
    *,
    overscan: Mapping[str, Any] | None = None,
    electronics: Mapping[str, Any] | None = None,
) -> Exposure:
    """Put the amplifiers of a frame together and measure their overscans.

    Parameters
    ----------
    raw : ndarray of shape (ny, nx), or mapping of int to such arrays
        The raw image, or the images by HDU; uint16 or float32.
    row : mapping
        Row of the sheet.
    overscan : mapping, optional
        Settings of `skymill.overscan.fit_overscan`.
    electronics : mapping, optional
        Linearity and crosstalk of the instrument, see `Readout.from_row`.

    Returns
    -------
    Exposure

    Raises
    ------
    FrameRejected
        Those of `Readout.from_row` and `fit_overscan`.
    """
    images = as_images(raw, row)
    readout = Readout.from_row(row, images, electronics)
    levels = tuple(
        fit_overscan(images[one.hdu], one, **(overscan or {})) for one in readout.amplifiers
    )
    pixels = _joined(images, readout)
    if readout.crosstalk:
        pixels = _without_crosstalk(pixels, levels, readout)
    return Exposure(pixels, levels, readout)


def _joined(images: Images, readout: Readout) -> NDArray[Any]:
    first = readout.amplifiers[0]
    if len(readout.amplifiers) == 1:
        return first.cut(images[first.hdu])
    kinds = {images[one.hdu].dtype for one in readout.amplifiers}
    out = np.empty(readout.shape, kinds.pop() if len(kinds) == 1 else np.float32)
    for one in readout.amplifiers:
        out[one.place.slices] = one.cut(images[one.hdu])
    return out


def read_order(amplifier: Amplifier, part: NDArray[Any]) -> NDArray[Any]:
    """Turn a part of the assembled frame so that its first pixel was read first, or back."""
    if amplifier.corner[0] == "u":
        part = part[::-1]
    return part[:, ::-1] if amplifier.corner[1] == "r" else part


def _without_crosstalk(
    pixels: NDArray[Any], levels: tuple[OverscanLevel, ...], readout: Readout
) -> NDArray[np.float32]:
    """Subtract from each amplifier the shares of the signals read at the same time.

    Pixels without a value give nothing. Those that are saturated give what was measured,
    which is less than they had: what is left of their crosstalk is not known.
    """
    shares = _unmixing(readout)
    signal = [
        read_order(one, (pixels[one.place.slices] - level.level).astype(np.float32))
        for one, level in zip(readout.amplifiers, levels, strict=True)
    ]
    for part in signal:
        part[~np.isfinite(part)] = 0.0
    out = pixels.astype(np.float32)
    for victim, one in enumerate(readout.amplifiers):
        view = read_order(one, out[one.place.slices])
        saturated = view >= one.saturation_adu
        kept = view[saturated]
        for source, other in enumerate(signal):
            share = shares[victim, source]
            if share == 0.0:
                continue
            ny, nx = min(view.shape[0], other.shape[0]), min(view.shape[1], other.shape[1])
            view[:ny, :nx] -= share * other[:ny, :nx]
        # saturation is judged on the raw value
        view[saturated] = kept
    return out


def _unmixing(readout: Readout) -> NDArray[np.float32]:
    """Shares of the measured signals to subtract, [victim, source].

    With the coefficients in a matrix C the measured signals are ``(1 + C)`` times the
    true ones; so ``1 - (1 + C)^-1`` of the measured ones is crosstalk. To first order
    that is C itself.
    """
    names = [one.name for one in readout.amplifiers]
    mixed = np.eye(len(names))
    for victim, sources in readout.crosstalk.items():
        for source, share in sources.items():
            if victim in names and source in names and victim != source:
                mixed[names.index(victim), names.index(source)] = share
    return np.asarray(np.eye(len(names)) - np.linalg.inv(mixed), np.float32)
