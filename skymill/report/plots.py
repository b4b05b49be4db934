"""Plots of figures: quality over time, histograms, scatter over magnitude, light curves."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from skymill.report.svg import Scale, Svg, num, span_of, tick_text, ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skymill.report.model import Field, FrameRow, Histogram, LightCurve, Metric

__all__ = [
    "TimeAxis",
    "axis_below",
    "axis_left",
    "filter_class",
    "histogram",
    "lightcurve",
    "quality",
    "scatter",
    "scatter_over_magnitude",
    "time_axis",
]

_FILTERS = {
    "u": "u", "up": "u", "sdss_u": "u", "b": "b", "blue": "b", "g": "g", "gp": "g", "sdss_g": "g",
    "v": "v", "green": "v", "r": "r", "rp": "r", "rc": "r", "red": "r", "sdss_r": "r", "i": "i",
    "ip": "i", "ic": "i", "sdss_i": "i", "z": "z", "zs": "z", "y": "z", "h-alpha": "h", "ha": "h",
    "halpha": "h", "h_alpha": "h", "l": "l", "lum": "l", "luminance": "l", "clear": "l", "c": "l",
    "open": "l", "none": "l", "": "l", "vr": "l", "w": "l",
}  # fmt: skip
_SPARE = 6


def filter_class(name: str, all_names: Sequence[str]) -> str:
    """Return the colour class of a filter: by its name if known, else by its rank."""
    known = _FILTERS.get(name.lower())
    if known:
        return f"f-{known}"
    others = sorted(n for n in set(all_names) if n.lower() not in _FILTERS)
    return f"f-x{others.index(name) % _SPARE}" if name in others else "f-l"


@dataclass(frozen=True)
class TimeAxis:
    """Time without the gaps between nights.

    Parameters
    ----------
    where : dict
        Frame id to a position from 0 to 1.
    nights : tuple of (name, start, end)
        Segments of the axis.
    hours : tuple of (text, position)
        Ticks in UTC, only for a single night.
    """

    where: dict[str, float]
    nights: tuple[tuple[str, float, float], ...]
    hours: tuple[tuple[str, float], ...]


def time_axis(frames: Sequence[FrameRow]) -> TimeAxis:
    """Lay the nights of some frames side by side.

    Each night is as wide as it is long, but at least as wide as a third of its equal
    share; frames without a time are left out.
    """
    nights: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for frame in frames:
        if frame.mjd_start is not None:
            nights[frame.night].append((frame.mjd_start, frame.frame_id))
    if not nights:
        return TimeAxis({}, (), ())
    spans = {n: (min(v)[0], max(v)[0]) for n, v in nights.items()}
    length = {n: high - low for n, (low, high) in spans.items()}
    least = max(sum(length.values()), 1e-6) / len(nights) / 3
    width = {n: max(length[n], least) for n in nights}
    gap = 0.012 if len(nights) > 1 else 0.0
    scale = max(1.0 - gap * (len(nights) - 1), 0.2) / sum(width.values())
    where: dict[str, float] = {}
    segments = []
    start = 0.0
    for night in sorted(nights, key=lambda n: spans[n]):
        low, high = spans[night]
        full = width[night] * scale
        for time, name in nights[night]:
            inside = (time - low) / (high - low) if high > low else 0.5
            where[name] = start + full * (0.02 + 0.96 * inside)
        segments.append((night, start, start + full))
        start += full + gap
    hours = _hours(*next(iter(spans.values()))) if len(nights) == 1 else ()
    return TimeAxis(where, tuple(segments), hours)


def _hours(low: float, high: float) -> tuple[tuple[str, float], ...]:
    if not high > low:
        return ()
    return tuple(
        (clock(value), 0.02 + 0.96 * (value - low) / (high - low))
        for value in hour_ticks(low, high, 5)
    )


def hour_ticks(low: float, high: float, count: int) -> list[float]:
    """Return round clock times between two MJD, as MJD."""
    raw = (high - low) * 24 / count
    steps = (1 / 60, 1 / 30, 1 / 12, 1 / 6, 0.25, 0.5, 1, 2, 3, 6, 12, 24)
    step = next((s for s in steps if s >= raw), 24.0) / 24
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [k * step for k in range(first, last + 1)]


def clock(mjd: float) -> str:
    """Return hours and minutes of an MJD."""
    minutes = round((mjd % 1.0) * 1440) % 1440
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def quality(
    metric: Metric,
    unit: str,
    frames: Sequence[FrameRow],
    fates: Mapping[str, str],
    axis: TimeAxis,
    index: Mapping[str, int],
) -> Markup:
    """Plot one figure of the frames over time.

    Parameters
    ----------
    metric : Metric
        What is drawn.
    unit : str
        Its unit.
    frames : sequence of FrameRow
        Light frames.
    fates : mapping
        Frame id to fate; what is not used is drawn as a ring.
    axis : TimeAxis
        Common axis of all plots.
    index : mapping
        Frame id to its number in the page's data.
    """
    shown = [f for f in frames if metric.key in f.metrics and f.frame_id in axis.where]
    value_of = {f.frame_id: f.metrics[metric.key] for f in shown}
    if metric.key == "zp" and len({f.filter for f in frames}) > 1:
        value_of = _without_filter(shown, value_of)
    values = list(value_of.values())
    low, high = span_of(values)
    label = f"{metric.title} of {len(shown)} frames over time"
    if values:
        middle = sorted(values)[len(values) // 2]
        label += f": {min(values):.4g} to {max(values):.4g} {unit}, median {middle:.4g}"
    svg = Svg(440, 190, label, data={"metric": metric.key})
    left, right, top, bottom = 46, 434, 10, 164
    x, y = Scale(0, 1, left, right), Scale(low, high, bottom, top)
    axis_left(svg, y, left, right)
    _x_nights(svg, axis, x, top, bottom)
    if values:
        svg.line(left, y(middle), right, y(middle), "median")
    names = [f.filter for f in frames]
    series: dict[tuple[str, str], list[FrameRow]] = defaultdict(list)
    for frame in shown:
        kept = fates.get(frame.frame_id, "used")
        mark = "dot" if kept in ("used", "degraded") else "ring"
        series[filter_class(frame.filter, names), mark].append(frame)
    for (css, mark), members in sorted(series.items()):
        where = [(x(axis.where[f.frame_id]), y(value_of[f.frame_id])) for f in members]
        size = " many" if len(shown) > 400 else ""
        which = [index[f.frame_id] for f in members]
        svg.points(where, which, f"{mark} {css}{size}")
        if mark == "ring":
            svg.path("".join(f"M{num(a)} {num(b)}h0" for a, b in where), f"pts hole{size}")
    return svg.render()


def _without_filter(frames: Sequence[FrameRow], values: Mapping[str, float]) -> dict[str, float]:
    """Subtract the median of each filter."""
    groups: dict[str, list[float]] = defaultdict(list)
    for frame in frames:
        groups[frame.filter].append(values[frame.frame_id])
    middle = {name: sorted(group)[len(group) // 2] for name, group in groups.items()}
    return {f.frame_id: values[f.frame_id] - middle[f.filter] for f in frames}


def axis_left(svg: Svg, y: Scale, left: float, right: float) -> None:
    """Draw the grid and the numbers of the vertical axis."""
    low, high = sorted((y.low, y.high))
    values = ticks(low, high, 4)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    for value in values:
        svg.line(left, y(value), right, y(value), "grid")
        svg.text(left - 6, y(value) + 3.5, tick_text(value, step), "tick", "end")


def _x_nights(svg: Svg, axis: TimeAxis, x: Scale, top: float, bottom: float) -> None:
    svg.line(x.start, bottom, x.end, bottom, "axis")
    for text, position in axis.hours:
        svg.line(x(position), bottom, x(position), bottom + 4, "axis")
        svg.text(x(position), bottom + 17, text, "tick", "middle")
    if len(axis.nights) < 2:
        return
    free = x.start - 1.0
    for number, (name, start, end) in enumerate(axis.nights):
        if number:
            svg.line(x(start) - 2, top, x(start) - 2, bottom, "night")
        half = 2.9 * len(name)
        middle = min(max((x(start) + x(end)) / 2, x.start + half), x.end - half)
        if middle - half > free:
            svg.text(middle, bottom + 17, name, "tick", "middle")
            free = middle + half + 6


def histogram(data: Histogram, label: str, css: str = "bars") -> Markup:
    """Plot counts as bars, with the limits written below."""
    svg = Svg(300, 50, label, "plot spark", fit="none")
    top = max([*data.counts, 1])
    wide = 300 / max(len(data.counts), 1)
    d = []
    for number, count in enumerate(data.counts):
        if count:
            # The square root keeps wings visible beside the peak.
            tall = max(46 * math.sqrt(count / top), 0.6)
            d.append(f"M{num(number * wide)} 49v{num(-tall)}h{num(wide - 0.6)}v{num(tall)}z")
    svg.path("".join(d), css)
    svg.line(0, 49.5, 300, 49.5, "axis")
    limits = f'<div class="limits"><span>{data.low:.4g}</span><span>{data.high:.4g}</span></div>'
    return svg.render() + Markup(limits)  # noqa: S704 - numbers only


def scatter(
    points: Sequence[tuple[float, float, str, str, int]],
    *,
    label: str,
    x_name: str,
    y_name: str,
    data: dict[str, str] | None = None,
) -> Markup:
    """Plot points ``(x, y, colour class, mark, number)`` on straight axes."""
    svg = Svg(440, 230, label, data=data or {})
    left, right, top, bottom = 52, 434, 24, 190
    low, high = span_of(p[0] for p in points)
    x = Scale(low, high, left, right)
    y_low, y_high = span_of(p[1] for p in points)
    y = Scale(y_low, y_high, bottom, top)
    axis_left(svg, y, left, right)
    axis_below(svg, x, bottom, x_name)
    svg.text(2, 10, y_name, "name")
    series: dict[tuple[str, str], list[tuple[float, float, int]]] = defaultdict(list)
    for a, b, css, mark, number in points:
        series[css, mark].append((x(a), y(b), number))
    for (css, mark), members in sorted(series.items()):
        svg.points([m[:2] for m in members], [m[2] for m in members], f"{mark} {css}")
    return svg.render()


def axis_below(svg: Svg, x: Scale, bottom: float, name: str) -> None:
    """Draw the horizontal axis with its numbers and its name."""
    svg.line(x.start, bottom, x.end, bottom, "axis")
    values = ticks(x.low, x.high, 6)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    for value in values:
        svg.line(x(value), bottom, x(value), bottom + 4, "axis")
        svg.text(x(value), bottom + 16, tick_text(value, step), "tick", "middle")
    svg.text((x.start + x.end) / 2, bottom + 32, name, "name", "middle")


def scatter_over_magnitude(field: Field, number: int) -> Markup:
    """Plot the scatter of all light curves of a field over magnitude, with what is expected."""
    points = [p for p in field.points if p.rms > 0 and math.isfinite(p.mag)]
    label = (
        f"Scatter of {len(points)} light curves of field {field.name} over magnitude, "
        "with the scatter that the errors predict"
    )
    svg = Svg(1040, 360, label, data={"set": f"field{number}"})
    left, right, top, bottom = 62, 1032, 12, 316
    if not points:
        return svg.render()
    low, high = span_of(p.mag for p in points)
    x = Scale(low, high, left, right)
    logs = [math.log10(v) for p in points for v in (p.rms, p.expected) if v > 0]
    floor, roof = math.floor(min(logs) * 2) / 2, math.ceil(max(logs) * 2) / 2
    roof = max(min(roof, floor + 5), floor + 1)
    y = Scale(floor, roof, bottom, top)
    for power in range(math.floor(floor), math.ceil(roof) + 1):
        for digit in (1, 2, 3, 4, 5, 6, 7, 8, 9):
            value = power + math.log10(digit)
            if floor <= value <= roof:
                svg.line(left, y(value), right, y(value), "grid" if digit == 1 else "grid faint")
                if digit in (1, 3):
                    svg.text(left - 6, y(value) + 3.5, _mmag(10**value), "tick", "end")
    axis_below(svg, x, bottom, "magnitude" if field.absolute else "instrumental magnitude")
    svg.text(left + 6, top + 10, "robust scatter", "name")
    groups: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for i, p in enumerate(field.points):
        if p.rms > 0 and math.isfinite(p.mag):
            groups[_mark(p)].append((x(p.mag), y(math.log10(p.rms)), i))
    size = " many" if len(points) > 1500 else ""
    for css in ("plain", "comparison", "variable"):
        members = groups[css]
        svg.points([m[:2] for m in members], [m[2] for m in members], f"dot {css}{size}")
    svg.path(_expected(points, x, y), "expected")
    return svg.render()


def _mark(curve: LightCurve) -> str:
    if curve.is_comparison:
        return "comparison"
    return "variable" if curve.excess > 3 else "plain"


def _mmag(value: float) -> str:
    return f"{value * 1000:.3g} mmag" if value < 0.0995 else f"{value:.2g} mag"


def _expected(points: Sequence[LightCurve], x: Scale, y: Scale) -> str:
    """Running median of the expected scatter along magnitude."""
    good = sorted((p.mag, p.expected) for p in points if p.expected > 0)
    if not good:
        return ""
    size = max(1, len(good) // 40)
    d = []
    for start in range(0, len(good), size):
        part = good[start : start + size]
        mag = part[len(part) // 2][0]
        middle = sorted(e for _, e in part)[len(part) // 2]
        d.append(f"{num(x(mag))} {num(y(math.log10(middle)))}")
    return "M" + "L".join(d)


def lightcurve(curve: LightCurve, time_name: str) -> Markup:
    """Plot one light curve: bright is up, error bars of one sigma."""
    label = (
        f"Light curve of {curve.source} in {curve.filter or 'no filter'}: {len(curve.time)} "
        f"points, median {curve.mag:.3f} mag, scatter {_mmag(curve.rms)}"
    )
    svg = Svg(320, 150, label)
    left, right, top, bottom = 44, 314, 8, 122
    reach = [v + s * e for v, e in zip(curve.value, curve.error, strict=True) for s in (-1, 1)]
    low, high = span_of(reach)
    y = Scale(high, low, bottom, top)
    t_low, t_high = span_of(curve.time)
    x = Scale(t_low, t_high, left, right)
    values = ticks(low, high, 4)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    for value in values:
        svg.line(left, y(value), right, y(value), "grid")
        svg.text(left - 5, y(value) + 3.5, tick_text(value, step), "tick", "end")
    svg.line(left, bottom, right, bottom, "axis")
    base = math.floor(t_low)
    times = ticks(t_low, t_high, 4)
    t_step = times[1] - times[0] if len(times) > 1 else 0.1
    for value in times:
        svg.text(x(value), bottom + 13, tick_text(value - base, t_step), "tick", "middle")
    svg.text(right, bottom + 25, f"{time_name} − {base}", "name", "end")
    bars = "".join(
        f"M{num(x(t))} {num(y(v - e))}V{num(y(v + e))}"
        for t, v, e in zip(curve.time, curve.value, curve.error, strict=True)
    )
    svg.path(bars, "bar")
    dots = [(x(t), y(v)) for t, v in zip(curve.time, curve.value, strict=True)]
    svg.path("".join(f"M{num(a)} {num(b)}h0" for a, b in dots), "pts dot variable")
    return svg.render()
