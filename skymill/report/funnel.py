"""The funnel: what became of every row of the sheet.

Each row ends in exactly one fate, so that ``raw = used + every reason``. A row that
cannot be placed is a defect of the bookkeeping and raises.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skymill.errors import CODES, Outcome
from skymill.report.advice import advice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "FATES",
    "FATE_WORDS",
    "STEP_ORDER",
    "Fate",
    "Funnel",
    "FunnelError",
    "GroupOutcome",
    "Reason",
    "funnel",
]

#: The order in which a frame meets the steps.
STEP_ORDER = (
    "ingest",
    "plan",
    "master_bias",
    "master_dark",
    "master_flat",
    "master_history",
    "calibrate",
    "mask",
    "background",
    "sources",
    "reference_frames",
    "astrometry",
    "photcal",
    "stack",
    "catalog",
    "photometry",
    "lightcurves",
    "movers",
)
MASTER_STEPS = ("master_bias", "master_dark", "master_flat")
LIGHT_STEPS = (
    "ingest",
    "plan",
    "calibrate",
    "mask",
    "background",
    "sources",
    "astrometry",
    "photcal",
    "stack",
)

#: The possible ends of a frame, best first.
FATES = ("used", "degraded", "rejected", "failed", "blocked", "not_needed", "off")
FATE_WORDS = {
    "used": "used",
    "degraded": "used, degraded",
    "rejected": "rejected",
    "failed": "failed",
    "blocked": "blocked",
    "not_needed": "not needed",
    "off": "switched off",
}
_STOPS = ("rejected", "failed", "blocked")
_GOOD = ("ok", "degraded")


class FunnelError(RuntimeError):
    """A row of the sheet has no fate: a defect of the bookkeeping, not of the data."""


@dataclass(frozen=True)
class GroupOutcome(Outcome):
    """An outcome that knows the block, master or stack whose table it stands in.

    Parameters
    ----------
    group : str
        Name of the outcome table without its suffix; empty if unknown.
    """

    group: str = ""


@dataclass(frozen=True)
class Fate:
    """Where the way of one frame ended.

    Parameters
    ----------
    frame_id, path, kind : str
        The frame, its file and its kind (empty if unknown).
    fate : str
        One of `FATES`.
    step : str
        First step that stopped the frame; the last step that it reached if it is used.
    code, message : str
        Why it was stopped, or the flags of a degraded frame; empty if it is used.
    steps : tuple of (step, status)
        Its way, in the order of the steps.
    """

    frame_id: str
    path: str
    kind: str
    fate: str
    step: str
    code: str
    message: str
    steps: tuple[tuple[str, str], ...] = ()

    @property
    def is_used(self) -> bool:
        """True if the frame is part of a product."""
        return self.fate in ("used", "degraded")


@dataclass(frozen=True)
class Reason:
    """All frames that were stopped by one step with one code.

    Parameters
    ----------
    fate, step, code : str
        What they have in common.
    meaning, advice : str
        The code in plain words, and what to do.
    fates : tuple of Fate
        The frames, in the order of the sheet.
    """

    fate: str
    step: str
    code: str
    meaning: str
    advice: str
    fates: tuple[Fate, ...]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.fates)


@dataclass(frozen=True)
class Funnel:
    """Every row of the sheet with its fate; the counts add up to the sheet.

    Parameters
    ----------
    fates : tuple of Fate
        One per sheet row, in the order of the sheet.
    counts : dict
        Number of frames of each of `FATES`, all of them, in that order.
    reasons : tuple of Reason
        The frames that were not used, grouped: most frequent first within a fate.
    light_steps : tuple of (step, remaining)
        Number of light frames that were still there after each step.
    """

    fates: tuple[Fate, ...]
    counts: dict[str, int]
    reasons: tuple[Reason, ...]
    light_steps: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Number of rows of the sheet."""
        return len(self.fates)

    @property
    def used(self) -> int:
        """Number of frames that are part of a product, degraded ones included."""
        return self.counts["used"] + self.counts["degraded"]


def funnel(sheet: Sequence[Mapping[str, Any]], outcomes: Iterable[Outcome]) -> Funnel:
    """Give each row of the sheet its fate.

    A light frame is used if the stack took it, or, where there is no stack, if the last
    step that ran took it. A calibration frame is used if a master took it and that
    master was made. Otherwise the first step that stopped a frame tells its fate.

    Parameters
    ----------
    sheet : sequence of dict
        Rows with frame_id, path, kind, verdict, code and message.
    outcomes : iterable of Outcome
        Outcomes of all steps; those of masters, stacks and fields are recognised by
        an id that is not in the sheet. With `GroupOutcome` the failure of a master
        reaches its frames.

    Returns
    -------
    Funnel

    Raises
    ------
    FunnelError
        If a frame id occurs twice in the sheet, if a frame was neither used nor
        stopped, or if the counts do not add up.
    """
    ids = Counter(str(row["frame_id"]) for row in sheet)
    twice = sorted(name for name, count in ids.items() if count > 1)
    if twice:
        raise FunnelError(f"frame ids occur twice in the sheet: {_some(twice)}")
    by_frame: dict[str, list[Outcome]] = {name: [] for name in ids}
    dead: dict[tuple[str, str], Outcome] = {}
    active: set[str] = set()
    for outcome in outcomes:
        if outcome.frame_id in by_frame:
            by_frame[outcome.frame_id].append(outcome)
            if outcome.status != "off":
                active.add(outcome.step)
        elif outcome.status in _STOPS:
            dead[outcome.step, outcome.frame_id] = outcome
    fates = tuple(_fate(row, by_frame[str(row["frame_id"])], dead, active) for row in sheet)
    tally = Counter(fate.fate for fate in fates)
    counts = {name: tally[name] for name in FATES}
    if sum(counts.values()) != len(sheet):
        raise FunnelError(f"{len(sheet)} rows in the sheet, but the fates are {dict(tally)}")
    return Funnel(fates, counts, _reasons(fates), _light_steps(fates, active))


