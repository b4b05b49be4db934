"""Trying the best frames in turn until one is solved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from skymill.errors import Result, StepFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table

    from skymill.steps.reference_frames import Candidate

__all__ = ["Choice", "Solve", "choose_best", "choose_of_filter"]

#: Codes that only repeat of what kind a solution is.
_KINDS = ("WCS_RELATIVE", "WCS_UNVERIFIED")


class Solve(Protocol):
    """Solves a frame; raises StepFailed if it cannot."""

    def __call__(
        self, candidate: Candidate, stars: Table | None, reference: Mapping[str, Any] | None
    ) -> Result[dict[str, Any]]:
        """Solve ``candidate`` alone, or relative to a solved frame with these stars."""


class Choice(NamedTuple):
    """A frame, its solution, and the frames that were tried for it.

    ``tried`` has for each frame its id, the kind of its solution, and why it is not solved by
    the catalogue (empty if it is).
    """

    frame: Candidate
    solution: dict[str, Any]
    flags: tuple[tuple[str, str], ...]
    tried: list[tuple[str, str, str]]


def choose_best(ranked: Sequence[Candidate], solve: Solve | None, tries: int) -> Choice:
    """Return the first frame that the catalogue solves, else the first with any solution.

    Parameters
    ----------
    ranked : sequence of Candidate
        The best first.
    solve : callable or None
        See `Solve`; without it the first frame is the choice.
    tries : int
        Most frames tried.
    """
    if solve is None:
        return Choice(ranked[0], {}, (), [])
    tried: list[tuple[str, str, str]] = []
    fallback: Choice | None = None
    for item in ranked[: max(tries, 1)]:
        solution, flags = _solved(item, solve, None, None)
        kind = str(solution["solution"])
        code = next((code for code, _ in flags if code not in _KINDS), "")
        tried.append((item.frame_id, kind, "" if kind == "absolute" else _why(solution, code)))
        if kind == "absolute":
            return Choice(item, solution, flags, tried)
        if fallback is None or (fallback.solution["solution"] == "none" and kind != "none"):
            fallback = Choice(item, solution, flags, tried)
    assert fallback is not None
    return fallback._replace(tried=tried)


def choose_of_filter(
    ranked: Sequence[Candidate],
    solve: Solve | None,
    stars: Table,
    reference: Mapping[str, Any],
    tries: int,
) -> Choice:
    """Return the first frame of a filter that can be tied to the best frame of the field.

    Parameters
    ----------
    ranked : sequence of Candidate
        Frames of the filter, the best first.
    solve : callable or None
        See `Solve`.
    stars : Table
        Stars of the best frame.
    reference : mapping
        Its solution; nothing can be tied to it if it has none.
    tries : int
        Most frames tried.
    """
    if solve is None:
        return Choice(ranked[0], {}, (), [])
    if reference["solution"] == "none":
        why = {"solution": "none", "code": "NO_REFERENCE",
               "message": "the best frame of the field has no solution"}  # fmt: skip
        return Choice(ranked[0], why, (), [])
    tried: list[tuple[str, str, str]] = []
    fallback: Choice | None = None
    for item in ranked[: max(tries, 1)]:
        solution, flags = _solved(item, solve, stars, reference)
        kind = str(solution["solution"])
        tried.append((item.frame_id, kind, _why(solution, "") if kind == "none" else ""))
        choice = Choice(item, solution, flags, tried)
        if kind != "none":
            return choice
        fallback = fallback or choice
    assert fallback is not None
    return fallback._replace(tried=tried)


def _solved(
    item: Candidate, solve: Solve, stars: Table | None, reference: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
    try:
        result = solve(item, stars, reference)
    except StepFailed as failure:
        why = {"solution": "none", "code": failure.code, "message": failure.message}
        return why, ((failure.code, failure.message),)
    return {key: _plain(value) for key, value in result.value.items()}, result.flags


def _why(solution: Mapping[str, Any], code: str) -> str:
    return str(solution.get("code") or code or str(solution["solution"]))


def _plain(value: Any) -> Any:
    """Return a JSON type."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
