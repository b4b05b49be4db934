"""From raw ADU to electrons, with the error of each pixel and the first mask.

``E = g [f(R - O - B) - tau f(d - B)] / F``, amplifier by amplifier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.assembly import assemble, read_order
from skymill.errors import FrameRejected, Result
from skymill.fits_cards import extended
from skymill.frame import Frame, MaskBit
from skymill.headers import calibration_marks
from skymill.kernels.calibrate import Bits, Planes, calibrate_pixels
from skymill.readout import as_images
from skymill.steps._calibration_masters import (
    Flags,
    Masters,
    bias_levels,
    cut_masters,
    measured_noise,
    missing,
    usable_dark,
)
from skymill.steps._calibration_report import electronics_cards, frame_numbers, master_cards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.assembly import Exposure
    from skymill.frame import Master
    from skymill.overscan import OverscanLevel
    from skymill.readout import Amplifier, Images, Readout

__all__ = ["Masters", "calibrate", "leaked", "refuse_calibrated"]

#: Drift of the overscan along the rows, in units of its noise, that one level per frame
#: cannot follow.
DRIFT_SIGMA = 4.0
BITS = Bits(
    int(MaskBit.NO_DATA), int(MaskBit.SATURATED), int(MaskBit.NONLINEAR), int(MaskBit.LOW_FLAT)
)


def calibrate(
    raw: NDArray[Any] | Images,
    row: Mapping[str, Any],
    masters: Masters,
    *,
    header: fits.Header | None = None,
    electronics: Mapping[str, Any] | None = None,
    overscan: Mapping[str, Any] | None = None,
    missing_bias: str = "require",
    missing_dark: str = "degrade",
    missing_flat: str = "require",
    dark_scale_up: bool = False,
    dark_temperature_k: float = 2.0,
    use_measured_gain: bool = False,
    use_measured_noise: bool = False,
    noise_tolerance: float = 0.15,
    nonlinear_fraction: float = 1.0,
    leak_directions: Sequence[tuple[int, int]] = (),
) -> Result[Frame]:
    """Calibrate one raw frame.

    Parameters
    ----------
    raw : ndarray of uint16 or float32, shape (ny, nx), or mapping of int to such arrays
        Raw image, overscan included (ADU), or the images by HDU. Not modified.
    row : mapping
        Its row of the sheet: amplifiers or sections, gain, read noise, saturation,
        exposure; ``use_bias``, ``use_dark``, ``use_flat`` (``none``: do without, and do
        not say so); ``area`` of a window.
    masters : Masters
        Masters of the frame's area, or of a larger one that holds it (card CCDSEC).
    header : astropy.io.fits.Header, optional
        Cards to start from. Not modified.
    electronics : mapping, optional
        Linearity and crosstalk of the instrument, see `skymill.readout.Readout.from_row`.
    overscan : mapping, optional
        Settings of `skymill.overscan.fit_overscan`.
    missing_bias, missing_dark, missing_flat : str
        Without the master: ``require`` rejects the frame, ``degrade`` goes on and says
        so, ``skip`` goes on silently. A missing dark only matters where the sheet says
        that darks are needed (or says nothing).
    dark_scale_up : bool
        Also scale darks to longer exposures; else such a dark counts as missing.
    dark_temperature_k : float
        Difference of detector temperature between frame and dark that is accepted (K).
    use_measured_gain, use_measured_noise : bool
        Take gain (read noise) as measured by the masters, where they know it.
    noise_tolerance : float
        Relative difference of measured and declared figures that is flagged.
    nonlinear_fraction : float
        Raw values above this fraction of saturation get NONLINEAR.
    leak_directions : sequence of (int, int)
        Neighbours (dx, dy) of a saturated pixel that its charge spills into: BLEED.

    Returns
    -------
    Result of Frame
        Electron, float32. ``err`` is the total error: photons, read noise, overscan,
        and the masters, whose part is common to all frames that use them. Saturation is
        judged on the raw value. Where the flat is not positive: NaN, LOW_FLAT, NO_DATA.

        Flags: ``NO_BIAS``, ``NO_DARK``, ``NO_FLAT``, ``DARK_EXPOSURE``,
        ``DARK_SCALED_UP``, ``DARK_TEMP``, ``BIAS_JUMP``, ``SATURATION_GUESSED``,
        ``GAIN_SUSPECT``, ``READ_NOISE_SUSPECT``.

    Raises
    ------
    FrameRejected
        ``ALREADY_CALIBRATED``, ``NO_BIAS``, ``NO_DARK``, ``NO_FLAT``, ``DARK_EXPOSURE``,
        ``DARK_TEMP``, ``WRONG_SIZE``, ``MISSING_EXPTIME``, ``ALL_NAN``, ``CONSTANT``,
        ``ALL_MASKED``, and those of `skymill.assembly.assemble`.
    """
    if header is not None:
        refuse_calibrated(header)
    exposure = assemble(raw, row, overscan=overscan, electronics=electronics)
    _check_pixels(exposure.pixels)
    flags: Flags = []
    own = cut_masters(masters, row, exposure.readout.shape)
    if own.bias is None:
        missing("bias", missing_bias, row, flags)
    dark, tau = usable_dark(
        own, row, flags,
        policy=missing_dark, scale_up=dark_scale_up, tolerance_k=dark_temperature_k,
    )  # fmt: skip
    if own.flat is None:
        missing("flat", missing_flat, row, flags)
    applied = own if dark is own.dark else Masters(own.bias, dark, own.flat)
    readout, quiet, sources = _noise(
        exposure.readout, own, flags, use_measured_gain, use_measured_noise, noise_tolerance
    )
    _check_readout(readout, exposure.levels, flags)
    below = bias_levels(applied, readout)
    planes = _electrons(
        exposure, readout, applied, tau, quiet, nonlinear_fraction, below,
        _ghosts(as_images(raw, row), readout, applied.inherited),
    )  # fmt: skip
    if leak_directions:
        planes.mask[leaked(planes.mask, leak_directions)] |= np.uint16(MaskBit.BLEED)
    numbers = frame_numbers(*planes, exposure.levels, None if dark is None else tau)
    cards = electronics_cards(readout, exposure.levels, bias_adu=below, sources=sources)
    if row.get("area"):
        cards["CCDSEC"] = (str(row["area"]), "part of the detector that is covered")
    cards |= master_cards(cards, applied, masters.digests, tau, exposure.levels)
    for plane in planes:
        plane.flags.writeable = False  # handed over without a copy
    told: Any = extended(header, cards)
    return Result(Frame(*planes, told, unit="electron"), tuple(flags), numbers)


def refuse_calibrated(header: fits.Header) -> None:
    """Refuse a frame whose header says that it was calibrated before.

    Raises
    ------
    FrameRejected
        ``ALREADY_CALIBRATED``.
    """
    mark = calibration_marks(header)
    if mark:
        raise FrameRejected(
            "ALREADY_CALIBRATED",
            f"the header has {mark}: the frame was calibrated before. Use the raw frame.",
        )


def leaked(mask: NDArray[np.uint16], directions: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return the neighbours of saturated pixels.

    Parameters
    ----------
    mask : ndarray of uint16, shape (ny, nx)
        Mask with SATURATED.
    directions : sequence of (int, int)
        Offsets (dx, dy) from a saturated pixel.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        False for pixels that are saturated themselves.
    """
    full = (mask & np.uint16(MaskBit.SATURATED)) != 0
    out = np.zeros(mask.shape, bool)
    ys, xs = np.nonzero(full)
    for dx, dy in directions:
        y, x = ys + int(dy), xs + int(dx)
        inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
        out[y[inside], x[inside]] = True
    return out & ~full


