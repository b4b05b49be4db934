"""Masters over time: the table of `skymill.steps.master_history` as rows and drawings."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from skymill.errors import SkymillError
from skymill.report.plots import axis_below, axis_left
from skymill.report.svg import Scale, Svg, num, span_of
from skymill.report.wording import figure

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from markupsafe import Markup

__all__ = ["MasterSeries", "drift", "drifts", "load_history"]

#: Figures that are drawn: column, title.
_DRAWN = (
    ("gain_ratio", "Measured over declared gain"),
    ("read_noise_ratio", "Measured over declared read noise"),
    ("pattern_sigma", "Change of the pattern in units of its error"),
)


@dataclass(frozen=True)
class MasterSeries:
    """Masters of one kind and mode, in order of time, one amplifier.

    Parameters
    ----------
    name, kind, amplifier : str
        What they have in common.
    days : tuple of int
        Night of each, as an ordinal.
    values : dict
        Column of the table to one value per master; NaN where it is not known.
    flagged : int
        How many were flagged.
    """

    name: str
    kind: str
    amplifier: str
    days: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    flagged: int

    def middle(self, column: str, digits: int | None = None) -> str:
        """Return the range of a figure for people."""
        good = sorted(v for v in self.values[column] if math.isfinite(v))
        if not good:
            return "–"
        low, high = figure(good[0], digits), figure(good[-1], digits)
        return low if low == high else f"{low} … {high}"

    @property
    def nights(self) -> str:
        """Return the first and the last night."""
        first, last = (date.fromordinal(day).isoformat() for day in (self.days[0], self.days[-1]))
        return first if first == last else f"{first} … {last}"


def load_history(
    results: Path, planned: Collection[str] | None, missing: list[str]
) -> tuple[MasterSeries, ...]:
    """Return the series of at least two masters.

    Parameters
    ----------
    results : Path
        Folder of the products.
    planned : collection of str or None
        Ids of the masters that are shown; None for all.
    missing : list of str
        A sentence is added to it if the table cannot be read.
    """
    from skymill.io import read_table

    path = results / "master_history.parquet"
    if not path.is_file():
        return ()
    try:
        table = read_table(path)
        rows: list[dict[str, Any]] = [
            {name: row[name] for name in table.colnames}
            for row in table
            if planned is None or str(row["master"]) in planned
        ]
        groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            groups[str(row["series"]), str(row["amplifier"])].append(row)
        return tuple(_series(*key, found) for key, found in groups.items() if len(found) > 1)
    except (OSError, KeyError, ValueError, SkymillError) as error:
        missing.append(f"master_history.parquet could not be read: {type(error).__name__}")
        return ()


def _series(name: str, amplifier: str, rows: Sequence[dict[str, Any]]) -> MasterSeries:
    columns = [column for column, _ in _DRAWN]
    columns += ["level", "gain_e_adu", "read_noise_e", "changed_fraction"]
    values = {column: tuple(float(row[column]) for row in rows) for column in columns}
    days = tuple(date.fromisoformat(str(row["night"])).toordinal() for row in rows)
    hot = (float(row["n_hot"]) for row in rows)
    values["n_hot"] = tuple(count if count >= 0 else math.nan for count in hot)
    flagged = sum(str(row["flags"]) != "" for row in rows)
    return MasterSeries(name, str(rows[0]["kind"]), amplifier, days, values, flagged)


def drifts(history: Sequence[MasterSeries]) -> list[tuple[str, Markup]]:
    """Return title and drawing of the figures that at least one series knows twice."""
    out = []
    for column, title in _DRAWN:
        known = [s for s in history if sum(map(math.isfinite, s.values[column])) > 1]
        if known:
            out.append((title, drift(known, column, title)))
    return out


def drift(history: Sequence[MasterSeries], column: str, title: str) -> Markup:
    """Plot one figure of all series over time; masters of a series are joined."""
    points = [
        [(d, v) for d, v in zip(s.days, s.values[column], strict=True) if math.isfinite(v)]
        for s in history
    ]
    every = [point for line in points for point in line]
    first = min(day for day, _ in every)
    values = [value for _, value in every]
    label = (
        f"{title} of {len(every)} masters since {date.fromordinal(first).isoformat()}: "
        f"{min(values):.4g} to {max(values):.4g}"
    )
    svg = Svg(440, 220, label)
    left, right, top, bottom = 52, 434, 12, 180
    x = Scale(*span_of(day - first for day, _ in every), left, right)
    y = Scale(*span_of([*values, 1.0]), bottom, top)
    axis_left(svg, y, left, right)
    axis_below(svg, x, bottom, f"nights since {date.fromordinal(first).isoformat()}")
    svg.line(left, y(1.0), right, y(1.0), "median")
    for line in points:
        where = [(x(day - first), y(value)) for day, value in line]
        svg.path("M" + "L".join(f"{num(a)} {num(b)}" for a, b in where), "axis")
    dots = "".join(f"M{num(x(day - first))} {num(y(value))}h0" for day, value in every)
    svg.path(dots, "pts dot variable")
    return svg.render()
