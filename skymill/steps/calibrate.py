"""From raw ADU to electrons, with the error of each pixel and the first mask.

``E = g (R - O - (1 - tau) B - tau d) / F``
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.errors import FrameRejected, Result
from skymill.frame import Frame, MaskBit, Master, has_bits
from skymill.kernels.calibrate import calibrate_pixels
from skymill.readout import OverscanLevel, Readout, fit_overscan
from skymill.steps.masters_common import permanent
from skymill.steps.masters_intake import check_master

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Masters", "calibrate"]

#: Relative difference of exposures that still counts as equal.
SAME_EXPOSURE = 0.01
#: Drift of the overscan along the rows, in units of its noise, that one level per frame
#: cannot follow.
DRIFT_SIGMA = 4.0
#: Pixels that medians for the outcome are made of.
SAMPLE = 100_000

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


def calibrate(
    raw: NDArray[Any],
    row: Mapping[str, Any],
    masters: Masters,
    *,
    header: fits.Header | None = None,
    overscan: Mapping[str, Any] | None = None,
    missing_bias: str = "require",
    missing_dark: str = "degrade",
    missing_flat: str = "require",
    nonlinear_fraction: float = 1.0,
) -> Result[Frame]:
    """Calibrate one raw frame.

    Parameters
    ----------
    raw : ndarray of uint16 or float32, shape (ny, nx)
        Raw image, overscan included (ADU). Not modified.
    row : mapping
        Its row of the sheet: sections, gain, read noise, saturation, exposure.
    masters : Masters
        Masters, trimmed alike.
    header : astropy.io.fits.Header, optional
        Cards to start from. Not modified.
    overscan : mapping, optional
        Settings of `skymill.readout.fit_overscan`.
    missing_bias, missing_dark, missing_flat : str
        Without the master: ``require`` rejects the frame, ``degrade`` goes on and says
        so, ``skip`` goes on silently. A missing dark only matters where the sheet says
        that darks are needed (or says nothing).
    nonlinear_fraction : float
        Raw values above this fraction of saturation get NONLINEAR.

    Returns
    -------
    Result of Frame
        Electron, float32. ``err`` is the total error: photons, read noise, overscan,
        and the masters, whose part is common to all frames that use them. Saturation is
        judged on the raw value. Where the flat is not positive: NaN, LOW_FLAT, NO_DATA.

        Flags: ``NO_BIAS``, ``NO_DARK``, ``NO_FLAT``, ``DARK_SCALED_UP``, ``BIAS_JUMP``,
        ``SATURATION_GUESSED``.

    Raises
    ------
    FrameRejected
        ``NO_BIAS``, ``NO_DARK``, ``NO_FLAT``, ``WRONG_SIZE``, ``MISSING_EXPTIME``,
        ``ALL_NAN``, ``CONSTANT``, ``ALL_MASKED``, and those of `Readout.from_row`.
    """
    readout = Readout.from_row(row, raw)
    image = readout.trim(raw)
    _check_pixels(image)
    level = fit_overscan(raw, readout, **(overscan or {}))
    flags: Flags = []
    for master, kind, unit in (
        (masters.bias, "bias", "adu"),
        (masters.dark, "dark", "adu"),
        (masters.flat, "flat", ""),
    ):
        check_master(master, kind, unit, readout.image.shape)
    bias, flat = masters.bias, masters.flat
    if bias is None:
        _missing("bias", missing_bias, row, flags)
    dark, tau = _usable_dark(masters, row, missing_dark, flags)
    if flat is None:
        _missing("flat", missing_flat, row, flags)
    if not readout.saturation_known and np.isfinite(readout.saturation_adu):
        text = f"the saturation level is not known; {readout.saturation_adu:.0f} ADU is assumed."
        flags.append(("SATURATION_GUESSED", text))
    _check_drift(level, flags)
    inherited = np.zeros(readout.image.shape, np.uint16)
    for master in (bias, dark, flat):
        inherited |= permanent(master, readout.image.shape)
    sci, err, mask = calibrate_pixels(
        image, level.level, level.variance,
        gain=readout.gain_e_adu, quiet_variance=readout.dark_variance_adu2,
        saturation=readout.saturation_adu,
        linear_max=min(readout.linear_max_adu, nonlinear_fraction * readout.saturation_adu),
        tau=tau, bias=_pair(bias), dark=_pair(dark), flat=_pair(flat), inherited=inherited,
        bits=(
            int(MaskBit.NO_DATA), int(MaskBit.SATURATED),
            int(MaskBit.NONLINEAR), int(MaskBit.LOW_FLAT),
        ),
    )  # fmt: skip
    numbers = _numbers(sci, err, mask, level, None if dark is None else tau)
    cards = _cards(header, readout, level, Masters(bias, dark, flat), tau)
    frame = Frame(sci, err, mask, cards, unit="electron")
    return Result(frame, tuple(flags), numbers)


def _check_pixels(image: NDArray[Any]) -> None:
    """Refuse an image without information."""
    sample = image[:: max(1, image.shape[0] // 64)]
    finite = np.isfinite(sample) if sample.dtype.kind == "f" else np.ones(sample.shape, bool)
    if not finite.any() and not np.isfinite(image).any():
        raise FrameRejected("ALL_NAN", "no pixel of the image has a value.")
    values = sample[finite]
    if values.size and (values == values[0]).all() and (image == values[0]).all():
        raise FrameRejected("CONSTANT", f"all pixels of the image are {values[0]} ADU.")


def _missing(kind: str, policy: str, row: Mapping[str, Any], flags: Flags) -> None:
    """Reject, flag or accept a frame without a master."""
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


def _usable_dark(
    masters: Masters, row: Mapping[str, Any], policy: str, flags: Flags
) -> tuple[Master | None, float]:
    """The dark that can be used, and the exposure of the frame relative to it."""
    dark = masters.dark
    if dark is None:
        if row.get("dark") not in ("optional", "not_needed"):
            _missing("dark", policy, row, flags)
        return None, 0.0
    exposure, of_dark = row.get("exptime_s"), float(dark.header["EXPTIME"])
    if exposure is None or not 0 <= exposure < np.inf:
        raise FrameRejected(
            "MISSING_EXPTIME",
            f"the exposure time is {exposure}, but the dark has to be scaled by it. "
            "Set EXPTIME by an override.",
        )
    tau = float(exposure) / of_dark
    if abs(tau - 1) <= SAME_EXPOSURE:
        return dark, 1.0
    if masters.bias is None:
        # The dark holds the bias: without knowing it, only the whole can be subtracted.
        text = f"the dark of {of_dark:g} s cannot be scaled to {exposure:g} s without a bias"
        if policy == "require":
            raise FrameRejected("NO_DARK", f"{text}. Add bias frames or darks of this exposure.")
        if policy == "degrade":
            flags.append(("NO_DARK", f"{text}; the frame was calibrated without a dark."))
        return None, 0.0
    if tau > 1:
        text = f"the dark of {of_dark:g} s was scaled up to {exposure:g} s, and its noise with it."
        flags.append(("DARK_SCALED_UP", text))
    return dark, tau


def _check_drift(level: OverscanLevel, flags: Flags) -> None:
    drift, noise = level.drift_adu, level.noise_adu
    if not level.method.endswith("frame") or not drift > DRIFT_SIGMA * max(noise, 1):
        return
    text = (
        f"the overscan changes by {drift:.1f} ADU along the rows (its noise is {noise:.1f} ADU), "
        "but one level was used. Set calibrate.overscan.fit to polynomial or row."
    )
    flags.append(("BIAS_JUMP", text))


def _pair(master: Master | None) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    return None if master is None else (master.sci, master.err)


def _numbers(
    sci: NDArray[np.float32], err: NDArray[np.float32], mask: NDArray[np.uint16],
    level: OverscanLevel, tau: float | None,
) -> dict[str, Any]:  # fmt: skip
    bad = has_bits(mask, MaskBit.bad())
    n_masked = int(np.count_nonzero(bad))
    if n_masked == mask.size:
        raise FrameRejected("ALL_MASKED", "no good pixel is left after calibration.")
    step = max(1, mask.size // SAMPLE)
    good = ~bad.ravel()[::step]
    if not good.any():
        step, good = 1, ~bad.ravel()
    has_overscan = level.method != "none"
    return {
        "overscan_adu": level.mean_adu if has_overscan else None,
        "overscan_noise_adu": level.noise_adu if has_overscan else None,
        "tau": tau,
        "n_saturated": int(np.count_nonzero(mask & np.uint16(MaskBit.SATURATED))),
        "n_masked": n_masked,
        "median_e": float(np.median(sci.ravel()[::step][good])),
        "median_err_e": float(np.median(err.ravel()[::step][good])),
    }


def _cards(
    header: fits.Header | None, readout: Readout, level: OverscanLevel, masters: Masters, tau: float
) -> fits.Header:
    """The caller's cards and what was done."""
    cards = fits.Header() if header is None else header.copy()
    cards["BUNIT"] = ("electron", "unit of the pixels")
    cards["GAIN"] = (readout.gain_e_adu, "[electron/adu] gain that was applied")
    cards["RDNOISE"] = (readout.read_noise_e, "[electron] read noise")
    if np.isfinite(readout.saturation_adu):
        top = (readout.saturation_adu - level.mean_adu) * readout.gain_e_adu
        cards["SATURATE"] = (top, "[electron] saturation, above the overscan")
        cards["SATADU"] = (readout.saturation_adu, "[adu] saturation of the raw values")
    cards["OVSCAN"] = (level.method, "overscan: statistic and fit")
    if level.method != "none":
        cards["OVLEVEL"] = (level.mean_adu, "[adu] overscan level")
        cards["OVNOISE"] = (level.noise_adu, "[adu] scatter of overscan pixels")
    cards["TRIMSEC"] = (str(readout.image), "section of the raw image")
    for card, master in (
        ("BIASID", masters.bias),
        ("DARKID", masters.dark),
        ("FLATID", masters.flat),
    ):
        name = "" if master is None else master.header.get("MASTERID", "unnamed")
        cards[card] = (name, "master that was applied")
    if masters.dark is not None:
        cards["DARKTAU"] = (tau, "exposure over that of the dark")
    return cards
