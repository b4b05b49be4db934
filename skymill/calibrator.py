"""Calibrating single files from Python: an object that holds the parameters.

>>> import skymill
>>> calibrator = skymill.Calibrator(
...     overscans=[{"xmin": 0, "xmax": 4096, "ymin": 0, "ymax": 20}],
...     image_area={"xmin": 0, "xmax": 4096, "ymin": 20, "ymax": 4116},
...     gain=16.0,
...     read_noise=5.0,
... )
>>> calibrator.gain
16.0

Called with a raw file it writes the calibrated one; see `Calibrator`.
"""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io, provenance
from skymill.calibrator_files import (
    OutputError,
    as_user_bits,
    flat_planes,
    output_file,
    raw_row,
)
from skymill.calibrator_parameters import (
    AreaError,
    GainError,
    MasterError,
    ParameterError,
    Parameters,
)
from skymill.errors import Result
from skymill.frame import MaskBit, Master
from skymill.header_wcs import frame_wcs
from skymill.headers import clean_header
from skymill.steps.calibrate import Masters, calibrate, refuse_calibrated

if TYPE_CHECKING:
    from astropy.io import fits

    from skymill.frame import Frame

__all__ = [
    "AreaError",
    "Calibrator",
    "GainError",
    "MasterError",
    "OutputError",
    "ParameterError",
]


class Calibrator:
    """Calibrate raw files one at a time.

    Parameters are given at construction, replaced as attributes, or replaced for one
    call by keyword. `skymill.calibrator_parameters.Parameters` lists them all.

    Parameters
    ----------
    **parameters
        For example ``overscans``, ``overscan_method``, ``image_area``, ``gain``,
        ``master_bias``, ``master_dark``, ``master_flat``, ``masks``.

    Raises
    ------
    ParameterError
        If there is no such parameter or a value cannot be meant; `AreaError`,
        `GainError` and `MasterError` are kinds of it, and all are ValueErrors.
    """

    _parameters: Parameters

    def __init__(self, **parameters: Any) -> None:
        object.__setattr__(self, "_masters", {})
        object.__setattr__(self, "_parameters", _changed(Parameters(), parameters))

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return getattr(self._parameters, name)
        raise AttributeError(f"a Calibrator has no {name!r}{_meant(name)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _NAMES:
            raise AttributeError(f"a Calibrator has no {name!r}{_meant(name)}")
        object.__setattr__(self, "_parameters", _changed(self._parameters, {name: value}))

    def __repr__(self) -> str:
        said = (f"{key}={value!r}" for key, value in self._parameters.told().items())
        return f"Calibrator({', '.join(said)})"

    def set_masters(
        self, bias: Any = None, dark: Any = None, flat: Any = None, masks: Any = None
    ) -> None:
        """Set all masters and masks at once; those left out are not applied.

        Parameters
        ----------
        bias, dark, flat : str, Path or Master, optional
            Files of master frames, or master frames.
        masks : str, Path or sequence of them, optional
            Mask files. The flags of every one of them reach the output.
        """
        changes = {"master_bias": bias, "master_dark": dark, "master_flat": flat}
        new = _changed(self._parameters, changes | {"masks": masks or ()})
        object.__setattr__(self, "_parameters", new)

    def __call__(self, raw: str | Path, calibrated: str | Path, **overrides: Any) -> Result[Path]:
        """Calibrate one file.

        Parameters
        ----------
        raw : str or Path
            Raw FITS file.
        calibrated : str or Path
            File to write. Names in braces stand for header values, made safe for file
            names: ``"out/{RAWFNAME}_{FILTER}.fits"``; RAWFNAME is the name of the raw file
            without its suffix, FRAMEID that with a digest.
        **overrides
            Parameters for this call only.

        Returns
        -------
        Result of Path
            The file that was written, flags, and figures of the frame.

        Raises
        ------
        ParameterError
            For a parameter that cannot be meant.
        OutputError
            If the output name needs a header value that is missing, or is the raw file.
        FrameRejected
            If the frame or a master does not fit: see `skymill.steps.calibrate.calibrate`.
        """
        used = _changed(self._parameters, overrides)
        raw = Path(raw)
        row, images, header, digest = raw_row(raw, used)
        target = output_file(calibrated, raw, row, header)
        refuse_calibrated(header)
        masters = self._load(used)
        told = used.told()
        cards = clean_header(header)
        cards["FRAMEID"] = (row["frame_id"], "name of this frame")
        cards["RAWFNAME"] = (raw.name.encode("ascii", "replace").decode()[:68], "")
        if row["exptime_s"] is not None:
            cards["EXPTIME"] = (row["exptime_s"], "[s] exposure time")
        for key, value in told.items():
            cards.add_history(f"Calibrator {key} = {value}".encode("ascii", "replace").decode())
        result = calibrate(images, row, masters, header=cards, **used.options())
        frame = self._with_masks(result.value, used)
        frame = frame.replace(wcs=frame_wcs(header, row).wcs)
        inputs = {raw.name: digest} | {
            str(masters.get(kind).header.get("MASTERID", kind)): value  # type: ignore[union-attr]
            for kind, value in masters.digests.items()
        }
        origin = provenance.cards(
            "calibrate", code=provenance.fingerprint(__file__), settings=told, inputs=inputs
        )
        _write(target, frame, origin, used)
        return Result(target, result.flags, result.numbers)

    def _load(self, used: Parameters) -> Masters:
        """Read the master files that were not read before; the last set is kept."""
        given = {kind: getattr(used, f"master_{kind}") for kind in ("bias", "dark", "flat")}
        key = tuple(_state(value) for value in given.values())
        cache: dict[Any, Masters] = self._masters
        if key not in cache:
            found = Masters(**{kind: _master(kind, value) for kind, value in given.items()})
            cache.clear()
            cache[key] = found
        return cache[key]

    @staticmethod
    def _with_masks(frame: Frame, used: Parameters) -> Frame:
        if not used.masks:
            return frame
        mask = frame.mask.copy()
        for path in used.masks:
            mask |= as_user_bits(*io.read_flags(path), frame.shape, Path(path).name, used)
        gone = (mask & np.uint16(MaskBit.NO_DATA)) != 0
        sci, err = (np.where(gone, np.float32(np.nan), plane) for plane in (frame.sci, frame.err))
        return frame.replace(sci=sci, err=err, mask=mask)


_NAMES = tuple(field.name for field in fields(Parameters))


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, _NAMES, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(_NAMES)}"


