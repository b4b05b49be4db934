"""How good the calibration is: residuals of zero points and positions, noise, stacks."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.diagnostics.calibration import robust_slope
from skymill.diagnostics.scatter import fit_power_law
from skymill.errors import SkymillError
from skymill.report.plots import axis_below, axis_left
from skymill.report.svg import Scale, Svg, num, span_of
from skymill.report.wording import median

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from markupsafe import Markup

    from skymill.report.model import Field, FrameRow, StackView

__all__ = ["Residuals", "diagnostics", "load_residuals"]

_UNREADABLE = (OSError, KeyError, ValueError, SkymillError)
#: Frames of which residuals are shown, and stars of each.
_MOST_FRAMES, _MOST_STARS = 8, 600
#: Brightest, middle and faintest third of the sources of a field and filter.
_PARTS = ("bright", "middle", "faint")


@dataclass(frozen=True)
class Residuals:
    """What is left of a frame's zero point at each catalogue star.

    Parameters
    ----------
    field, filter, frame_id, band : str
        The frame, that of reference of its field and filter, and the catalogue's band.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    stars : tuple of (x, y, magnitude, colour, residual, kept)
        One each; colours may be NaN.
    """

    field: str
    filter: str
    frame_id: str
    band: str
    shape: tuple[int, int]
    stars: tuple[tuple[float, float, float, float, float, bool], ...]


def load_residuals(
    results: Path, planned: Collection[str] | None, missing: list[str]
) -> tuple[Residuals, ...]:
    """Return the residuals of the reference frame of each field and filter.

    Fields without a catalogue have none. What cannot be read becomes a sentence in `missing`.
    """
    out: list[Residuals] = []
    for path in sorted((results / "reference_frames").glob("*.parquet")):
        field = path.name.removesuffix(".parquet")
        catalog = results / "reference_catalogs" / path.name
        if (planned is not None and field not in planned) or not catalog.is_file():
            continue
        try:
            out += _field_residuals(results, field, path, catalog, _MOST_FRAMES - len(out))
        except _UNREADABLE as error:
            missing.append(
                f"The zero-point residuals of {field} could not be read: {type(error).__name__}"
            )
        if len(out) >= _MOST_FRAMES:
            break
    return tuple(out)


def _field_residuals(
    results: Path, field: str, path: Path, catalog: Path, most: int
) -> list[Residuals]:
    from skymill import io
    from skymill.catalogs import read_catalog
    from skymill.diagnostics.residuals import zero_point_residuals
    from skymill.jobs.tables import by_frame, records

    frames: dict[str, Any] = io.read_table(path).meta.get("frames", {})
    known = None
    out: list[Residuals] = []
    for table in sorted((results / "photcal").glob("*.parquet")):
        rows = {k: v for k, v in records(io.read_table(table)).items() if k in frames}
        rows = {k: v for k, v in rows.items() if v.get("solution") == "absolute"}
        for name, row in sorted(rows.items()):
            if len(out) == most:
                return out
            known = read_catalog(catalog) if known is None else known
            solution = records(io.read_table(results / "astrometry" / table.name))[name]
            sources = by_frame(io.read_table(results / "sources" / table.name)).get(name)
            if sources is None or str(solution["solution"]) == "none":
                continue
            found = zero_point_residuals(sources, known, io.wcs_from_text(solution["wcs"]), row)
            if found is None:
                continue
            found = found[:_MOST_STARS]
            columns = [np.asarray(found[key], float).tolist() for key in found.colnames[:5]]
            stars = tuple(zip(*columns, np.asarray(found["keep"], bool).tolist(), strict=True))
            shape = (int(solution["ny"]), int(solution["nx"]))
            out.append(
                Residuals(field, str(frames[name]["filter"]), name, str(row["band"]), shape, stars)
            )
    return out


def diagnostics(
    residuals: Sequence[Residuals],
    lights: Sequence[FrameRow],
    fields: Sequence[Field],
    stacks: Sequence[StackView],
) -> dict[str, Any]:
    """Return what the section shows: drawings and rows of tables, all of them may be empty."""
    return {
        "residuals": [_residual_card(item) for item in residuals if len(item.stars) >= 3],
        "positions": _positions(lights),
        "positions_plot": _positions_plot(lights),
        "scatter": [row for field in fields for row in _scatter_rows(field)],
        "stacks": _stack_rows(stacks),
    }


# --- zero points ----------------------------------------------------------------------


def _residual_card(item: Residuals) -> dict[str, Any]:
    stars = np.array([star[:5] for star in item.stars], float)
    keep = np.array([star[5] for star in item.stars], bool)
    x, y, mag, colour, off = stars.T
    middle = float(np.median(off[keep])) if keep.any() else 0.0
    sigma = 1.4826 * float(np.median(np.abs(off[keep] - middle))) if keep.any() else 0.0
    slopes = {
        name: robust_slope(values[keep], off[keep])
        for name, values in (("x", x / 1e3), ("y", y / 1e3), ("colour", colour), ("mag", mag))
    }
    return {
        "title": item.field, "filter": item.filter, "frame": item.frame_id, "band": item.band,
        "n": int(keep.sum()), "rejected": int((~keep).sum()), "scatter": sigma, "slopes": slopes,
        "map": _residual_map(item, x, y, off, sigma),
        "colour": _residual_plot(colour, off, keep, sigma, "colour (mag)", item),
        "mag": _residual_plot(mag, off, keep, sigma, "magnitude", item),
    }  # fmt: skip


def _residual_map(item: Residuals, x: Any, y: Any, off: Any, sigma: float) -> Markup:
    """Stars at their places: orange is too bright, blue too faint, larger is more."""
    ny, nx = item.shape
    label = (
        f"Zero-point residuals of {len(off)} stars over frame {item.frame_id}, "
        f"scatter {sigma:.3f} mag"
    )
    tall = min(max(300 * ny / nx, 120), 420)
    svg = Svg(300, tall, label)
    svg.rect(0.5, 0.5, 299, tall - 1, "frame")
    groups: dict[str, list[str]] = defaultdict(list)
    for a, b, value in zip(x, y, off, strict=True):
        size = 1 + min(int(abs(value) / max(sigma, 1e-6)), 3)
        sign = "plus" if value > 0 else "minus"
        where = f"M{num(300 * (a + 0.5) / nx)} {num(tall * (1 - (b + 0.5) / ny))}h0"
        groups[f"pts {sign} size{size}"].append(where)
    for css, parts in sorted(groups.items()):
        svg.path("".join(parts), css)
    return svg.render()


def _residual_plot(
    values: Any, off: Any, keep: Any, sigma: float, name: str, item: Residuals
) -> Markup | str:
    there = np.isfinite(values)
    if there.sum() < 3:
        return ""
    label = f"Zero-point residuals of {item.frame_id} over {name}"
    svg = Svg(300, 270, label)
    left, right, top, bottom = 46, 294, 8, 232
    x = Scale(*span_of(values[there].tolist()), left, right)
    reach = max(5 * sigma, 0.02)
    y = Scale(-reach, reach, bottom, top)
    axis_left(svg, y, left, right)
    axis_below(svg, x, bottom, name)
    svg.line(left, y(0.0), right, y(0.0), "median")
    for chosen, css in ((there & keep, "pts dot plain"), (there & ~keep, "pts dot variable")):
        d = [
            f"M{num(x(float(a)))} {num(y(float(b)))}h0"
            for a, b in zip(values[chosen], off[chosen], strict=True)
        ]
        if d:
            svg.path("".join(d), css)
    return svg.render()


# --- positions ------------------------------------------------------------------------


def _positions(lights: Sequence[FrameRow]) -> list[dict[str, Any]]:
    """Residuals of positions by filter: medians over the frames."""
    groups: dict[str, list[FrameRow]] = defaultdict(list)
    for frame in lights:
        if "rms_x_px" in frame.metrics:
            groups[frame.filter].append(frame)
    names = (
        "rms_x_px", "rms_y_px", "holdout_rms_px", "middle_err_px", "variance_ratio", "n_match",
    )  # fmt: skip
    return [
        {"filter": name or "no filter", "frames": len(members)}
        | {k: median(f.metrics[k] for f in members if k in f.metrics) for k in names}
        for name, members in sorted(groups.items())
    ]


def _positions_plot(lights: Sequence[FrameRow]) -> Markup | str:
    """Hold-out residual of each frame over that of the fit: above the line is over-fitted."""
    points = [
        (f.metrics["rms_px"], f.metrics["holdout_rms_px"])
        for f in lights
        if f.metrics.get("rms_px", 0.0) > 0 and f.metrics.get("holdout_rms_px", 0.0) > 0
    ]
    if len(points) < 3:
        return ""
    svg = Svg(440, 230, f"Residuals of left-out stars over those of the fit, {len(points)} frames")
    left, right, top, bottom = 52, 434, 24, 190
    low, high = span_of([v for point in points for v in point])
    low = max(low, 0.0)
    x, y = Scale(low, high, left, right), Scale(low, high, bottom, top)
    axis_left(svg, y, left, right)
    axis_below(svg, x, bottom, "rms of the fitted stars (px)")
    svg.text(2, 10, "rms of stars left out of the fit (px)", "name")
    svg.path(f"M{num(x(low))} {num(y(low))}L{num(x(high))} {num(y(high))}", "median")
    many = " many" if len(points) > 400 else ""
    svg.path("".join(f"M{num(x(a))} {num(y(b))}h0" for a, b in points), f"pts dot f-l{many}")
    return svg.render()


# --- noise of light curves ------------------------------------------------------------


def _scatter_rows(field: Field) -> list[dict[str, Any]]:
    """Scatter over expectation in thirds by brightness, and the power law, for each filter."""
    out = []
    for name in sorted({p.filter for p in field.points}):
        mine = sorted(
            (p for p in field.points if p.filter == name and p.rms > 0 and math.isfinite(p.mag)),
            key=lambda p: (p.mag, p.source),
        )
        if len(mine) < 6:
            continue
        law = fit_power_law([p.mag for p in mine], [p.rms for p in mine])
        n = len(mine)
        parts = [mine[k * n // 3 : (k + 1) * n // 3] for k in range(3)]
        row: dict[str, Any] = {
            "field": field.name, "filter": name or "no filter", "n": n,
            "exponent": None if law is None else law.exponent,
            "floor": median(p.rms for p in mine[: max(3, n // 10)]),
        }  # fmt: skip
        for part, members in zip(_PARTS, parts, strict=True):
            row[part] = median(p.excess for p in members if math.isfinite(p.excess))
        out.append(row)
    return out


# --- stacks ---------------------------------------------------------------------------


def _stack_rows(stacks: Sequence[StackView]) -> list[dict[str, Any]]:
    def figure(numbers: Mapping[str, Any], name: str) -> float | None:
        value = numbers.get(name)
        good = isinstance(value, int | float) and math.isfinite(value)
        return float(value) if good else None  # type: ignore[arg-type]

    return [
        {
            "name": s.name, "used": s.n_used, "left_out": max(s.n_inputs - s.n_used, 0),
            "coverage": figure(s.numbers, "coverage_median"),
            "correlation": figure(s.numbers, "corr_inf"),
            "shared": figure(s.numbers, "shared_err_e"),
            "holes": figure(s.numbers, "hole_fraction"),
            "fwhm": figure(s.numbers, "fwhm_frames_px"),
            "depth": figure(s.numbers, "depth_mag"),
        }
        for s in stacks
        if s.status in ("ok", "degraded")
    ]  # fmt: skip
