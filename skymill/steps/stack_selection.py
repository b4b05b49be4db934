"""Which frames are good enough for a stack, and why the others are not.

Limits on single figures first, then the best part of what is left by a score in
magnitudes. The score of a frame does not depend on the other frames: a score that is
normalised by the smallest and largest value of the set changes its order when one
more bad frame arrives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skymill.errors import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skymill.steps.stack_inputs import StackInput

__all__ = ["Limits", "choose_frames", "on_one_scale", "quality", "score", "unknown_figures"]

#: Loss of the score for stars of axis ratio 0, in magnitudes.
_ELLIPTICITY_WEIGHT = 1.0


@dataclass(frozen=True)
class Limits:
    """What a frame must fulfil; None is no limit. See the settings ``stack.select``."""

    max_fwhm_px: float | None = None
    max_fwhm_arcsec: float | None = None
    minimum_depth_mag: float | None = None
    max_depth_loss_mag: float | None = None
    max_sky_e_s: float | None = None
    max_sky_ratio: float | None = None
    max_ellipticity: float | None = None
    best_fraction: float = 1.0
    unknown: Literal["keep", "reject"] = "keep"


@dataclass(frozen=True)
class _Rule:
    """One limit: its setting, the figure, the code, and the words of the sentence."""

    setting: str
    figure: str
    code: str
    words: str
    unit: str = ""
    lowest: bool = False


_RULES = (
    _Rule("max_fwhm_px", "fwhm_px", "POOR_SEEING", "FWHM", " px"),
    _Rule("max_fwhm_arcsec", "fwhm_arcsec", "POOR_SEEING", "FWHM", " arcsec"),
    _Rule("minimum_depth_mag", "depth_mag", "SHALLOW", "5-sigma depth", " mag", lowest=True),
    _Rule(
        "max_depth_loss_mag", "depth_loss_mag", "SHALLOW", "shallower than the median frame by",
        " mag",
    ),
    _Rule("max_sky_e_s", "sky_e_s", "SKY_BRIGHT", "background", " electron/s"),
    _Rule("max_sky_ratio", "sky_ratio", "SKY_BRIGHT", "background relative to the median frame"),
    _Rule("max_ellipticity", "ellipticity", "ELONGATED", "ellipticity of the stars"),
)  # fmt: skip


def quality(item: StackInput) -> dict[str, float]:
    """Return the figures of a frame that a selection may use; NaN where unknown.

    Parameters
    ----------
    item : StackInput
        Uses fwhm_px, fwhm_arcsec, ellipticity, sky_e, depth_mag, depth_flux_e,
        throughput and exptime_s.

    Returns
    -------
    dict
        fwhm_px, fwhm_arcsec, ellipticity, depth_mag as they are; sky_e_s, the
        background in electron/s; depth_common, the 5-sigma limit on the scale of the
        field's reference frame in magnitudes, -2.5 log10 (flux / (t T)): it needs no
        zero point.
    """
    names = ("fwhm_px", "fwhm_arcsec", "ellipticity", "depth_mag")
    figures = {name: item.number(name) for name in names}
    exptime, throughput = item.number("exptime_s"), item.number("throughput")
    throughput = throughput if math.isfinite(throughput) else 1.0
    figures["sky_e_s"] = item.number("sky_e") / exptime if exptime > 0 else math.nan
    rate = item.number("depth_flux_e") / (exptime * throughput) if exptime * throughput else 0.0
    figures["depth_common"] = -2.5 * math.log10(rate) if rate > 0 else math.nan
    return figures


def score(figures: Mapping[str, float], typical: Mapping[str, float]) -> float:
    """Return the score of a frame in magnitudes; larger is better.

    ``S = m5 - 2.5 log10 FWHM - ellipticity``: the depth counts noise, transparency and
    exposure, the other two what blurring does to the shapes.

    Parameters
    ----------
    figures : mapping
        Of `quality`.
    typical : mapping
        Stands in for unknown figures: medians of the frames of which they are known.
    """

    def known(name: str) -> float:
        value = figures[name]
        return value if math.isfinite(value) else typical[name]

    fwhm = known("fwhm_px")
    return (
        known("depth_common")
        - 2.5 * math.log10(fwhm if fwhm > 0 else 1.0)
        - _ELLIPTICITY_WEIGHT * known("ellipticity")
    )


def unknown_figures(item: StackInput, select: Mapping[str, Any] | None) -> list[str]:
    """Return the figures that the limits need and that a frame does not have, sorted.

    Parameters
    ----------
    item : StackInput
        The frame.
    select : mapping, optional
        Settings ``stack.select``.
    """
    limits = Limits(**(select or {}))
    figures = quality(item)
    figures |= {"depth_loss_mag": figures["depth_common"], "sky_ratio": figures["sky_e_s"]}
    needed = {rule.figure for rule in _RULES if getattr(limits, rule.setting) is not None}
    if limits.best_fraction < 1:
        needed |= {"depth_common", "fwhm_px", "ellipticity"}
    return sorted(name for name in needed if not math.isfinite(figures[name]))


def on_one_scale(photcal: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the calibration of frames of several fields on one flux scale.

    The throughput of a frame is relative to the reference frame of its field, which
    differs from field to field. The zero point is absolute: with ``zp`` the magnitude
    of 1 electron/s, ``throughput = 10^(0.4 (zp - zp_0))``, ``zp_0`` the median of all.

    Parameters
    ----------
    photcal : mapping
        Frame id to its row of the calibration.

    Returns
    -------
    dict
        The same rows with throughput and throughput_err replaced; NaN without a zero
        point: such frames cannot be joined with those of other fields.
    """

    def number(row: Mapping[str, Any], name: str) -> float:
        value = row.get(name)
        return math.nan if value is None else float(value)

    middle = _median([number(row, "zp") for row in photcal.values()])
    out = {}
    for name, row in photcal.items():
        zp, err = number(row, "zp"), number(row, "zp_err")
        ratio = 10 ** (0.4 * (zp - middle)) if math.isfinite(zp) else math.nan
        spread = ratio * 0.4 * math.log(10) * err
        out[name] = dict(row) | {"throughput": ratio, "throughput_err": spread}
    return out


