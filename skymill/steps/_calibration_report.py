"""What is said of a calibrated frame: its header cards and its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import FrameRejected
from skymill.frame import MaskBit
from skymill.kernels.bits import count_bits, sample_quantiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.overscan import OverscanLevel
    from skymill.readout import Amplifier, Readout
    from skymill.steps._calibration_masters import Masters

__all__ = ["electronics_cards", "frame_numbers", "master_cards", "saturation_e"]

#: Pixels that quantiles for the outcome are made of.
SAMPLE = 100_000
#: Quantiles of the good pixels that the outcome tells.
QUANTILES = {"q10_e": 0.1, "median_e": 0.5, "q90_e": 0.9, "q999_e": 0.999}


def frame_numbers(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16],
    levels: Sequence[OverscanLevel],
    tau: float | None,
) -> dict[str, Any]:
    """Return the figures of a calibrated frame.

    Raises
    ------
    FrameRejected
        ``ALL_MASKED``.
    """
    bad, full = (np.uint16(int(bits)) for bits in (MaskBit.bad(), MaskBit.SATURATED))
    n_masked, n_saturated = (int(count_bits(mask, bits)) for bits in (bad, full))
    if n_masked == mask.size:
        raise FrameRejected("ALL_MASKED", "no good pixel is left after calibration.")
    step = max(1, mask.size // SAMPLE)
    while step > 1 and mask.shape[1] % step == 0:
        step += 1  # else all of the sample would come from a few columns
    planes = (np.ascontiguousarray(plane).ravel() for plane in (sci, err, mask))
    values, typical = sample_quantiles(*planes, bad, step, np.array(list(QUANTILES.values())))
    measured = [level for level in levels if level.method != "none"]
    return {
        "overscan_adu": float(np.mean([v.mean_adu for v in measured])) if measured else None,
        "overscan_noise_adu": _rms([v.noise_adu for v in measured]) if measured else None,
        "tau": tau,
        "n_saturated": n_saturated,
        "n_masked": n_masked,
        **{name: float(value) for name, value in zip(QUANTILES, values, strict=True)},
        "median_err_e": float(typical),
    }


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def saturation_e(amplifier: Amplifier, level: OverscanLevel, bias_adu: float) -> float:
    """Return the signal of a calibrated frame at which an amplifier saturates (electron).

    Overscan and bias are taken off and the rest is linearised, as for the pixels; dark
    and flat differ from pixel to pixel and are left out. Infinite if not known.
    """
    signal = amplifier.saturation_adu - level.mean_adu - bias_adu
    if amplifier.linearity is not None and np.isfinite(signal):
        signal = float(amplifier.linearity(np.array(signal)))
    return float(signal * amplifier.gain_e_adu)


def electronics_cards(
    readout: Readout,
    levels: Sequence[OverscanLevel],
    *,
    bias_adu: Sequence[float],
    sources: tuple[str, str],
) -> dict[str, tuple[Any, str]]:
    """Return header cards that tell what was done about the electronics.

    Parameters
    ----------
    readout : Readout
        With the gain and the read noise that were used.
    levels : sequence of OverscanLevel
        One per amplifier.
    bias_adu : sequence of float
        Level of the bias in the pixels, by amplifier (ADU).
    sources : tuple of str
        Where gain and read noise come from: ``declared`` or ``measured``.
    """
    several = len(readout.amplifiers) > 1
    cards: dict[str, tuple[Any, str]] = {}
    cards["BUNIT"] = ("electron", "unit of the pixels")
    cards["GAIN"] = (readout.gain_e_adu, f"[electron/adu] gain applied, {sources[0]}")
    cards["RDNOISE"] = (readout.read_noise_e, f"[electron] read noise, {sources[1]}")
    full = [
        saturation_e(one, level, below)
        for one, level, below in zip(readout.amplifiers, levels, bias_adu, strict=True)
    ]
    if np.isfinite(min(full)):
        cards["SATURATE"] = (min(full), "[electron] saturation of these pixels")
        lowest = min(one.saturation_adu for one in readout.amplifiers)
        cards["SATADU"] = (lowest, "[adu] saturation of the raw values")
    for n, (one, level) in enumerate(zip(readout.amplifiers, levels, strict=True), 1):
        for keyword, value, comment in level.cards:
            # astropy warns where a comment does not fit behind a text
            room = 65 - len(value) if isinstance(value, str) else 47
            cards[f"{keyword}{n}" if several else keyword] = (value, comment[: max(0, room)])
        if several:
            cards[f"AMP{n}"] = (one.name, f"name of amplifier {n}")
            cards[f"AMPSEC{n}"] = (str(one.place), "its place on this frame")
            cards[f"GAIN{n}"] = (one.gain_e_adu, "[electron/adu] its gain")
            cards[f"RDN{n}"] = (one.read_noise_e, "[electron] its read noise")
            cards[f"SATE{n}"] = (full[n - 1], "[electron] its saturation")
    if not several:
        cards["TRIMSEC"] = (str(readout.amplifiers[0].data), "section of the raw image")
    cards["LINEAR"] = (readout.linear, "True: taken for linear; False: was linearised")
    cards["CROSSTLK"] = (_crosstalk(readout), "crosstalk was subtracted")
    return cards


def _crosstalk(readout: Readout) -> bool:
    names = {one.name for one in readout.amplifiers}
    return any(
        victim in names and names & set(sources) for victim, sources in readout.crosstalk.items()
    )


def master_cards(
    electronics: Mapping[str, tuple[Any, str]],
    masters: Masters,
    digests: Mapping[str, str],
    tau: float,
    levels: Sequence[OverscanLevel],
) -> dict[str, tuple[Any, str]]:
    """Return header cards of the masters: name, SHA-256 of their pixels, scaling; no path."""
    cards: dict[str, tuple[Any, str]] = {}
    done = "O" if any(level.method != "none" for level in levels) else ""
    done += "" if electronics["LINEAR"][0] else "L"
    done += "X" if electronics["CROSSTLK"][0] else ""
    for kind in ("bias", "dark", "flat"):
        master = masters.get(kind)
        keyword = kind.upper()
        if master is None:
            cards[f"{keyword}ID"] = ("", f"no {kind} was applied")
            continue
        done += keyword[0]
        cards[f"{keyword}ID"] = (str(master.header.get("MASTERID", "unnamed")), f"{kind} applied")
        cards[f"{keyword}SHA"] = (digests[kind], "")
    if masters.dark is not None:
        cards["DARKTAU"] = (tau, "exposure over that of the dark")
    cards["CALSTAT"] = (done, "Overscan, Linearity, Xtalk, Bias, Dark, Flat")
    return cards
