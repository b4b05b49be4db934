"""Drawings of what went where: the funnel, the way of the light frames, the nights."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from skymill.errors import CODES
from skymill.report.funnel import FATE_WORDS, FATES, meaning
from skymill.report.plots import clock, filter_class, hour_ticks
from skymill.report.svg import Scale, Svg, num

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skymill.report.funnel import Fate, Funnel
    from skymill.report.model import FrameRow

__all__ = ["KIND_WORDS", "night_line", "sankey", "sky_map", "step_bars"]

KINDS = ("light", "flat", "flat_dark", "dark", "bias", "")
KIND_WORDS = {
    "light": "light",
    "flat": "flat",
    "flat_dark": "dark of the flats",
    "dark": "dark",
    "bias": "bias",
    "": "kind unknown",
}
_MAX_REASONS = 12


@dataclass
class _Node:
    """A bar of the funnel: place, height, and how far ribbons have filled its sides."""

    x: float
    y: float
    height: float
    count: int
    left: float = 0.0
    right: float = 0.0


def sankey(funnel: Funnel) -> Markup:
    """Draw raw frames by kind, by fate and by reason; widths are numbers of frames."""
    reasons = _reason_keys(funnel)
    height = max(300.0, 30.0 * len(reasons) + 60)
    svg = Svg(1080, height + 8, _sentence(funnel), "plot flow")
    columns = (14.0, 190.0, 420.0, 640.0)
    flows = _flows(funnel, set(reasons))
    kinds = [k for k in KINDS if any(f[0] == k for f in flows)]
    fates = [f for f in FATES if any(flow[1] == f for flow in flows)]
    body = height - 40
    raw = {"": _Node(columns[0], 40, body, funnel.total)}
    by_kind = _stack(columns[1], kinds, _sum_of(flows, 0), body, 10)
    by_fate = _stack(columns[2], fates, _sum_of(flows, 1), body, 16)
    ends = _reason_nodes(columns[3], reasons, flows, by_fate, body)
    for name, title in zip(columns, ("raw", "kind", "fate", "reason"), strict=True):
        svg.text(name, 18, title.upper(), "head")
    for kind in kinds:
        count = sum(n for k, _, _, n in flows if k == kind)
        _ribbon(svg, raw[""], by_kind[kind], count, "link neutral", f"{count} {KIND_WORDS[kind]}")
    for kind in kinds:
        for fate in fates:
            count = sum(n for k, f, _, n in flows if (k, f) == (kind, fate))
            if count:
                title = f"{count} {KIND_WORDS[kind]} {FATE_WORDS[fate]}"
                _ribbon(svg, by_kind[kind], by_fate[fate], count, f"link s-{fate}", title)
    for key in reasons:
        count = sum(n for _, f, c, n in flows if (f, c) == key)
        _ribbon(svg, by_fate[key[0]], ends[key], count, f"link s-{key[0]}", f"{count} {key[1]}")
    _bars(svg, raw, by_kind, by_fate, ends)
    return svg.render()


def _sentence(funnel: Funnel) -> str:
    parts = [f"{count} {FATE_WORDS[name]}" for name, count in funnel.counts.items() if count]
    return f"{funnel.total} raw frames: " + ", ".join(parts)


def _reason_keys(funnel: Funnel) -> list[tuple[str, str]]:
    """Fate and code of the reasons shown; the rarest share one bar."""
    tally: Counter[tuple[str, str]] = Counter()
    for reason in funnel.reasons:
        tally[reason.fate, reason.code] += reason.count
    common = sorted(tally, key=lambda k: (-tally[k], k))
    if len(common) > _MAX_REASONS:
        rest = {fate for fate, _ in common[_MAX_REASONS:]}
        common = common[:_MAX_REASONS] + [(fate, "other reasons") for fate in sorted(rest)]
    return sorted(common, key=lambda k: (FATES.index(k[0]), -tally[k], k[1]))


def _flows(funnel: Funnel, shown: set[tuple[str, str]]) -> list[tuple[str, str, str, int]]:
    tally: Counter[tuple[str, str, str]] = Counter()
    for fate in funnel.fates:
        code = "" if fate.is_used else fate.code
        if code and (fate.fate, code) not in shown:
            code = "other reasons"
        tally[fate.kind if fate.kind in KINDS else "", fate.fate, code] += 1
    return [(*key, count) for key, count in sorted(tally.items())]


def _sum_of(flows: Sequence[tuple[str, str, str, int]], column: int) -> Counter[str]:
    """Sum the frames of the flows by kind (0), fate (1) or code (2)."""
    tally: Counter[str] = Counter()
    for flow in flows:
        tally[str(flow[column])] += flow[3]
    return tally


def _stack(
    x: float, names: Sequence[str], counts: Mapping[str, int], body: float, gap: float
) -> dict[str, _Node]:
    """Stack bars in a column; each is at least a few pixels tall so that it is seen."""
    total = sum(counts[name] for name in names)
    room = body - gap * (len(names) - 1)
    tall = [max(room * counts[name] / max(total, 1), 14.0) for name in names]
    shrink = room / sum(tall) if tall else 1.0
    nodes, y = {}, 40.0
    for name, height in zip(names, tall, strict=True):
        nodes[name] = _Node(x, y, height * shrink, counts[name])
        y += height * shrink + gap
    return nodes


def _reason_nodes(
    x: float,
    keys: Sequence[tuple[str, str]],
    flows: Sequence[tuple[str, str, str, int]],
    by_fate: Mapping[str, _Node],
    body: float,
) -> dict[tuple[str, str], _Node]:
    """Place the reasons near their fates, 26 px apart at least, inside the drawing."""
    nodes = {}
    free = 40.0
    for position, key in enumerate(keys):
        count = sum(n for _, f, c, n in flows if (f, c) == key)
        fate = by_fate[key[0]]
        height = max(fate.height * count / max(fate.count, 1), 4.0)
        mates = [k for k in keys if k[0] == key[0]]
        wish = fate.y + fate.height * mates.index(key) / len(mates)
        still = 26.0 * (len(keys) - position - 1)
        y = max(free, min(wish, 40 + body - still - height))
        nodes[key] = _Node(x, y, height, count)
        free = max(y + height + 6, y + 26)
    return nodes


def _ribbon(svg: Svg, start: _Node, end: _Node, count: int, css: str, title: str) -> None:
    """Join two bars by a ribbon whose ends take their share of the bars."""
    a, b = (max(n.height * count / max(n.count, 1), 0.5) for n in (start, end))
    y1, y2 = start.y + start.right, end.y + end.left
    start.right += a
    end.left += b
    x1, x2 = start.x + 12, end.x
    middle = num((x1 + x2) / 2)
    d = (
        f"M{num(x1)} {num(y1)}C{middle} {num(y1)} {middle} {num(y2)} {num(x2)} {num(y2)}"
        f"V{num(y2 + b)}C{middle} {num(y2 + b)} {middle} {num(y1 + a)} {num(x1)} {num(y1 + a)}z"
    )
    svg.path(d, css, title)


def _bars(
    svg: Svg,
    raw: Mapping[str, _Node],
    by_kind: Mapping[str, _Node],
    by_fate: Mapping[str, _Node],
    ends: Mapping[tuple[str, str], _Node],
) -> None:
    for name, node in raw.items():
        svg.rect(node.x, node.y, 12, node.height, "node neutral", 3)
        svg.text(node.x + 20, node.y + node.height / 2 + 2, str(node.count), "big")
        svg.text(node.x + 20, node.y + node.height / 2 + 18, name or "raw frames", "small")
    for name, node in by_kind.items():
        svg.rect(node.x, node.y, 12, node.height, "node neutral", 3)
        svg.text(node.x + 20, node.y + node.height / 2 + 4, f"{node.count} {KIND_WORDS[name]}")
    for name, node in by_fate.items():
        svg.rect(node.x, node.y, 12, node.height, f"node s-{name}", 3)
        svg.text(node.x + 20, node.y + node.height / 2 + 4, f"{node.count} {FATE_WORDS[name]}")
    for (fate, code), node in ends.items():
        svg.rect(node.x, node.y, 12, node.height, f"node s-{fate}", 2)
        y = node.y + node.height / 2 + 4
        name = code.replace(";", ", ")
        svg.text(node.x + 20, y, _cut(f"{node.count} × {name}", 50))
        if len(name) < 20:
            svg.text(node.x + 190, y, _cut(meaning(code) if code in CODES else "", 40), "small")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def step_bars(funnel: Funnel) -> Markup:
    """Draw how many light frames are left after each step."""
    steps = funnel.light_steps
    total = sum(fate.kind == "light" for fate in funnel.fates)
    label = "Light frames left: " + ", ".join(f"{count} after {step}" for step, count in steps)
    svg = Svg(1080, 134, f"{total} light frames. {label}", "plot flow")
    wide = 1060 / max(len(steps) + 1, 1)
    before = total
    for number, (step, count) in enumerate((("raw", total), *steps)):
        x = 10 + number * wide
        tall = 58 * count / max(total, 1)
        lost = 58 * (before - count) / max(total, 1)
        svg.rect(x, 86 - tall, wide - 8, tall, "node s-used soft", 3)
        if before > count:
            svg.rect(x, 86 - tall - lost, wide - 8, max(lost, 1.5), "node s-rejected", 2)
            svg.text(x + (wide - 8) / 2, 124, f"−{before - count}", "loss", "middle")
        svg.text(x + (wide - 8) / 2, 102, step, "tick", "middle")
        svg.text(x + (wide - 8) / 2, max(86 - tall - lost - 6, 14), str(count), "mid", "middle")
        before = count
    return svg.render()


def night_line(
    night: str,
    frames: Sequence[FrameRow],
    fates: Mapping[str, Fate],
    index: Mapping[str, int],
    filters: Sequence[str],
) -> Markup:
    """Draw the frames of one night over time, a lane for each target and kind."""
    timed = [f for f in frames if f.mjd_start is not None]
    lanes: dict[tuple[int, str], list[FrameRow]] = defaultdict(list)
    for frame in timed:
        name = frame.target or "light" if frame.kind == "light" else KIND_WORDS.get(frame.kind, "")
        lanes[0 if frame.kind == "light" else 1, name].append(frame)
    order = sorted(lanes, key=lambda k: (k[0], min(f.mjd_start or 0 for f in lanes[k]), k[1]))
    shown = order[:14]
    height = 26 * len(shown) + 30
    svg = Svg(1080, height, f"{len(timed)} frames of the night {night} over time", "plot wide")
    left, right = 170, 1070
    low = min((f.mjd_start or 0.0 for f in timed), default=0.0)
    high = max(((f.mjd_start or 0.0) + (f.exptime_s or 0) / 86400 for f in timed), default=1.0)
    pad = max((high - low) * 0.01, 1e-4)
    x = Scale(low - pad, high + pad, left, right)
    for value in hour_ticks(low - pad, high + pad, 9):
        svg.line(x(value), 6, x(value), height - 22, "grid")
        svg.text(x(value), height - 6, clock(value), "tick", "middle")
    for row, key in enumerate(shown):
        y = 18 + 26 * row
        name = key[1] if len(key[1]) <= 24 else key[1][:23] + "…"
        svg.text(left - 12, y + 4, f"{name} · {len(lanes[key])}", "", "end")
        svg.line(left, y, right, y, "grid")
        _lane(svg, lanes[key], fates, index, x, y, filters)
    return svg.render()


def _lane(
    svg: Svg,
    frames: Sequence[FrameRow],
    fates: Mapping[str, Fate],
    index: Mapping[str, int],
    x: Scale,
    y: float,
    filters: Sequence[str],
) -> None:
    """Each exposure is a stroke as long as it lasted, at least two pixels."""
    series: dict[str, list[FrameRow]] = defaultdict(list)
    for frame in frames:
        used = fates[frame.frame_id].is_used
        flat = frame.kind in ("light", "flat")
        css = filter_class(frame.filter, filters) if flat else "f-k"
        series[css if used else f"{css} unused"].append(frame)
    for css, members in sorted(series.items()):
        d = []
        for frame in members:
            start = frame.mjd_start or 0.0
            begin, end = x(start), x(start + (frame.exptime_s or 0.0) / 86400)
            d.append(f"M{num(begin)} {num(y)}h{num(max(end - begin - 0.8, 2.0))}")
        which = " ".join(str(index[f.frame_id]) for f in members)
        svg.parts.append(f'<path class="pts lane {css}" d="{"".join(d)}" data-i="{which}"/>')


def sky_map(stars: Sequence[tuple[float, float, float]]) -> Markup:
    """Draw the stars of the best frame as the background of the page's head."""
    tiers: dict[int, list[str]] = defaultdict(list)
    for x, y, brightness in stars:
        tier = min(int(brightness * 6), 5)
        tiers[tier].append(f"M{num(1000 * x)} {num(1000 * (1 - y))}h0")
    paths = "".join(
        f'<path class="star t{tier}" d="{"".join(d)}"/>' for tier, d in sorted(tiers.items())
    )
    return Markup(  # noqa: S704 - numbers only
        '<svg class="sky" viewBox="0 0 1000 1000" preserveAspectRatio="xMidYMid slice" '
        f'aria-hidden="true">{paths}</svg>'
    )