def choose_frames(
    inputs: Sequence[StackInput],
    *,
    rejected: Sequence[tuple[str, str, str]] = (),
    max_fwhm_ratio: float = 3.0,
    minimum_throughput: float = 0.1,
    select: Mapping[str, Any] | None = None,
) -> tuple[list[StackInput], list[Outcome]]:
    """Return the frames to stack, sorted, and the outcomes of the others.

    Parameters
    ----------
    inputs : sequence of StackInput
        Frames of one field and filter, in any order.
    rejected : sequence of (frame_id, code, message)
        Frames that the grid turned away.
    max_fwhm_ratio, minimum_throughput : float
        Limits of the FWHM relative to the median, and of the throughput. If no frame
        has a throughput all are taken as equally transparent; if some have, the others
        are left out with NO_ZP.
    select : mapping, optional
        Settings ``stack.select``, see `Limits`.

    Returns
    -------
    kept : list of StackInput
        Frames to stack, by frame id.
    outcomes : list of Outcome
        One of status ``rejected`` for each other frame: a code and a sentence with the
        figure and the limit.
    """
    limits = Limits(**(select or {}))
    ordered = sorted(inputs, key=lambda item: item.frame_id)
    turned_away = {name: (code, text) for name, code, text in rejected}
    figures = _figures(ordered)
    median = _median([values["fwhm_px"] for values in figures.values() if values["fwhm_px"] > 0])
    with_scale = any(math.isfinite(item.number("throughput")) for item in ordered)
    good: list[StackInput] = []
    outcomes: list[Outcome] = []
    for item in ordered:
        values = figures[item.frame_id]
        reason = (
            turned_away.get(item.frame_id)
            or _no_scale(item, with_scale, minimum_throughput)
            or _blurred(values["fwhm_px"], median, max_fwhm_ratio)
            or _beyond(values, limits)
        )
        if reason is None:
            good.append(item)
        else:
            outcomes.append(Outcome(item.frame_id, "stack", "rejected", *reason))
    good, worse = _best(good, figures, limits.best_fraction)
    return good, sorted([*outcomes, *worse], key=lambda outcome: outcome.frame_id)


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else math.nan


