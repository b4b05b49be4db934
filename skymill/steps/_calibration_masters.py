"""Which masters a frame is calibrated with: what there is, what fits, what policy says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import FrameRejected
from skymill.sections import Section, parse_place
from skymill.steps.masters_common import amplifier_figure, permanent
from skymill.steps.masters_intake import check_master

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from skymill.frame import Master
    from skymill.readout import Amplifier, Readout

__all__ = [
    "KINDS",
    "Masters",
    "bias_levels",
    "cut_masters",
    "measured_noise",
    "missing",
    "usable_dark",
]

#: Kinds of masters, with the unit of their pixels.
KINDS = {"bias": "adu", "dark": "adu", "flat": ""}
#: Relative difference of exposures that still counts as equal.
SAME_EXPOSURE = 0.01

Flags = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Masters:
    """The masters of a frame; None where there is none.

    Parameters
    ----------
    bias, dark : Master or None
        In ADU; the dark holds the bias.
    flat : Master or None
        Without unit, median 1.
    """

    bias: Master | None = None
    dark: Master | None = None
    flat: Master | None = None

    def get(self, kind: str) -> Master | None:
        """Return the master of a kind."""
        found: Master | None = getattr(self, kind)
        return found

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the SCI plane of each master, as its bytes stand in a FITS file."""
        out = {}
        for kind in KINDS:
            master = self.get(kind)
            if master is not None:
                plane = master.sci.astype(">f4")
                out[kind] = hashlib.sha256(plane.tobytes()).hexdigest()
        return out

    @cached_property
    def inherited(self) -> NDArray[np.uint16] | None:
        """Bits that every frame inherits, shape (ny, nx); None without masters."""
        found = [m for m in (self.bias, self.dark, self.flat) if m is not None]
        if not found:
            return None
        plane = permanent(found[0], found[0].shape)
        for master in found[1:]:
            plane = plane | permanent(master, master.shape)
        return plane

    @cached_property
    def bias_level_adu(self) -> float:
        """Median of the bias (ADU), 0 without one."""
        return 0.0 if self.bias is None else _sparse_median(self.bias.sci)


