"""Bad frames with sound files and headers: the pixels are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.simulate.bad_kit import DEGRADED, Kit, recipe
from skymill.simulate.frames import RawFrame

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__: list[str] = []


def _changed(frame: RawFrame, values: NDArray[np.float64]) -> RawFrame:
    """Return the frame with other values, rounded and clipped like those of a camera."""
    data = np.clip(np.rint(values), 0, 65535).astype(np.uint16)
    return RawFrame(frame.name, data, frame.header)


@recipe("H120", "NO_SKY", "KIND_SUSPECT", "NO_STARS", "FEW_STARS", statuses=DEGRADED)
def shutter_closed(kit: Kit) -> Path:
    """A light frame whose shutter did not open."""
    dark, light = kit.bias(), kit.light()
    return kit.save(RawFrame(light.name, dark.data, light.header))


@recipe("H142", "SHIFTED_BITS", statuses=("ok", "degraded", "rejected"))
def shifted_bits(kit: Kit) -> Path:
    """Twelve bits, shifted left by four."""
    frame = kit.light()
    return kit.save(
        RawFrame(frame.name, np.minimum(frame.data, 4095) << np.uint16(4), frame.header)
    )


@recipe("H143", "ALL_NAN")
def all_nan(kit: Kit) -> Path:
    """Floating-point pixels, none of which has a value."""
    frame = kit.light()
    nothing = np.full(frame.data.shape, np.nan, np.float32)
    return kit.save(RawFrame(frame.name, nothing, frame.header))


@recipe("H144", "CONSTANT")
def constant(kit: Kit) -> Path:
    """All pixels are 1000."""
    frame = kit.light()
    return kit.save(RawFrame(frame.name, np.full_like(frame.data, 1000), frame.header))


@recipe("H145", "NO_DATA", "ALREADY_CALIBRATED", statuses=("ok", "degraded", "rejected"))
def some_nan(kit: Kit) -> Path:
    """Floating-point pixels; a hundred are NaN and three infinite."""
    frame = kit.light()
    data = frame.data.astype(np.float32)
    flat = data.reshape(-1)
    # Places without a pattern, the same for every seed.
    places = np.arange(1, 104) * 7919 % flat.size
    flat[places[:100]], flat[places[100:]] = np.nan, np.inf
    return kit.save(RawFrame(frame.name, data, frame.header))


@recipe("H147", "WRAP", statuses=("degraded", "rejected"))
def wrap(kit: Kit) -> Path:
    """An offset so high that bright pixels wrapped around to zero."""
    frame = kit.light()
    offset = 65536 - 2000 - int(np.median(frame.data))
    return kit.save(
        RawFrame(
            frame.name,
            ((frame.data.astype(np.int64) + offset) % 65536).astype(np.uint16),
            frame.header,
        )
    )


@recipe("H151", "DEAD_AREA", statuses=("degraded", "rejected"))
def dead_area(kit: Kit) -> Path:
    """The left half is zero."""
    frame = kit.light()
    data = frame.data.copy()
    data[:, : data.shape[1] // 2] = 0
    return kit.save(RawFrame(frame.name, data, frame.header))


@recipe("H153", "FLAT_SATURATED")
def saturated_flat(kit: Kit) -> Path:
    """A flat with twice the light that the detector takes."""
    return kit.save(kit.flat(level_adu=2.0 * kit.config.saturate_adu))


@recipe("H153", "FLAT_FAINT")
def faint_flat(kit: Kit) -> Path:
    """A flat with hardly any light."""
    return kit.save(kit.flat(level_adu=60.0))


@recipe("H153", "FLAT_GRADIENT", statuses=("ok", "degraded", "rejected"))
def steep_flat(kit: Kit) -> Path:
    """A flat whose light falls by half from border to border."""
    return kit.save(kit.flat(slope=0.67))


@recipe("H155", "BAD_LEVEL", "BIAS_JUMP")
def bias_level(kit: Kit) -> Path:
    """A bias frame with light in it: 300 ADU above the overscan, with a gradient."""
    frame, area = kit.bias(), kit.image()
    values = frame.data.astype(np.float64)
    values[area] += np.linspace(240.0, 360.0, kit.config.shape[1])
    return kit.save(_changed(frame, values))


@recipe("H156", "BIAS_JUMP", "BAD_LEVEL", statuses=("degraded", "rejected"))
def bias_jump(kit: Kit) -> Path:
    """A bias frame whose upper half lies 50 ADU above the lower, overscan included."""
    frame = kit.bias()
    values = frame.data.astype(np.float64)
    values[values.shape[0] // 2 :] += 50.0
    return kit.save(_changed(frame, values))


@recipe("H157", "BANDING", statuses=("ok", "degraded", "rejected"))
def banding(kit: Kit) -> Path:
    """A light frame with bands of 20 ADU along its rows, the overscan left alone."""
    frame, area = kit.light(), kit.image()
    values = frame.data.astype(np.float64)
    values[area] += 20.0 * np.sin(np.arange(kit.config.shape[0]) * (2 * np.pi / 7.3))[:, None]
    return kit.save(_changed(frame, values))


@recipe("H158", "TRAILED", "REGISTRATION_POOR", statuses=("ok", *DEGRADED))
def trailed(kit: Kit) -> Path:
    """The telescope jumped in mid-exposure: every star is double."""
    return kit.save(kit.light(jump_px=2.5 * kit.config.fwhm_px))


@recipe("H159", "NO_STARS", "FEW_STARS", statuses=DEGRADED)
def no_stars(kit: Kit) -> Path:
    """Clouds so thick that no star is left; the sky is normal."""
    return kit.save(kit.light(clouds=0.0))


@recipe("H163", "SKY_BRIGHT", statuses=("ok", *DEGRADED))
def sky_bright(kit: Kit) -> Path:
    """Dawn: thirty times the sky, with a steep slope."""
    return kit.save(kit.light(sky_factor=30.0, sky_slope=0.7))


@recipe("H218", "WRONG_SIZE", "UNUSED_CALIBRATION")
def wrong_size_flat(kit: Kit) -> Path:
    """A flat of a quarter of the frame, without overscan."""
    frame, (rows, columns) = kit.flat(), kit.image()
    ny, nx = kit.config.shape
    area = frame.data[rows.start : rows.start + ny // 2, columns.start : columns.start + nx // 2]
    frame.header.remove("BIASSEC", ignore_missing=True)
    frame.header["TRIMSEC"] = f"[1:{nx // 2},1:{ny // 2}]"
    return kit.save(RawFrame(frame.name, np.ascontiguousarray(area), frame.header))
