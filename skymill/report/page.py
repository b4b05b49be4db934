"""The page: one HTML text with style, script, drawings and pictures inside.

The same data give the same bytes. All text that comes from files is escaped: by the
template for HTML, by `script_data` for the script, which itself only ever writes
text nodes.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from skymill.report.blocks import noise_meaning
from skymill.report.columns import script_data
from skymill.report.diagnostics import diagnostics
from skymill.report.flows import KIND_WORDS, night_line, sankey, sky_map, step_bars
from skymill.report.funnel import FATE_WORDS, FATES, Funnel
from skymill.report.history import drifts
from skymill.report.model import METRICS
from skymill.report.plots import (
    filter_class,
    histogram,
    lightcurve,
    quality,
    scatter,
    scatter_over_magnitude,
    time_axis,
)
from skymill.report.warned import Warned, collect_warnings
from skymill.report.wording import count, facts, figure, median, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skymill.report.model import Field, FrameRow, ReportData
    from skymill.report.pictures import Picture

__all__ = ["build_page", "verdict"]

_MAX_NIGHTS = 8
_MAX_LISTED = 100


def build_page(
    data: ReportData,
    *,
    title: str = "skymill reduction",
    version: str = "",
    settings_digest: str = "",
    code: str = "",
) -> str:
    """Return the report as one HTML text that needs nothing else.

    Parameters
    ----------
    data : ReportData
        What is shown.
    title : str
        Title of the page.
    version, settings_digest, code : str
        For the foot of the page: version of skymill, digest of the settings,
        fingerprint of the code.

    Returns
    -------
    str
        HTML, UTF-8, without external resources, times of writing or paths.
    """
    warned = collect_warnings(data)
    lights = [f for f in data.frames if f.kind == "light"]
    filters = sorted({f.filter for f in data.frames if f.kind in ("light", "flat")})
    environment = Environment(
        loader=PackageLoader("skymill.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(facts=facts, figure=figure, uri=_uri, count=count, percent=percent)
    text = environment.get_template("page.html.j2").render(
        title=title,
        style=Markup(_resource("report.css")),  # noqa: S704 - our own file
        script=Markup(_resource("report.js")),  # noqa: S704 - our own file
        verdict=verdict(data.funnel, warned),
        subtitle=_subtitle(data.frames),
        sky=sky_map(data.sky) if data.sky else "",
        tiles=_tiles(data, lights),
        funnel=data.funnel,
        fate_words=FATE_WORDS,
        fates=FATES,
        kind_words=KIND_WORDS,
        by_kind=_by_kind(data.funnel),
        sankey=sankey(data.funnel) if data.frames else "",
        step_bars=step_bars(data.funnel) if lights else "",
        max_listed=_MAX_LISTED,
        warned=warned,
        missing=data.missing,
        nights=_nights(data, filters),
        filters=[(name or "no filter", filter_class(name, filters)) for name in filters],
        masters=data.masters,
        history=data.history,
        drifts=drifts(data.history),
        histogram=histogram,
        quality=_quality(data, lights),
        blocks=data.blocks,
        noise=_noise(data),
        stacks=data.stacks,
        fluxes=_fluxes(data, lights, filters),
        positions=_positions(data, lights),
        fields=[_field(field, number) for number, field in enumerate(data.fields)],
        diagnostics=diagnostics(data.residuals, lights, data.fields, data.stacks),
        movers=data.movers,
        lightcurve=lightcurve,
        version=version,
        settings_digest=settings_digest,
        code=code,
        json=script_data(data),
    )
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip()) + "\n"


def verdict(funnel: Funnel, warned: Sequence[Warned] = ()) -> str:
    """Return the reduction in one sentence: frames used, lost and why, warnings."""
    parts = [f"{funnel.used} of {funnel.total} frames used"]
    for fate in FATES[2:]:
        if funnel.counts[fate]:
            codes = Counter[str]()
            for reason in funnel.reasons:
                if reason.fate == fate:
                    codes[reason.code] += reason.count
            common = [name.replace(";", ", ") for name, _ in codes.most_common(2) if name]
            more = ", …" if len(codes) > 2 else ""
            why = f" ({', '.join(common)}{more})" if common and fate != "not_needed" else ""
            parts.append(f"{funnel.counts[fate]} {FATE_WORDS[fate]}{why}")
    serious = sum(w.is_serious for w in warned)
    if serious:
        parts.append(f"{serious} warning{'s' if serious > 1 else ''} to look at")
    return "; ".join(parts) + "."


def _resource(name: str) -> str:
    return files("skymill.report").joinpath("templates", name).read_text(encoding="utf-8")


def _uri(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")


# --- head -------------------------------------------------------------------------


def _subtitle(frames: Sequence[FrameRow]) -> str:
    def some(names: Iterable[str], what: str) -> str:
        there = sorted({name for name in names if name})
        if len(there) > 4:
            return f"{len(there)} {what}"
        return ", ".join(there)

    nights = sorted({f.night for f in frames if f.night})
    when = nights[0] if len(nights) == 1 else ""
    if len(nights) > 1:
        when = f"{len(nights)} nights, {nights[0]} to {nights[-1]}"
    targets = some((f.target for f in frames if f.kind == "light"), "targets")
    parts = [some((f.instrument for f in frames), "instruments"), when, targets]
    return " · ".join(part for part in parts if part)


def _tiles(data: ReportData, lights: Sequence[FrameRow]) -> list[tuple[str, str, str]]:
    """Figures at the head of the page: name, value, remark."""
    fates = {fate.frame_id: fate for fate in data.funnel.fates}
    used = [f for f in lights if fates[f.frame_id].is_used]
    hours = sum(f.exptime_s or 0.0 for f in used) / 3600
    tiles = [
        (
            "Light frames",
            f"{count(len(used))} / {count(len(lights))}",
            f"{hours:.1f} h of exposure",
        ),
        (
            "Masters",
            str(sum(m.status in ("ok", "degraded") for m in data.masters)),
            f"of {len(data.masters)} planned",
        ),
    ]
    seeing = median(f.metrics["fwhm"] for f in used if "fwhm" in f.metrics)
    if seeing is not None:
        best = min(f.metrics["fwhm"] for f in used if "fwhm" in f.metrics)
        unit = data.units.get("fwhm", "")
        tiles.append(("Median seeing", f"{seeing:.2f} {unit}", f"best {best:.2f} {unit}"))
    depths = [f.metrics["depth"] for f in used if "depth" in f.metrics]
    stack_depths = [float(v) for s in data.stacks if (v := _number(s.numbers, "depth_mag"))]
    if stack_depths:
        tiles.append(("Deepest stack", f"{max(stack_depths):.2f} mag", "5 σ, point source"))
    elif depths:
        tiles.append(("Deepest frame", f"{max(depths):.2f} mag", "5 σ, point source"))
    made = sum(s.status in ("ok", "degraded") for s in data.stacks)
    if data.stacks:
        tiles.append(("Stacks", str(made), f"of {len(data.stacks)} planned"))
    if data.fields:
        curves = sum(field.total for field in data.fields)
        tiles.append(("Light curves", count(curves), f"in {len(data.fields)} field(s)"))
    return tiles


def _number(numbers: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        value = numbers.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return None


def _by_kind(funnel: Funnel) -> list[tuple[str, Counter[str], int]]:
    """Rows of the table of counts: kind, number of each fate, total."""
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    for fate in funnel.fates:
        tally[fate.kind][fate.fate] += 1
    order = [*KIND_WORDS, *sorted(set(tally) - set(KIND_WORDS))]
    return [
        (KIND_WORDS.get(kind, kind), tally[kind], sum(tally[kind].values()))
        for kind in order
        if kind in tally
    ]


# --- nights and quality -----------------------------------------------------------


def _nights(data: ReportData, filters: Sequence[str]) -> dict[str, Any]:
    """Time lines of the fullest nights and a table of all."""
    by_night: dict[str, list[FrameRow]] = defaultdict(list)
    for frame in data.frames:
        by_night[frame.night].append(frame)
    timed = {n: v for n, v in by_night.items() if n and any(f.mjd_start is not None for f in v)}
    full = sorted(sorted(timed), key=lambda n: -len(timed[n]))[:_MAX_NIGHTS]
    fates = {fate.frame_id: fate for fate in data.funnel.fates}
    index = {f.frame_id: number for number, f in enumerate(data.frames)}
    lines = [(n, night_line(n, timed[n], fates, index, filters)) for n in sorted(full)]
    rows = []
    for night in sorted(by_night):
        members = by_night[night]
        kinds = Counter(KIND_WORDS.get(f.kind, f.kind) for f in members)
        seen = Counter((f.target, f.filter) for f in members if f.kind == "light")
        starts = sorted(f.date_start for f in members if f.date_start)
        rows.append(
            {
                "night": night or "unknown",
                "span": f"{starts[0][11:16]} to {starts[-1][11:16]}" if starts else "–",
                "kinds": ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())),
                "seen": ", ".join(f"{t or '?'} {f} × {n}" for (t, f), n in sorted(seen.items())),
                "used": sum(fates[f.frame_id].is_used for f in members),
                "count": len(members),
            }
        )
    return {"lines": lines, "rows": rows, "hidden": len(timed) - len(lines)}


@dataclass(frozen=True)
class _Panel:
    title: str
    help: str
    middle: str
    plot: Markup


def _quality(data: ReportData, lights: Sequence[FrameRow]) -> list[_Panel]:
    """One panel for each figure that at least one light frame has."""
    axis = time_axis(lights)
    fates = {fate.frame_id: fate.fate for fate in data.funnel.fates}
    index = {f.frame_id: number for number, f in enumerate(data.frames)}
    panels = []
    for metric in METRICS:
        values = [f.metrics[metric.key] for f in lights if metric.key in f.metrics]
        if not values or not axis.where:
            continue
        unit = data.units.get(metric.key, metric.unit)
        middle = f"{figure(median(values), metric.digits)} {unit}".strip()
        title = metric.title
        if metric.key == "zp" and len({f.filter for f in lights}) > 1:
            # The step between filters would hide the change with time.
            title, middle = "Zero point − median of the filter", ""
        plot = quality(metric, unit, lights, fates, axis, index)
        panels.append(_Panel(title, metric.help, middle, plot))
    return panels


def _noise(data: ReportData) -> list[dict[str, Any]]:
    """Measured over propagated noise: a row per block, with what it means."""
    return [
        {
            "name": " · ".join(part for part in (b.target or b.name, b.filter, b.night) if part),
            "instrument": b.instrument,
            "frames": b.n_frames,
            "middle": b.ratios[1],
            "low": b.ratios[0],
            "high": b.ratios[2],
            "meaning": noise_meaning(b.ratios[1]),
        }
        for b in data.blocks
        if b.ratios is not None
    ]


# --- calibration of fluxes and positions, light curves ---------------------------


def _fluxes(data: ReportData, lights: Sequence[FrameRow], filters: Sequence[str]) -> dict[str, Any]:
    """Plot of zero point (or loss of light) over air mass and a table per filter."""
    index = {f.frame_id: number for number, f in enumerate(data.frames)}
    absolute = any("zp" in f.metrics for f in lights)
    points = []
    for name in sorted({f.filter for f in lights}):
        members = [f for f in lights if f.filter == name and "airmass" in f.metrics]
        values = {f.frame_id: value for f in members if (value := _light(f, absolute)) is not None}
        # The step between filters would hide the slope with air mass.
        middle = median(values.values()) or 0.0
        css = filter_class(name, filters)
        for f in members:
            if f.frame_id in values:
                value = values[f.frame_id] - middle
                points.append((f.metrics["airmass"], value, css, "dot", index[f.frame_id]))
    rows = []
    for name in sorted({f.filter for f in lights}):
        members = [f for f in lights if f.filter == name and "flux" in f.facts]
        if members:
            rows.append(_flux_row(name, members))
    name = f"{'zero point' if absolute else '2.5 log throughput'} − median of the filter (mag)"
    label = f"{name} of {len(points)} frames over air mass"
    plot = ""
    if len(points) > 1:
        plot = scatter(points, label=label, x_name="air mass", y_name=name, data={"metric": "zp"})
    return {"plot": plot, "rows": rows, "absolute": absolute, "label": label}


def _light(frame: FrameRow, absolute: bool) -> float | None:
    """Zero point of a frame, or its throughput in magnitudes."""
    if absolute:
        return frame.metrics.get("zp")
    throughput = frame.metrics.get("throughput", 0.0)
    return 2.5 * math.log10(throughput) if throughput > 0 else None


def _flux_row(name: str, members: Sequence[FrameRow]) -> dict[str, Any]:
    def middle(key: str) -> float | None:
        return median(f.metrics[key] for f in members if key in f.metrics)

    ways = Counter(f.facts["flux"] or "none" for f in members)
    return {
        "filter": name or "no filter",
        "frames": len(members),
        "ways": ", ".join(f"{n} {way}" for way, n in sorted(ways.items())),
        "zp": middle("zp"),
        "err": middle("zp_err"),
        "scatter": middle("zp_scatter"),
        "floor": middle("zp_floor"),
        "stars": middle("n_stars"),
        "rejected": middle("n_rejected"),
        "throughput": middle("throughput"),
    }


def _positions(data: ReportData, lights: Sequence[FrameRow]) -> list[dict[str, Any]]:
    """How positions were found, and how well."""
    ways: dict[str, list[FrameRow]] = defaultdict(list)
    for frame in lights:
        if "wcs" in frame.facts:
            ways[frame.facts["wcs"] or "none"].append(frame)
    return [
        {
            "way": way,
            "frames": len(members),
            "rms": median(f.metrics["astrometry"] for f in members if "astrometry" in f.metrics),
            "unit": data.units.get("astrometry", ""),
            "stars": median(f.metrics["n_match"] for f in members if "n_match" in f.metrics),
            "scale": median(
                f.metrics["scale_arcsec_px"] for f in members if "scale_arcsec_px" in f.metrics
            ),
        }
        for way, members in sorted(ways.items())
    ]


def _field(field: Field, number: int) -> dict[str, Any]:
    stars = [p for p in field.points if p.is_comparison]
    best = min((p.rms for p in field.points if p.rms > 0), default=None)
    return {
        "name": field.name,
        "time_name": field.time_name,
        "count": field.total,
        "shown": len(field.points),
        "comparisons": len(stars),
        "star_rms": median(p.rms for p in stars if p.rms > 0),
        "best": best,
        "plot": scatter_over_magnitude(field, number),
        "curves": field.curves,
        "variable": sum(p.excess > 3 for p in field.points),
    }
