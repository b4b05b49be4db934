"""Say how far a reduction is: the funnel so far, the steps, what is missing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skymill.commands.project import Project, add_directory, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from skymill.plan import Plan
    from skymill.report.funnel import Funnel, GroupOutcome

__all__ = ["HELP", "State", "add_arguments", "funnel_lines", "main", "state"]

HELP = "how far a reduction is, what was rejected and why"

_STOPS = ("rejected", "failed", "blocked")
_NAMES_SHOWN = 4

#: What one job of a step works on.
_UNITS = {
    "calibrate": "block",
    "mask": "block",
    "background": "block",
    "sources": "block",
    "reference_frames": "field",
    "astrometry": "block",
    "photcal": "block",
    "stack": "stack",
    "catalog": "stack",
    "photometry": "block",
    "lightcurves": "field",
    "movers": "field",
}
_AFTER_STACK = ("stack", "catalog", "photometry", "lightcurves", "movers")


@dataclass(frozen=True)
class State:
    """How far a reduction is.

    Parameters
    ----------
    funnel : Funnel
        Fates of the frames that have one.
    pending : tuple of dict
        Sheet rows of the frames that still wait for a step.
    steps : dict
        Per step the number of frames with each status; ids of masters and stacks are
        not counted.
    missing : dict
        Per step the masters, blocks, stacks or fields that have no outcomes yet.
    plan : Plan
        The plan.
    outcomes : tuple of GroupOutcome
        What became of every frame so far.
    """

    funnel: Funnel
    pending: tuple[dict[str, Any], ...]
    steps: dict[str, dict[str, int]]
    missing: dict[str, tuple[str, ...]]
    plan: Plan
    outcomes: tuple[GroupOutcome, ...]

    @property
    def is_clean(self) -> bool:
        """True if no frame was rejected, failed or was blocked."""
        return not any(self.funnel.counts[fate] for fate in _STOPS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_directory(parser)
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")


def main(args: argparse.Namespace) -> int:
    """Print the state of a project."""
    project = Project.find(args.directory)
    now = state(project)
    if args.json:
        print(json.dumps(_as_json(project, now), indent=1, sort_keys=True))
        return 0
    print("\n".join(funnel_lines(now.funnel, len(now.pending))))
    if now.steps:
        print("\nframes per step")
        for step, counts in now.steps.items():
            told = ", ".join(f"{count} {status}" for status, count in counts.items())
            print(f"  {step:<17} {told}")
    if now.missing:
        print("\nnot done yet")
        for step, ids in now.missing.items():
            unit = "table" if step == "master_history" else _UNITS.get(step, "master")
            print(f"  {step:<17} {len(ids)} {unit}{'s' if len(ids) > 1 else ''}")
        print(f"`skymill run -d {shown(project.folder)}` does the rest")
    elif project.report.is_file():
        print(f"\nreport: {shown(project.report)}")
    return 0


def state(project: Project) -> State:
    """Return how far a project is, from its sheet, plan and outcomes."""
    from skymill.report.funnel import funnel

    rows = project.rows()
    plan = project.plan()
    outcomes = project.outcomes(plan)
    waiting = _pending(rows, outcomes)
    settled = [row for row in rows if row["frame_id"] not in waiting]
    return State(
        funnel=funnel(settled, outcomes),
        pending=tuple(row for row in rows if row["frame_id"] in waiting),
        steps=_per_step(rows, outcomes),
        missing=_missing(project, plan),
        plan=plan,
        outcomes=tuple(outcomes),
    )


def funnel_lines(funnel: Funnel, pending: int = 0) -> list[str]:
    """Return the funnel in words: raw = used + every reason.

    Parameters
    ----------
    funnel : Funnel
        Fates of the frames that have one.
    pending : int
        Frames that still wait.
    """
    from skymill.report.funnel import FATE_WORDS

    parts = [
        f"{count} {FATE_WORDS[fate].replace(',', ' but')}"
        for fate, count in funnel.counts.items()
        if count
    ]
    if pending:
        parts.append(f"{pending} waiting")
    lines = [f"{funnel.total + pending} raw frames = {' + '.join(parts) or '0'}"]
    for reason in funnel.reasons:
        names = _some([fate.path for fate in reason.fates])
        where = f"{FATE_WORDS[reason.fate]} at {reason.step}"
        lines.append(f"  {reason.count:4d} {where}: {reason.code}, {reason.meaning}")
        lines.append(f"       {names}")
    return lines


def _pending(rows: Sequence[dict[str, Any]], outcomes: Iterable[GroupOutcome]) -> set[str]:
    """Frames that were neither stopped nor taken by the last step that ran.

    The funnel is for finished runs and calls such a frame a defect; here it only waits.
    """
    from skymill.report.funnel import LIGHT_STEPS, MASTER_STEPS

    by_frame: dict[str, list[GroupOutcome]] = {row["frame_id"]: [] for row in rows}
    for outcome in outcomes:
        if outcome.frame_id in by_frame:
            by_frame[outcome.frame_id].append(outcome)
    active = {o.step for each in by_frame.values() for o in each if o.status != "off"}
    last = next((step for step in reversed(LIGHT_STEPS[2:]) if step in active), None)
    ends = {"light": (last,)}
    waiting = set()
    for row in rows:
        mine = by_frame[row["frame_id"]]
        taken = ends.get(row["kind"], MASTER_STEPS)
        settled = row["verdict"] == "rejected" or any(
            o.status in _STOPS
            or o.status == "off"
            or o.code == "UNUSED_CALIBRATION"
            or o.step in taken
            for o in mine
        )
        if not settled:
            waiting.add(row["frame_id"])
    return waiting


def _per_step(
    rows: Sequence[dict[str, Any]], outcomes: Iterable[GroupOutcome]
) -> dict[str, dict[str, int]]:
    from skymill.errors import Outcome

    frames = {row["frame_id"] for row in rows}
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        if outcome.frame_id in frames:
            counts.setdefault(outcome.step, Counter())[outcome.status] += 1
    return {
        step: {status: tally[status] for status in Outcome.STATUSES if tally[status]}
        for step, tally in counts.items()
    }


def _missing(project: Project, plan: Plan) -> dict[str, tuple[str, ...]]:
    """Outcome tables that the plan asks for and that are not there."""
    wanted: dict[str, list[str]] = {}
    for master in plan.masters.values():
        kind = "dark" if "dark" in master.kind else master.kind
        wanted.setdefault(f"master_{kind}", []).append(master.id)
    if plan.masters:
        wanted["master_history"] = ["master_history"]
    groups: dict[str, Mapping[str, object]] = {
        "block": plan.blocks,
        "stack": plan.stacks,
        "field": plan.fields,
    }
    for step, unit in _UNITS.items():
        if step == "movers" and not project.settings.movers.enabled:
            continue
        if project.settings.stack.enabled or step not in _AFTER_STACK:
            wanted[step] = list(groups[unit])
    folder = project.results / "outcomes"
    missing = {
        step: tuple(name for name in names if not (folder / step / f"{name}.csv").is_file())
        for step, names in wanted.items()
    }
    return {step: names for step, names in missing.items() if names}


def _as_json(project: Project, now: State) -> dict[str, Any]:
    report = project.report.relative_to(project.folder).as_posix()
    return {
        "raw": now.funnel.total + len(now.pending),
        "fates": now.funnel.counts,
        "waiting": [row["frame_id"] for row in now.pending],
        "reasons": [
            {
                "fate": reason.fate,
                "step": reason.step,
                "code": reason.code,
                "meaning": reason.meaning,
                "frames": [fate.frame_id for fate in reason.fates],
            }
            for reason in now.funnel.reasons
        ],
        "steps": now.steps,
        "missing": {step: list(names) for step, names in now.missing.items()},
        "report": report if project.report.is_file() else None,
    }


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