def _check_pixels(image: NDArray[Any]) -> None:
    """Refuse an image without information."""
    sample = image[:: max(1, image.shape[0] // 64)]
    finite = np.isfinite(sample) if sample.dtype.kind == "f" else np.ones(sample.shape, bool)
    if not finite.any() and not np.isfinite(image).any():
        raise FrameRejected("ALL_NAN", "no pixel of the image has a value.")
    values = sample[finite]
    if values.size and (values == values[0]).all() and (image == values[0]).all():
        raise FrameRejected("CONSTANT", f"all pixels of the image are {values[0]} ADU.")


def _check_readout(readout: Readout, levels: Sequence[OverscanLevel], flags: Flags) -> None:
    for one, level in zip(readout.amplifiers, levels, strict=True):
        of = f"of amplifier {one.name} " if one.name else ""
        if not one.saturation_known and np.isfinite(one.saturation_adu):
            top = one.saturation_adu
            text = f"the saturation level {of}is not known; {top:.0f} ADU is assumed."
            flags.append(("SATURATION_GUESSED", text))
        drift, noise = level.drift_adu, level.noise_adu
        if level.level.size == 1 and drift > DRIFT_SIGMA * max(noise, 1):
            text = (
                f"the overscan {of}changes by {drift:.1f} ADU along the rows (its noise is "
                f"{noise:.1f} ADU), but one level was used. Set calibrate.overscan.fit to "
                "polynomial or row."
            )
            flags.append(("BIAS_JUMP", text))


def _noise(
    readout: Readout, masters: Masters, flags: Flags, use_gain: bool, use_noise: bool,
    tolerance: float,
) -> tuple[Readout, list[float], tuple[str, str]]:  # fmt: skip
    """Gain, and variance of a pixel without light (ADU^2), of each amplifier."""
    amplifiers, quiet, sources = [], [], ["declared", "declared"]
    count = len(readout.amplifiers)
    for n, one in enumerate(readout.amplifiers):
        gain, gain_err, noise = measured_noise(masters, n, count)
        _compare(one, gain, gain_err or 0.0, noise, tolerance, flags)
        new, variance = one, one.dark_variance_adu2
        if use_gain and gain is not None:
            # the read noise is a property of the voltage: what was declared in electron
            # keeps its value in ADU
            new = replace(new, gain_e_adu=gain, read_noise_e=one.read_noise_adu * gain)
            sources[0] = "measured"
        if use_noise and noise is not None:
            new = replace(new, read_noise_e=noise * new.gain_e_adu)
            # measured between frames of integers: the rounding is inside
            variance = noise**2
            sources[1] = "measured"
        amplifiers.append(new)
        quiet.append(variance)
    return replace(readout, amplifiers=tuple(amplifiers)), quiet, (sources[0], sources[1])


def _compare(
    one: Amplifier, gain: float | None, gain_err: float, noise: float | None, tolerance: float,
    flags: Flags,
) -> None:  # fmt: skip
    """Flag figures of the instrument file that the masters contradict."""
    what = one.label if one.name else "the detector"
    if gain is not None:
        limit = max(tolerance * one.gain_e_adu, 3 * gain_err)
        if abs(gain - one.gain_e_adu) > limit:
            text = (
                f"the flats measure a gain of {gain:.3g} electron/ADU of {what}, declared is "
                f"{one.gain_e_adu:.3g}."
            )
            flags.append(("GAIN_SUSPECT", text))
    declared = np.sqrt(one.dark_variance_adu2)
    if noise is not None and abs(noise - declared) > tolerance * declared:
        text = (
            f"the bias frames measure a read noise of {noise:.3g} ADU of {what}, declared is "
            f"{declared:.3g}."
        )
        flags.append(("READ_NOISE_SUSPECT", text))


def _ghosts(
    images: Images, readout: Readout, inherited: NDArray[np.uint16] | None
) -> NDArray[np.uint16] | None:
    """Add GHOST where the crosstalk of a saturated pixel was subtracted.

    A saturated pixel has lost part of its signal, so what is left of its crosstalk is
    not known.
    """
    if not readout.crosstalk:
        return inherited
    plane = np.zeros(readout.shape, np.uint16) if inherited is None else inherited.copy()
    full = {
        one.name: read_order(one, one.cut(images[one.hdu]) >= one.saturation_adu)
        for one in readout.amplifiers
    }
    for one in readout.amplifiers:
        view = read_order(one, plane[one.place.slices])
        for source, share in readout.crosstalk.get(one.name, {}).items():
            if share == 0 or source == one.name or source not in full:
                continue
            hit = full[source][: view.shape[0], : view.shape[1]]
            view[: hit.shape[0], : hit.shape[1]][hit] |= np.uint16(MaskBit.GHOST)
    return plane


def _electrons(
    exposure: Exposure, readout: Readout, masters: Masters, tau: float, quiet: Sequence[float],
    nonlinear_fraction: float, below: Sequence[float], inherited: NDArray[np.uint16] | None,
) -> Planes:  # fmt: skip
    """Run the kernel over each amplifier."""
    planes = Planes.empty(readout.shape)
    for one, level, variance, floor in zip(
        readout.amplifiers, exposure.levels, quiet, below, strict=True
    ):
        rule, bias = one.linearity, _pair(masters.bias)
        if bias is None and floor != 0:
            # one level in place of the bias: it cancels, but is no charge
            plane = np.full((1, readout.shape[1]), floor, np.float32)
            bias = (plane, np.zeros_like(plane))
        calibrate_pixels(
            exposure.pixels[one.place.slices], level.level, level.variance,
            gain=one.gain_e_adu, quiet_variance=variance, saturation=one.saturation_adu,
            linear_max=min(one.linear_max_adu, nonlinear_fraction * one.saturation_adu),
            tau=tau, bias=bias, dark=_pair(masters.dark),
            flat=_pair(masters.flat), linearity=None if rule is None else rule.arrays(),
            inherited=inherited, bits=BITS, out=planes, corner=(one.place.y0, one.place.x0),
        )  # fmt: skip
    return planes


def _pair(master: Master | None) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    return None if master is None else (master.sci, master.err)