def _changed(old: Parameters, changes: dict[str, Any]) -> Parameters:
    for name in changes:
        if name not in _NAMES:
            raise ParameterError(f"a Calibrator has no parameter {name!r}{_meant(name)}")
    return replace(old, **changes)


def _state(value: Any) -> Any:
    """What tells whether a master file is still the one that was read."""
    if value is None or isinstance(value, Master):
        return id(value)
    try:
        seen = Path(value).stat()
    except OSError:
        raise MasterError(f"the master {value} does not exist") from None
    return str(value), seen.st_mtime_ns, seen.st_size


def _master(kind: str, value: Any) -> Master | None:
    if value is None or isinstance(value, Master):
        return value
    path = Path(value)
    try:
        master = io.read_master(path)
    except (OSError, KeyError, ValueError) as error:
        raise MasterError(
            f"{path.name} is not a master {kind} of skymill (planes SCI, ERR, MASK and NUSED): "
            f"{error}"
        ) from None
    if kind == "dark" and "EXPTIME" not in master.header:
        raise MasterError(f"the master dark {path.name} has no card EXPTIME")
    if "MASTERID" in master.header:
        return master
    header: fits.Header = master.header.copy()
    header["MASTERID"] = (path.stem[:68], "name of this master")
    return master.replace(header=header)


def _write(target: Path, frame: Frame, origin: dict[str, Any], used: Parameters) -> None:
    if used.layout == "flat":
        io.check_planes(target, frame)
        io.write_flat_layout(target, flat_planes(frame), frame.header, frame.wcs, origin)
        return
    io.write_frame(target, frame, origin, compression=used.compression, quantise_q=used.quantise_q)
