"""Which flats enter a master: levels, twilight, pointings, clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.frame import MaskBit, has_bits
from skymill.steps.flat_planes import Corrections, box_centres
from skymill.steps.flat_selection import (
    FlatFacts,
    colocated_frames,
    detrended_variance,
    is_twilight,
    level_groups,
    variance_outliers,
)
from skymill.steps.flat_statistics import LargeScale, large_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.steps.masters_intake import Intake, LoadedFrame

__all__ = ["Selection", "Sky", "judge_levels", "select"]

#: Gradient between frames (peak to valley) that is flagged.
GRADIENT = 0.03
#: Share of saturated pixels that rejects a flat: more than a few bad columns.
SATURATED_SHARE = 0.05

Flags = list[tuple[str, str]]
Samples = dict[str, "NDArray[np.float64]"]


@dataclass(frozen=True)
class Selection:
    """Settings of the selection; see `skymill.steps.master_flat.master_flat`."""

    saturation_fraction: float
    saturated_limit: float
    minimum_level_adu: float
    twilight: str
    minimum_separation_arcsec: float
    colocated: str
    cloud_limit: float
    which: str
    split_level_adu: float
    illumination_order: int


@dataclass(frozen=True, eq=False)
class Sky:
    """What was found about the light of the flats.

    Parameters
    ----------
    twilight : bool
        The flats were taken on the twilight sky.
    why : str
        How that is known.
    illumination : LargeScale
        Large-scale differences of the frames that are left.
    pointings : int
        Different pointings; 0 if not known or not asked.
    """

    twilight: bool
    why: str
    illumination: LargeScale
    pointings: int


def judge_levels(intake: Intake, planes: Corrections, samples: Samples, how: Selection) -> None:
    """Reject flats that are saturated or too faint, and note the level of the others.

    Parameters
    ----------
    intake : Intake
        The group; changed.
    planes : Corrections
        Bias and dark.
    samples : dict
        Corrected boxes of every frame, by frame id.
    how : Selection
        Limits.
    """
    unit = planes.unit(intake)
    for frame in list(intake.loaded):
        if planes.dark is not None and not frame.exptime_s >= 0:
            intake.reject(frame, "MISSING_EXPTIME", "the exposure time is not known.")
            continue
        sample = samples[frame.source.frame_id] * unit
        good = sample[np.isfinite(sample)]
        saturated = _saturated_share(intake, planes, frame)
        if saturated > SATURATED_SHARE or not good.size:
            intake.reject(
                frame, "FLAT_SATURATED", f"{100 * saturated:.0f} % of the pixels are saturated."
            )
            continue
        level = float(np.median(good))
        frame.numbers["level_adu"] = level
        reason = _too_bright(intake, frame, how) or _saturated_centre(intake, planes, frame, how)
        if reason:
            intake.reject(frame, "FLAT_SATURATED", reason)
        elif level < how.minimum_level_adu:
            intake.reject(
                frame, "FLAT_FAINT",
                f"the level is {level:.0f} ADU above the bias, at least "
                f"{how.minimum_level_adu:.0f} ADU is needed "
                f"(settings: {intake.step}.minimum_level_adu).",
            )  # fmt: skip


def _too_bright(intake: Intake, frame: LoadedFrame, how: Selection) -> str:
    """The reason if the raw level of an amplifier is outside its range."""
    for amp, one in enumerate(intake.amplifiers):
        own = frame.sample[intake.of_amplifier(amp)]
        if not np.isfinite(own).any():
            continue
        raw = float(np.nanmedian(own)) + frame.levels[amp].mean_adu
        limit = min(how.saturation_fraction * one.saturation_adu, one.linear_max_adu)
        if raw > limit:
            where = f" of {one.label}" if one.name else ""
            return (
                f"the level{where} is {raw:.0f} ADU, at most {limit:.0f} ADU is linear "
                f"(settings: {intake.step}.saturation_fraction)."
            )
    return ""


def _saturated_share(intake: Intake, planes: Corrections, frame: LoadedFrame) -> float:
    """Share of saturated pixels; those that are saturated in the bias too do not count.

    An amplifier that broke must not cost the flats of the others.
    """
    if planes.bias is None:
        return frame.saturated_fraction
    alive = np.isfinite(intake.sample_plane(planes.bias.sci))
    if alive.all():
        return frame.saturated_fraction
    count = int(np.count_nonzero(alive))
    lost = int(np.count_nonzero(alive & ~np.isfinite(frame.sample)))
    return lost / count if count else 1.0


def _saturated_centre(
    intake: Intake, planes: Corrections, frame: LoadedFrame, how: Selection
) -> str:
    """The reason if too much of the central half is saturated.

    Pixels that the bias knows as bad do not count: a hot column is always saturated.
    """
    if planes.bias is None:
        return ""
    inner = (np.abs(box_centres(intake)) <= 0.5).min(axis=1)
    usable = ~has_bits(intake.sample_plane(planes.bias.mask).astype(np.uint16), MaskBit.bad())
    usable &= inner[:, None, None]
    count = np.count_nonzero(usable)
    share = np.count_nonzero(usable & ~np.isfinite(frame.sample)) / count if count else 0.0
    if share <= how.saturated_limit:
        return ""
    return (
        f"{100 * share:.2g} % of the central half is saturated, at most "
        f"{100 * how.saturated_limit:.2g} % is allowed (settings: {intake.step}.saturated_limit)."
    )


def select(
    intake: Intake, planes: Corrections, samples: Samples, how: Selection, keep: int
) -> tuple[Sky, Flags]:
    """Leave out sky flats with clouds or with stars that do not move; flag gradients.

    Parameters
    ----------
    intake : Intake
        The group; changed.
    planes : Corrections
        Bias and dark.
    samples : dict
        Corrected boxes of every frame, by frame id.
    how : Selection
        Limits.
    keep : int
        Fewest frames of a master.

    Returns
    -------
    sky : Sky
    flags : list of (code, message)
        Of the master.
    """
    flags: Flags = []
    facts = _facts(intake)
    twilight, why = is_twilight(facts, how.twilight)
    pointings = 0
    if twilight:
        reject_clouds(intake, planes, samples, how)
        if intake.loaded:
            facts = _facts(intake)
            found = colocated_frames(facts, how.minimum_separation_arcsec, how.colocated, keep)
            pointings = found.clusters
            if found.warning:
                flags.append(("FLAT_COLOCATED", f"{intake.step}: {found.warning}"))
            for frame in list(intake.loaded):
                if frame.source.frame_id in found.rejected:
                    reason = found.rejected[frame.source.frame_id]
                    intake.reject(
                        frame, "FLAT_COLOCATED",
                        f"{reason} (settings: {intake.step}.minimum_separation_arcsec).",
                    )  # fmt: skip
    if intake.loaded:
        flags += _gradient_flags(intake, _large_scale(intake, planes, samples, how))
        _choose_group(intake, how)
    # the reference of what is left; frames of the other group have gone
    scale = _large_scale(intake, planes, samples, how)
    return Sky(twilight, why, scale, pointings), flags


def _facts(intake: Intake) -> list[FlatFacts]:
    return [
        FlatFacts.from_row(frame.source.frame_id, frame.source.row, frame.numbers["level_adu"])
        for frame in intake.loaded
    ]


def _large_scale(
    intake: Intake, planes: Corrections, samples: Samples, how: Selection
) -> LargeScale:
    """Large-scale differences; the bright flats are the reference, if they are enough."""
    if not intake.loaded:
        return LargeScale(np.zeros((0, 1)), 0, np.zeros(0), np.zeros(0))
    unit = planes.unit(intake)
    boxes = [(samples[frame.source.frame_id] * unit) for frame in intake.loaded]
    known = [np.isfinite(box).reshape(len(box), -1).mean(axis=1) > 0.5 for box in boxes]
    levels = np.full((len(boxes), len(unit)), np.nan)
    for i, box in enumerate(boxes):
        levels[i, known[i]] = np.nanmedian(box.reshape(len(box), -1)[known[i]], axis=1)
    reference: Sequence[int] | None = None
    if how.split_level_adu > 0:
        high, _ = level_groups(_levels(intake), how.split_level_adu)
        reference = high if len(high) > 1 else None
    at = box_centres(intake)
    return large_scale(levels, at, order=how.illumination_order, reference=reference)


def _levels(intake: Intake) -> NDArray[np.float64]:
    return np.array([frame.numbers["level_adu"] for frame in intake.loaded])


def reject_clouds(intake: Intake, planes: Corrections, samples: Samples, how: Selection) -> None:
    """Reject sky flats whose light is not that of a clear sky.

    One frame after the other, the worst first, because a cloud also moves the median of
    the group that it is compared with.
    """
    while len(intake.loaded) > 2:
        scale = _large_scale(intake, planes, samples, how)
        worst = int(np.argmax(scale.deviation))
        if scale.deviation[worst] <= how.cloud_limit:
            break
        off = float(scale.deviation[worst])
        intake.reject(
            intake.loaded[worst], "FLAT_CLOUDY",
            f"the illumination differs by up to {100 * off:.1f} % from that of the other flats, "
            f"at most {100 * how.cloud_limit:g} % is allowed (settings: "
            f"{intake.step}.cloud_limit).",
            illumination=off,
        )  # fmt: skip
    at, unit = box_centres(intake), planes.unit(intake)
    sums = [detrended_variance(samples[f.source.frame_id] * unit, at) for f in intake.loaded]
    if not sums:
        return
    mean, variance = np.array(sums).T
    excess, cloudy = variance_outliers(mean, variance)
    for i, frame in enumerate(list(intake.loaded)):
        if cloudy[i]:
            intake.reject(
                frame, "FLAT_CLOUDY",
                f"the scatter within the frame is {100 * excess[i]:.0f} % above what its level "
                "explains: clouds, or trailed stars.",
                variance_excess=float(excess[i]),
            )  # fmt: skip
        elif excess[i] != 0:
            frame.numbers["variance_excess"] = float(excess[i])


def _gradient_flags(intake: Intake, scale: LargeScale) -> Flags:
    """Note the large-scale differences of each frame and flag steep ones."""
    found: Flags = []
    for i, frame in enumerate(intake.loaded):
        slope = float(scale.gradient[i])
        frame.numbers["gradient"] = slope
        frame.numbers["illumination"] = float(scale.deviation[i])
        if slope > GRADIENT:
            text = f"the illumination differs by {100 * slope:.1f} % from the other flats."
            frame.flags.append(("FLAT_GRADIENT", text))
            found.append(("FLAT_GRADIENT", f"{frame.source.frame_id}: {text}"))
    return found


def _choose_group(intake: Intake, how: Selection) -> None:
    """Keep only the bright, or only the faint flats, if so told."""
    if how.which == "all":
        return
    high, low = level_groups(_levels(intake), how.split_level_adu)
    unwanted = low if how.which == "high" else high
    for frame in [intake.loaded[i] for i in unwanted]:
        intake.reject(
            frame, "FLAT_LEVEL",
            f"only {how.which} flats are wanted, its level is {frame.numbers['level_adu']:.0f} ADU "
            f"(settings: {intake.step}.which and split_level_adu).",
        )  # fmt: skip
