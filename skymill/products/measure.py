"""What the `calculate_*` methods measure on a frame: thin calls onto the steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.error_maps import Electronics, MasterTerms
from skymill.errors import ScienceFailure, SkymillError
from skymill.frame import Frame, MaskBit, Master
from skymill.products.maps import ProductMap, ProductMask
from skymill.sections import parse_place
from skymill.steps._calibration_masters import KINDS, Masters, cut_masters
from skymill.steps.background import background
from skymill.steps.source_mask import source_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.frame import Background

__all__ = ["as_mask", "as_plane", "electronics_of", "load_masters", "master_terms",
           "measured_sky", "source_pixels", "without"]  # fmt: skip


def as_mask(given: Any, shape: tuple[int, int], name: str) -> NDArray[np.bool_] | None:
    """Return a mask that was given as a product, an array or a file; None stays None.

    Raises
    ------
    SkymillError
        If it is of another size.
    """
    if given is None:
        return None
    if isinstance(given, ProductMask):
        plane: NDArray[Any] = given.data
    elif isinstance(given, (str, Path)):
        plane = io.read_flags(given)[0]
    else:
        plane = np.asarray(given)
    if plane.shape != shape:
        raise SkymillError(f"{name} has {plane.shape} px (y, x), the frame {shape}")
    return plane != 0


def as_plane(given: Any, shape: tuple[int, int], name: str) -> NDArray[Any] | None:
    """Return a plane that was given as a product, an array or a number; None stays None."""
    if given is None:
        return None
    plane = given.data if isinstance(given, ProductMap) else np.asarray(given)
    if plane.ndim and plane.shape != shape:
        raise SkymillError(f"{name} has {plane.shape} px (y, x), the frame {shape}")
    return plane


def without(frame: Frame, *masks: NDArray[np.bool_] | None) -> Frame:
    """Return the frame with further pixels disqualified; it is not changed itself."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return frame
    bits = frame.mask.copy()
    for mask in given:
        bits[mask] |= np.uint16(MaskBit.USER)
    return frame.replace(mask=bits)


def measured_sky(frame: Frame, **options: Any) -> Background:
    """Level and scatter of the sky of a frame; see `skymill.steps.background.background`."""
    try:
        return background(frame, **options).value
    except ScienceFailure as failure:
        raise SkymillError(f"the sky cannot be measured: {failure.message}") from None


def source_pixels(frame: Frame, sky: Background, **options: Any) -> NDArray[np.bool_]:
    """Where the light of sources is; see `skymill.steps.source_mask.source_mask`."""
    return source_mask(frame, sky, **options)


def electronics_of(header: fits.Header, shape: tuple[int, int]) -> Electronics:
    """Gain, read noise and overscan as the header of a calibrated frame tells them.

    Raises
    ------
    SkymillError
        If gain or read noise is missing.
    """
    if "AMP1" in header:
        return _several(header, shape)
    for key, what in (("GAIN", "gain"), ("RDNOISE", "read_noise")):
        if not isinstance(header.get(key), (int, float)):
            raise SkymillError(
                f"{what} is not known; open the image with {what}=... to propagate its errors"
            )
    # measured between frames of integers, a read noise holds the rounding
    rounding = "measured" not in header.comments["RDNOISE"]
    return Electronics(
        float(header["GAIN"]), float(header["RDNOISE"]), _overscan(header, "OVERR"), rounding
    )


def _overscan(header: fits.Header, key: str) -> float:
    return float(header.get(key) or 0.0) ** 2


def _several(header: fits.Header, shape: tuple[int, int]) -> Electronics:
    """Planes of the figures of each amplifier."""
    planes = {name: np.full(shape, np.nan) for name in ("gain", "noise", "level")}
    n = 1
    while f"AMP{n}" in header:
        place = parse_place(str(header[f"AMPSEC{n}"]), name=f"AMPSEC{n}")[0]
        planes["gain"][place.slices] = header[f"GAIN{n}"]
        planes["noise"][place.slices] = header[f"RDN{n}"]
        planes["level"][place.slices] = _overscan(header, f"OVERR{n}")
        n += 1
    rounding = "measured" not in header.comments["RDNOISE"]
    return Electronics(planes["gain"], planes["noise"], planes["level"], rounding)


def load_masters(
    given: Mapping[str, Any], applied: Mapping[str, Mapping[str, Any]], header: fits.Header,
    shape: tuple[int, int],
) -> tuple[Masters, list[str]]:  # fmt: skip
    """Return the masters of a frame: those given, else those that its header names.

    Parameters
    ----------
    given : mapping
        Kind to a `Master`, a file, or None for that of the header. Other kinds are left out.
    applied : mapping
        As `skymill.products.facts.DescribedFrame.masters`.
    header : astropy.io.fits.Header
        Of the frame.
    shape : tuple of int
        Shape (ny, nx) of the frame.

    Returns
    -------
    masters : Masters
        On the pixels of the frame.
    missing : list of str
        Names of masters that were applied and are not at hand.

    Raises
    ------
    SkymillError
        If a file is no master, does not fit, or is not the one that was applied.
    """
    found: dict[str, Master | None] = {}
    missing = []
    for kind in KINDS:
        one, told = given.get(kind), applied.get(kind) if kind in given else None
        if one is None and told is not None:
            one = told["path"]
            if one is None:
                missing.append(str(told["name"]))
        found[kind] = _master(kind, one)
    masters = Masters(**found)
    for kind, digest in masters.digests.items():
        wanted = (applied.get(kind) or {}).get("sha256")
        if given.get(kind) is None and wanted and wanted != digest:
            raise SkymillError(
                f"the master {kind} was made again since the frame was calibrated; run "
                f"`skymill run`, or give m{kind}=..."
            )
    try:
        return cut_masters(masters, {"area": header.get("CCDSEC", "")}, shape), missing
    except ScienceFailure as failure:
        raise SkymillError(failure.message) from None


def _master(kind: str, one: Any) -> Master | None:
    if one is None or isinstance(one, Master):
        return one
    try:
        return io.read_master(one)
    except (OSError, KeyError, ValueError) as error:
        raise SkymillError(
            f"{Path(one).name} is not a master {kind} of skymill (planes SCI, ERR, MASK and "
            f"NUSED): {error}"
        ) from None


def master_terms(masters: Masters, header: fits.Header, flat_err: Any = None) -> MasterTerms:
    """Return what masters add to the variance of a frame.

    Parameters
    ----------
    masters : Masters
        On the pixels of the frame.
    header : astropy.io.fits.Header
        Of the frame: DARKTAU, else EXPTIME.
    flat_err : ndarray or float, optional
        In place of the error of the flat.
    """
    bias, dark, flat = masters.bias, masters.dark, masters.flat
    tau, signal = 0.0, None
    if dark is not None:
        exposure = header.get("EXPTIME")
        if "DARKTAU" in header:
            tau = float(header["DARKTAU"])
        elif exposure is not None:
            tau = float(exposure) / float(dark.header["EXPTIME"])
        else:
            raise SkymillError("the exposure of the frame is not known, so its dark is not")
        signal = dark.sci if bias is None else dark.sci - bias.sci
    error = None if flat is None else flat.err
    return MasterTerms(
        tau=tau,
        bias_err=0.0 if bias is None else bias.err,
        dark_signal=0.0 if signal is None else signal,
        dark_err=0.0 if dark is None else dark.err,
        flat=1.0 if flat is None else flat.sci,
        flat_err=flat_err if flat_err is not None else 0.0 if error is None else error,
    )
