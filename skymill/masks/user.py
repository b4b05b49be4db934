"""Masks that the user gives: FITS masks and region files for some or all frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.errors import ConfigError, SkymillError
from skymill.masks.peers import convention_of, import_plane
from skymill.masks.regions import draw_regions, parse_regions
from skymill.masks.sets import parse_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Frame

__all__ = ["apply_user_masks"]

_KEYS = {"file", "frames", "bits", "hdu"}


def apply_user_masks(
    frame: Frame, specs: Sequence[Mapping[str, Any]], root: str | Path
) -> NDArray[np.uint16]:
    """Return the bits that the user's masks set in a frame.

    Parameters
    ----------
    frame : Frame
        Its shape, WCS and header place the masks; its FRAMEID decides which apply.
    specs : sequence of mapping
        Each with ``file``: a FITS mask or a DS9 region file (``.reg``), relative to
        ``root``; ``frames``: a pattern for frame ids or a list of such, default ``*``;
        ``bits``: names of bits joined by ``|``, the name of a convention (see
        `import_plane`), or a mapping from bit values to names; default: what the header
        of the mask tells, else USER; ``hdu``: number or name of the extension.
    root : str or Path
        Folder of the project.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
        Bits to add.

    Raises
    ------
    ConfigError
        If a file is missing, cannot be understood or does not fit the frame.
    """
    out = np.zeros(frame.shape, np.uint16)
    name = str(frame.header.get("FRAMEID", ""))
    for spec in specs:
        unknown = sorted(set(spec) - _KEYS)
        if unknown or "file" not in spec:
            raise ConfigError(
                f"user mask {dict(spec)}: unknown {unknown}"
                if unknown
                else f"user mask {dict(spec)}: `file` is missing"
            )
        patterns = spec.get("frames") or "*"
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            out |= _one(frame, spec, Path(root) / str(spec["file"]))
    return out


def _one(frame: Frame, spec: Mapping[str, Any], path: Path) -> NDArray[np.uint16]:
    if not path.is_file():
        raise ConfigError(f"user mask {spec['file']} does not exist (settings: mask.user_masks)")
    bits = spec.get("bits")
    try:
        if path.suffix == ".reg":
            text = path.read_text(encoding="utf-8")
            inside = draw_regions(
                parse_regions(text, path.name), frame.shape, frame.wcs, frame.header
            )
            if isinstance(bits, Mapping):
                raise SkymillError("regions have no bit values; give names of bits")
            return np.where(inside, np.uint16(parse_bits(bits or "USER")), np.uint16(0))
        plane, header = io.read_mask_plane(path, spec.get("hdu"))
        if plane.shape != frame.shape:
            raise SkymillError(
                f"is {plane.shape[1]} x {plane.shape[0]} px, the frame "
                f"{frame.shape[1]} x {frame.shape[0]} px after trimming"
            )
        return import_plane(plane, bits or convention_of(header), header)
    except (SkymillError, UnicodeDecodeError) as error:
        raise ConfigError(f"user mask {spec['file']}: {error}") from None