def _fate(
    row: Mapping[str, Any],
    outcomes: list[Outcome],
    dead: Mapping[tuple[str, str], Outcome],
    active: set[str],
) -> Fate:
    """Fate of one frame from its sheet row and its outcomes."""
    ordered = sorted(outcomes, key=_rank)
    verdict = str(row.get("verdict") or "ok")
    code, message = str(row.get("code") or ""), str(row.get("message") or "")
    kind = str(row.get("kind") or "")
    way = [("ingest", verdict), *_way(ordered)]

    def end(fate: str, step: str, code: str, message: str) -> Fate:
        name, path = str(row["frame_id"]), str(row.get("path") or "")
        return Fate(name, path, kind, fate, step, code, message, tuple(way))

    if verdict == "rejected":
        return end("rejected", "ingest", code, message)
    flags = [(code, message)] if verdict == "degraded" else []
    flags += [(o.code, o.message) for o in ordered if o.status == "degraded"]
    taken = _taken_by(kind, ordered, dead, active)
    if taken is not None:
        # A step that failed on the way without stopping the frame degrades it.
        flags += [(o.code, o.message) for o in ordered if o.status in _STOPS and _before(o, taken)]
        codes = ";".join(dict.fromkeys(c for joined, _ in flags for c in joined.split(";") if c))
        text = " ".join(dict.fromkeys(m for _, m in flags if m))
        return end("degraded" if flags else "used", taken, codes, text)
    for outcome in ordered:
        if outcome.code == "UNUSED_CALIBRATION":
            return end("not_needed", outcome.step, outcome.code, outcome.message)
        if outcome.status in _STOPS:
            return end(outcome.status, outcome.step, outcome.code, outcome.message)
        master = dead.get((outcome.step, getattr(outcome, "group", "")))
        if master is not None:
            return end("blocked", outcome.step, master.code, master.message)
    off = [o for o in ordered if o.status == "off"]
    if off and not any(o.status in _GOOD and o.step != "plan" for o in ordered):
        return end("off", off[0].step, off[0].code or "OFF", off[0].message)
    raise FunnelError(
        f"frame {row['frame_id']} ({kind or 'unknown kind'}) was neither used nor stopped; "
        f"its outcomes are {[(o.step, o.status) for o in ordered]}"
    )


def _taken_by(
    kind: str,
    ordered: list[Outcome],
    dead: Mapping[tuple[str, str], Outcome],
    active: set[str],
) -> str | None:
    """Step whose product holds the frame, or None."""

    def made(outcome: Outcome) -> bool:
        alive = (outcome.step, getattr(outcome, "group", "")) not in dead
        return outcome.status in _GOOD and alive

    if kind != "light":
        return next((o.step for o in ordered if o.step in MASTER_STEPS and made(o)), None)
    off = {o.step for o in ordered if o.status == "off"}
    last = next((s for s in reversed(LIGHT_STEPS[2:]) if s in active - off), None)
    return last if any(o.step == last and made(o) for o in ordered) else None


def _before(outcome: Outcome, step: str) -> bool:
    return _position(outcome.step) < _position(step)


def _position(step: str) -> int:
    return STEP_ORDER.index(step) if step in STEP_ORDER else len(STEP_ORDER)


def _rank(outcome: Outcome) -> tuple[int, str, str]:
    return _position(outcome.step), outcome.step, getattr(outcome, "group", "")


def _way(ordered: list[Outcome]) -> list[tuple[str, str]]:
    """One status per step; the best one where a frame belongs to several groups."""
    best: dict[str, str] = {}
    for outcome in ordered:
        seen = best.get(outcome.step)
        order = Outcome.STATUSES.index
        if seen is None or order(outcome.status) < order(seen):
            best[outcome.step] = outcome.status
    return list(best.items())


def _reasons(fates: Sequence[Fate]) -> tuple[Reason, ...]:
    groups: dict[tuple[str, str, str], list[Fate]] = {}
    for fate in fates:
        if not fate.is_used:
            groups.setdefault((fate.fate, fate.step, fate.code), []).append(fate)
    reasons = [
        Reason(fate, step, code, meaning(code), advice(code), tuple(members))
        for (fate, step, code), members in groups.items()
    ]
    reasons.sort(key=lambda r: (FATES.index(r.fate), -r.count, _position(r.step), r.code))
    return tuple(reasons)


def meaning(codes: str) -> str:
    """Plain words of one reason code or of several joined by ``;``."""
    return "; ".join(CODES.get(code, "unknown reason") for code in codes.split(";") if code)


def _light_steps(fates: Sequence[Fate], active: set[str]) -> tuple[tuple[str, int], ...]:
    """Light frames still there after each step that ran, starting with all of them."""
    lights = [fate for fate in fates if fate.kind == "light"]
    remaining = []
    for step in LIGHT_STEPS:
        if step in active or step == "ingest":
            there = sum(f.is_used or _position(f.step) > _position(step) for f in lights)
            remaining.append((step, there))
    return tuple(remaining)


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
