"""Mask planes of other pipelines, by a map that is data (``peers.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError
from skymill.frame import MaskBit
from skymill.masks.sets import parse_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Header = Mapping[str, Any]

__all__ = ["CONVENTIONS", "convention_of", "import_plane"]

#: Known conventions; ``skymill`` is our own plane.
CONVENTIONS = (
    "autowisp",
    "boolean",
    "decam",
    "decam_bits",
    "des",
    "iraf",
    "jwst",
    "lsst",
    "skymill",
)


@cache
def _conventions() -> dict[str, Any]:
    import yaml

    text = resources.files("skymill.masks").joinpath("peers.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def convention_of(header: Header) -> str:
    """Tell from its header which pipeline wrote a mask plane; ``boolean`` if nothing tells."""
    if "MBIT00" in header:
        return "skymill"
    if any(str(key).startswith("MP_") for key in header):
        return "lsst"
    return "boolean"


def import_plane(
    plane: NDArray[Any],
    convention: str | Mapping[Any, str | None],
    header: Header | None = None,
) -> NDArray[np.uint16]:
    """Translate the mask plane of another pipeline.

    Parameters
    ----------
    plane : ndarray of bool or integer, shape (ny, nx)
        Also whole numbers stored as floating point.
    convention : str or mapping
        One of `CONVENTIONS`; or names of our bits, joined by ``|``, for every pixel that
        is not zero; or a mapping from bit values to such names, None for bits that mean
        nothing bad.
    header : mapping, optional
        Header of the plane; ``lsst`` needs its MP_ cards.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
        Bits of `MaskBit`.

    Raises
    ------
    SkymillError
        If a pixel has a bit or number that the convention does not name: nothing is
        dropped silently.

    Examples
    --------
    >>> import_plane(np.array([[0, 3, 5]]), "decam").tolist()
    [[0, 4, 512]]
    """
    values = _whole(plane)
    if isinstance(convention, Mapping):
        return _translated(values, {int(k): v for k, v in convention.items()}, "the given map")
    if convention not in CONVENTIONS:
        return np.where(values != 0, np.uint16(parse_bits(convention)), np.uint16(0))
    if convention == "skymill":
        return _own(values, header)
    rule = _conventions()[convention]
    if rule["kind"] == "nonzero":
        return np.where(values != 0, np.uint16(parse_bits(rule["to"])), np.uint16(0))
    if rule["kind"] == "codes":
        return _decoded(values, rule["to"], convention)
    to = rule["to"]
    if rule["kind"] == "cards":
        to = _from_cards(values, header or {}, rule["prefix"], to, convention)
    return _translated(values, to, convention)


def _whole(plane: NDArray[Any]) -> NDArray[np.uint64]:
    """The plane as unsigned integers; negative ones keep their bits."""
    values = np.asarray(plane)
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise SkymillError("a mask plane must hold whole numbers; this one is an image")
    elif values.dtype.kind not in "biu":
        raise SkymillError(f"a mask plane must hold numbers, got {values.dtype}")
    if values.dtype.kind == "i":
        # signed integers of the same width hold the highest bit as a sign
        return values.astype(f"u{values.dtype.itemsize}").astype(np.uint64)
    if values.dtype.kind == "f" and (values < 0).any():
        raise SkymillError("a mask plane must not be negative")
    return values.astype(np.uint64)


def _translated(
    values: NDArray[np.uint64], to: Mapping[int, str | None], name: str
) -> NDArray[np.uint16]:
    out = np.zeros(values.shape, np.uint16)
    known = 0
    for value, bits in to.items():
        if value <= 0 or value & (value - 1):
            raise SkymillError(f"{name}: {value} is not one bit (1, 2, 4, ...)")
        known |= value
        if bits is not None:
            out[(values & np.uint64(value)) != 0] |= np.uint16(parse_bits(bits))
    rest = values & ~np.uint64(known)
    if rest.any():
        extra = int(np.bitwise_or.reduce(rest, axis=None))
        raise SkymillError(
            f"{name}: {int((rest != 0).sum())} pixels have bits that it does not name "
            f"({extra}); give a map of the bits"
        )
    return out


def _decoded(
    values: NDArray[np.uint64], to: Mapping[int, str | None], name: str
) -> NDArray[np.uint16]:
    found, where = np.unique(values, return_inverse=True)
    table = np.zeros(found.size, np.uint16)
    for index, code in enumerate(found.tolist()):
        if code == 0:
            continue
        if code not in to:
            raise SkymillError(f"{name}: the number {code} has no meaning; give a map of the bits")
        bits = to[code]
        table[index] = 0 if bits is None else int(parse_bits(bits))
    return np.asarray(table[where.reshape(values.shape)])


def _from_cards(
    values: NDArray[np.uint64], header: Header, prefix: str, to: Mapping[str, str | None], name: str
) -> dict[int, str | None]:
    """Bit values to bits, from cards that name the number of each bit."""
    out: dict[int, str | None] = {}
    for key in header:
        if not str(key).startswith(prefix):
            continue
        plane, value = str(key)[len(prefix) :], 1 << int(header[key])
        if plane in to:
            out[value] = to[plane]
        elif (values & np.uint64(value)).any():
            raise SkymillError(f"{name}: the plane {plane} is not known; give a map of the bits")
        else:
            out[value] = None
    if not out:
        raise SkymillError(f"{name}: the header has no {prefix} cards that name the bits")
    return out


def _own(values: NDArray[np.uint64], header: Header | None) -> NDArray[np.uint16]:
    """Our own plane; the legend in its header must be that of this version."""
    for bit in MaskBit if header is not None else ():
        key = f"MBIT{int(bit).bit_length() - 1:02d}"
        if header is not None and str(header.get(key, bit.name)).strip() != bit.name:
            raise SkymillError(f"the mask says {key} = {header.get(key)}, expected {bit.name}")
    if (values > 0xFFFF).any():
        raise SkymillError("a mask of skymill has 16 bits; this plane has more")
    return values.astype(np.uint16)
