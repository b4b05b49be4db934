"""Rule plan: the masters that were chosen, and the frames that stop before any product."""

from __future__ import annotations

import csv
from io import StringIO
from typing import TYPE_CHECKING, Any

from skymill import io
from skymill.errors import Outcome
from skymill.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from skymill.plan import Plan
    from skymill.settings import Settings

__all__ = ["plan_outcomes"]

_CHOICE_COLUMNS = ("for", "kind", "master", "age_nights", "rule", "alternatives", "message")


def plan_outcomes(
    *,
    rows: Sequence[Mapping[str, Any]],
    settings: Settings,
    choices: str | Path,
    outcomes: str | Path,
) -> None:
    """Write which masters were chosen, what ingest rejected and what the plan cannot use.

    Parameters
    ----------
    rows : sequence of dict
        The sheet.
    settings : Settings
        All settings.
    choices : str or Path
        CSV table to write: for each master and block the masters that it takes, how old
        they are, which others fit, or why there is none.
    outcomes : str or Path
        Table of outcomes to write.
    """
    plan = make_plan(rows, settings)
    io.write_text(choices, _choices(plan))
    found = [
        Outcome(str(row["frame_id"]), "ingest", "rejected", str(row["code"]), str(row["message"]))
        for row in rows
        if row["verdict"] == "rejected"
    ]
    found += plan.outcomes
    io.write_outcomes(outcomes, sorted(found, key=lambda outcome: outcome.frame_id))


def _choices(plan: Plan) -> str:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CHOICE_COLUMNS)
    choices = [(one.id, one.choices) for one in plan.masters.values()]
    choices += [(one.id, one.choices) for one in plan.blocks.values()]
    for name, chosen in choices:
        for kind, choice in chosen.items():
            age = "" if choice.age is None else choice.age
            others = " ".join(choice.alternatives)
            words = "; ".join(w for w in (choice.missing, choice.note, *choice.flag[1:]) if w)
            writer.writerow((name, kind, choice.master, age, choice.rule, others, words))
    return stream.getvalue()
