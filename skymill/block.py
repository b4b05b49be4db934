"""Run a step over the frames of a block: in order, each on its own, none lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from skymill import io
from skymill.errors import Outcome, Result, ScienceFailure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["latest_outcomes", "run_block", "stopped"]

T = TypeVar("T")
Row = Mapping[str, Any]

_log = logging.getLogger(__name__)


def run_block(
    step: str,
    rows: Sequence[Row],
    work: Callable[[Row], Result[T]],
    *,
    outcomes: str | Path,
    upstream: Iterable[str | Path] = (),
    threads: int = 1,
) -> dict[str, T]:
    """Do the work of a step on every frame of a block and write the outcomes.

    Parameters
    ----------
    step : str
        Name of the step.
    rows : sequence of dict
        Sheet rows of the block's frames.
    work : callable
        Takes a row, reads what it needs, writes its product and returns a `Result`.
        `ScienceFailure` concerns this frame only; anything else ends the job.
    outcomes : str or Path
        Where the outcome table goes.
    upstream : iterable of str or Path
        Outcome tables of the earlier steps that the work builds on. A frame that one of
        them stopped is ``blocked``.
    threads : int
        Frames worked on at the same time. The result does not depend on it.

    Returns
    -------
    dict
        Frame id to the value of the step, in the order of ``rows``; frames without a
        value are absent.
    """
    before = latest_outcomes(upstream)

    def one(row: Row) -> tuple[Outcome, T | None]:
        frame_id = str(row["frame_id"])
        earlier = before.get(frame_id)
        if earlier is not None and not earlier.usable:
            return stopped(step, earlier), None
        try:
            result = work(row)
        except ScienceFailure as failure:
            return Outcome.from_failure(frame_id, step, failure), None
        return Outcome.from_result(frame_id, step, result), result.value

    with io.write_behind():
        if threads > 1:
            context = copy_context()  # threads see the context that they are given
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(lambda row: context.copy().run(one, row), rows))
        else:
            done = [one(row) for row in rows]
    for outcome, _ in done:
        level = logging.INFO if outcome.status == "ok" else logging.WARNING
        text = f"{outcome.code} {outcome.message}".strip()
        _log.log(level, "%s %s %s", outcome.frame_id, outcome.status, text)
    io.write_outcomes(outcomes, [outcome for outcome, _ in done])
    return {outcome.frame_id: value for outcome, value in done if value is not None}


def latest_outcomes(tables: Iterable[str | Path]) -> dict[str, Outcome]:
    """Return for each frame the first outcome that stops it, else its last one."""
    found: dict[str, Outcome] = {}
    for table in tables:
        for outcome in io.read_outcomes(table):
            if outcome.frame_id not in found or found[outcome.frame_id].usable:
                found[outcome.frame_id] = outcome
    return found


def stopped(step: str, earlier: Outcome) -> Outcome:
    """Return the outcome of a frame that an earlier step stopped."""
    # The first cause is handed on, so that the last table of a block explains every frame.
    cause = earlier.numbers.get("cause_step", earlier.step)
    code = earlier.numbers.get("cause_code", earlier.code)
    return Outcome(
        earlier.frame_id,
        step,
        "blocked",
        "UPSTREAM_BLOCKED",
        f"stopped by {cause}: {code}",
        {"cause_step": cause, "cause_code": code},
    )