def _sparse_median(plane: NDArray[Any]) -> float:
    """Median of a hundred thousand pixels; 0 if none has a value."""
    step = max(1, plane.size // 100_000) | 1
    sample = plane.ravel()[::step] if plane.flags.c_contiguous else plane.flat[::step]
    good = sample[np.isfinite(sample)]
    return float(np.median(good)) if good.size else 0.0


def cut_masters(masters: Masters, row: Mapping[str, Any], shape: tuple[int, int]) -> Masters:
    """Return the masters that the row wants, on the pixels of the frame.

    Parameters
    ----------
    masters : Masters
        Of the frame's own area, or of a larger one with the card CCDSEC.
    row : mapping
        Row of the sheet: ``use_bias``, ``use_dark``, ``use_flat`` (``none``: without),
        ``area``.
    shape : tuple of int
        Shape (ny, nx) of the assembled frame.

    Returns
    -------
    Masters
        The same object if all fit as they are.

    Raises
    ------
    FrameRejected
        ``WRONG_SIZE``.
    """
    cut: dict[str, Master | None] = {}
    for kind, unit in KINDS.items():
        master = masters.get(kind)
        if master is not None and str(row.get(f"use_{kind}") or "") == "none":
            master = None
        if master is not None:
            master = _window(master, kind, str(row.get("area") or ""), shape)
            check_master(master, kind, unit, shape)
        cut[kind] = master
    same = all(cut[kind] is masters.get(kind) for kind in KINDS)
    return masters if same else Masters(**cut)


def _window(master: Master, kind: str, area: str, shape: tuple[int, int]) -> Master:
    """Crop a master to the part of the detector that the frame covers."""
    whole = str(master.header.get("CCDSEC") or "")
    if not area or not whole or area.replace(" ", "") == whole.replace(" ", ""):
        return master
    wanted, given = (parse_place(text, name="area")[0] for text in (area, whole))
    if wanted.shape != shape or given.shape != master.shape:
        raise FrameRejected(
            "WRONG_SIZE",
            f"areas and sizes do not agree: the frame covers {area} with {shape} px (y, x), the "
            f"master {kind} {whole} with {master.shape}. Correct the rule `area` of the "
            "instrument file.",
        )
    if not _inside(wanted, given):
        raise FrameRejected(
            "WRONG_SIZE",
            f"the frame covers {area} of the detector, the master {kind} only {whole}. Take "
            f"{kind} frames of this window or of the whole detector.",
        )
    rows = slice(wanted.y0 - given.y0, wanted.y1 - given.y0)
    columns = slice(wanted.x0 - given.x0, wanted.x1 - given.x0)
    planes: dict[str, NDArray[Any]] = {"sci": master.sci, "err": master.err, "mask": master.mask}
    if master.nused is not None:
        planes["nused"] = master.nused
    parts = {name: plane[rows, columns].copy() for name, plane in planes.items()}
    for part in parts.values():
        part.flags.writeable = False
    return master.replace(**parts)


def _inside(part: Section, whole: Section) -> bool:
    return whole.x0 <= part.x0 <= part.x1 <= whole.x1 and whole.y0 <= part.y0 <= part.y1 <= whole.y1


def missing(kind: str, policy: str, row: Mapping[str, Any], flags: Flags) -> None:
    """Reject, flag or accept a frame without a master."""
    if str(row.get(f"use_{kind}") or "") == "none":
        return
    code = f"NO_{kind.upper()}"
    wanted = [str(row.get("instrument") or "this instrument"), f"night {row.get('night') or '?'}"]
    if row.get("binning"):
        wanted.append(f"binning {row['binning']}")
    if kind == "flat":
        wanted.append(f"filter {row.get('filter') or '?'}")
    if kind == "dark" and row.get("exptime_s") is not None:
        wanted.append(f"exposure {row['exptime_s']:g} s")
    what = f"no master {kind} for {', '.join(wanted)}"
    if policy == "require":
        raise FrameRejected(
            code,
            f"{what}. Take or add {kind} frames, or set calibrate.missing_{kind} to degrade.",
        )
    if policy == "degrade":
        flags.append((code, f"{what}; the frame was calibrated without it."))


def usable_dark(
    masters: Masters,
    row: Mapping[str, Any],
    flags: Flags,
    *,
    policy: str,
    scale_up: bool,
    tolerance_k: float,
) -> tuple[Master | None, float]:
    """Return the dark that can be used, and the exposure of the frame over that of the dark.

    Raises
    ------
    FrameRejected
        ``NO_DARK``, ``DARK_EXPOSURE``, ``DARK_TEMP``, by policy; ``MISSING_EXPTIME``.
    """
    dark = masters.dark
    if dark is None:
        if row.get("dark") not in ("optional", "not_needed"):
            missing("dark", policy, row, flags)
        return None, 0.0
    exposure, of_dark = row.get("exptime_s"), float(dark.header["EXPTIME"])
    if exposure is None or not 0 <= exposure < np.inf:
        raise FrameRejected(
            "MISSING_EXPTIME",
            f"the exposure time is {exposure}, but the dark has to be scaled by it. "
            "Set EXPTIME by an override.",
        )
    tau = float(exposure) / of_dark
    same = abs(tau - 1) <= SAME_EXPOSURE
    if masters.bias is None and not same:
        # The dark holds the bias: without knowing it, only the whole can be subtracted.
        text = f"the dark of {of_dark:g} s cannot be scaled to {exposure:g} s without a bias"
        _unusable("NO_DARK", text, "Add bias frames or darks of this exposure.", policy, flags)
        return None, 0.0
    if tau > 1 and not same:
        if not scale_up:
            text = f"the dark of {of_dark:g} s is shorter than the exposure of {exposure:g} s"
            advice = "Take darks at least as long, or set calibrate.dark_scale_up."
            _unusable("DARK_EXPOSURE", text, advice, policy, flags)
            return None, 0.0
        text = f"the dark of {of_dark:g} s was scaled up to {exposure:g} s, and its noise with it."
        flags.append(("DARK_SCALED_UP", text))
    _check_temperature(dark, row, flags, policy, tolerance_k)
    return dark, 1.0 if same else tau


def _unusable(code: str, text: str, advice: str, policy: str, flags: Flags) -> None:
    if policy == "require":
        raise FrameRejected(code, f"{text}. {advice}")
    if policy == "degrade":
        flags.append((code, f"{text}; the frame was calibrated without a dark."))


def _check_temperature(
    dark: Master, row: Mapping[str, Any], flags: Flags, policy: str, tolerance_k: float
) -> None:
    """A dark of another temperature leaves hot pixels and a wrong level."""
    own, of_dark = row.get("temperature_c"), dark.header.get("CCD-TEMP")
    if own is None or of_dark is None or abs(float(own) - float(of_dark)) <= tolerance_k:
        return
    text = f"the dark was taken at {float(of_dark):g} C, the frame at {float(own):g} C"
    if policy == "require":
        raise FrameRejected(
            "DARK_TEMP", f"{text}; the tolerance is {tolerance_k:g} K. Take darks at {own:g} C."
        )
    if policy == "degrade":
        flags.append(("DARK_TEMP", f"{text}; it was used nevertheless."))


def bias_levels(masters: Masters, readout: Readout) -> list[float]:
    """Return the level below which an amplifier of a frame has no charge (ADU).

    Parameters
    ----------
    masters : Masters
        Those that are applied.
    readout : Readout
        Amplifiers of the frame.

    Returns
    -------
    list of float
        By amplifier: median of the bias. Without a bias that of the dark less its charge,
        if no overscan was subtracted: the pixels then hold the bias, which must not count
        as photons. Else 0.
    """
    dark = masters.dark
    if masters.bias is not None or dark is None:
        return [masters.bias_level_adu] * len(readout.amplifiers)
    return [
        0.0 if one.overscans else max(_sparse_median(dark.sci[one.place.slices]) - charge, 0.0)
        for one in readout.amplifiers
        for charge in (_charge_by_noise(dark, one),)
    ]


def _charge_by_noise(dark: Master, one: Amplifier) -> float:
    """Typical charge of a dark (ADU) as its noise beyond the read noise tells it."""
    if dark.nused is None:
        return 0.0
    at = one.place.slices
    single = _sparse_median(dark.err[at] ** 2 * dark.nused[at])
    if dark.header.get("COMBINE") == "median":
        single /= 1.5  # the median of several frames is so much noisier than their mean
    return max(single - one.dark_variance_adu2, 0.0) * one.gain_e_adu


def measured_noise(
    masters: Masters, amp: int, count: int
) -> tuple[float | None, float | None, float | None]:
    """Return what the masters measured of an amplifier.

    Parameters
    ----------
    masters : Masters
        With the cards that the master steps write.
    amp, count : int
        Number of the amplifier, from 0, and how many there are.

    Returns
    -------
    gain, gain_err : float or None
        Electron/ADU.
    read_noise_adu : float or None
        Scatter of a pixel between bias frames (ADU); it holds the rounding.
    """
    gain = error = noise = None
    if masters.flat is not None:
        gain = amplifier_figure(masters.flat.header, "GAINMEAS", amp, count)
        error = amplifier_figure(masters.flat.header, "GAINERR", amp, count)
    if masters.bias is not None:
        noise = amplifier_figure(masters.bias.header, "RNADU", amp, count)
    return gain, error, noise