def _figures(items: Sequence[StackInput]) -> dict[str, dict[str, float]]:
    """Figures of all frames, with those that are relative to their median."""
    figures = {item.frame_id: quality(item) for item in items}
    sky = _median([values["sky_e_s"] for values in figures.values()])
    depth = _median([values["depth_common"] for values in figures.values()])
    for values in figures.values():
        values["sky_ratio"] = values["sky_e_s"] / sky if sky > 0 else math.nan
        values["depth_loss_mag"] = depth - values["depth_common"]
    return figures


def _no_scale(
    item: StackInput, with_scale: bool, minimum_throughput: float
) -> tuple[str, str] | None:
    """Say why the flux scale of a frame cannot be used."""
    throughput = item.number("throughput")
    if not item.number("exptime_s") > 0:
        return "MISSING_EXPTIME", "the exposure time is not known, so the flux scale is not"
    if with_scale and not math.isfinite(throughput):
        return "NO_ZP", "its flux scale relative to the field's reference is not known"
    if throughput < minimum_throughput:
        return (
            "CLOUDY",
            f"throughput {throughput:.3f} of the reference frame, less than "
            f"stack.minimum_throughput = {minimum_throughput:g}",
        )
    return None


def _blurred(fwhm: float, median: float, max_fwhm_ratio: float) -> tuple[str, str] | None:
    if not fwhm > max_fwhm_ratio * median:
        return None
    return (
        "POOR_SEEING",
        f"FWHM {fwhm:.2f} px is {fwhm / median:.2f} times the median {median:.2f} px, "
        f"more than stack.max_fwhm_ratio = {max_fwhm_ratio:g}",
    )


def _beyond(values: Mapping[str, float], limits: Limits) -> tuple[str, str] | None:
    """Say which limit a frame misses: the first one in the order of the settings."""
    for rule in _RULES:
        limit = getattr(limits, rule.setting)
        if limit is None:
            continue
        value = values[rule.figure]
        setting = f"stack.select.{rule.setting} = {limit:g}{rule.unit}"
        if not math.isfinite(value):
            if limits.unknown == "reject":
                text = f"{rule.figure} is not known, so {setting} cannot be checked"
                return "UNKNOWN_QUALITY", text
        elif value < limit if rule.lowest else value > limit:
            word = "less" if rule.lowest else "more"
            return rule.code, f"{rule.words} {value:.4g}{rule.unit}, {word} than {setting}"
    return None


def _best(
    items: list[StackInput], figures: Mapping[str, Mapping[str, float]], fraction: float
) -> tuple[list[StackInput], list[Outcome]]:
    """Keep the best part of the frames, at least one, ties by frame id."""
    keep = max(math.ceil(fraction * len(items) - 1e-9), 1)
    if keep >= len(items):
        return items, []
    typical = {}
    for name in ("depth_common", "fwhm_px", "ellipticity"):
        middle = _median([figures[item.frame_id][name] for item in items])
        typical[name] = middle if math.isfinite(middle) else 0.0
    scores = {item.frame_id: score(figures[item.frame_id], typical) for item in items}
    ranked = sorted(items, key=lambda item: (-scores[item.frame_id], item.frame_id))
    last = scores[ranked[keep - 1].frame_id]
    outcomes = []
    for place, item in enumerate(ranked[keep:], keep + 1):
        behind = last - scores[item.frame_id]
        text = (
            f"place {place} of {len(items)} by quality, {behind:.3f} mag behind the last of the "
            f"{keep} that stack.select.best_fraction = {fraction:g} takes"
        )
        outcomes.append(Outcome(item.frame_id, "stack", "rejected", "NOT_BEST", text))
    return sorted(ranked[:keep], key=lambda item: item.frame_id), outcomes
