"""Rule plan: outcomes of the frames that stop before any product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skymill import io
from skymill.errors import Outcome
from skymill.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from skymill.settings import Settings

__all__ = ["plan_outcomes"]


def plan_outcomes(
    *, rows: Sequence[Mapping[str, Any]], settings: Settings, outcomes: str | Path
) -> None:
    """Write what ingest rejected and what the plan cannot use.

    Parameters
    ----------
    rows : sequence of dict
        The sheet.
    settings : Settings
        All settings.
    outcomes : str or Path
        Table of outcomes to write.
    """
    found = [
        Outcome(str(row["frame_id"]), "ingest", "rejected", str(row["code"]), str(row["message"]))
        for row in rows
        if row["verdict"] == "rejected"
    ]
    found += make_plan(rows, settings).outcomes
    io.write_outcomes(outcomes, sorted(found, key=lambda outcome: outcome.frame_id))
