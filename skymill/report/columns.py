"""The columns of the table of frames, as JSON for the script of the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from skymill.report.advice import advice
from skymill.report.flows import KIND_WORDS
from skymill.report.funnel import FATE_WORDS, STEP_ORDER
from skymill.report.model import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skymill.report.model import Field, ReportData

__all__ = ["script_data"]

_STATUS_LETTERS = {
    "ok": "o",
    "degraded": "d",
    "rejected": "r",
    "failed": "f",
    "blocked": "b",
    "off": "-",
}


def script_data(data: ReportData) -> Markup:
    """Return the data of the script: JSON that is safe inside a script element.

    Parameters
    ----------
    data : ReportData
        What the page shows. Equal texts are stored once.
    """
    return _json(_columns(data))


def _columns(data: ReportData) -> dict[str, Any]:
    """Columns of the table of frames; equal texts are stored once."""
    fates = data.funnel.fates
    frames = data.frames
    steps = [s for s in STEP_ORDER if any(step == s for fate in fates for step, _ in fate.steps)]
    ways = []
    for fate in fates:
        status = dict(fate.steps)
        ways.append("".join(_STATUS_LETTERS.get(status.get(s, ""), " ") for s in steps))
    codes = sorted({fate.code for fate in fates if fate.code})
    metrics = {
        m.key: [_short(f.metrics.get(m.key)) for f in frames]
        for m in METRICS
        if any(m.key in f.metrics for f in frames)
    }
    return {
        "id": [f.frame_id for f in frames],
        "path": [f.path for f in frames],
        "time": [f.date_start[:19].replace("T", " ") for f in frames],
        "exp": [f.exptime_s for f in frames],
        "object": _interned(f.object for f in frames),
        "kind": _interned(KIND_WORDS.get(f.kind, f.kind) for f in frames),
        "target": _interned(f.target for f in frames),
        "filter": _interned(f.filter for f in frames),
        "night": _interned(f.night for f in frames),
        "fate": _interned(fate.fate for fate in fates),
        "step": _interned(fate.step for fate in fates),
        "code": _interned(fate.code for fate in fates),
        "message": _interned(fate.message for fate in fates),
        "fixes": _interned(f.fixes for f in frames),
        "way": _interned(ways),
        "steps": steps,
        "fates": FATE_WORDS,
        "advice": {code: advice(code) for code in codes},
        "metrics": metrics,
        "names": {m.key: [m.title, data.units.get(m.key, m.unit), m.digits] for m in METRICS},
        "sets": {f"field{n}": _set(field) for n, field in enumerate(data.fields)},
    }


def _set(field: Field) -> list[str]:
    return [
        f"{p.source} {p.filter}: {p.mag:.3f} mag, scatter {p.rms * 1000:.3g} mmag, "
        f"expected {p.expected * 1000:.3g} mmag"
        for p in field.points
    ]


def _interned(values: Iterable[str]) -> dict[str, Any]:
    listed = list(values)
    unique = {value: number for number, value in enumerate(dict.fromkeys(listed))}
    return {"v": list(unique), "i": [unique[value] for value in listed]}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _json(tree: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 - the three characters of markup were replaced
