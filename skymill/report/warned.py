"""Warnings: equal ones in one group, those that touch every number first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skymill.report.advice import SERIOUS, advice
from skymill.report.funnel import meaning

if TYPE_CHECKING:
    from skymill.report.model import ReportData

__all__ = ["Warned", "collect_warnings"]

_STOPS = ("rejected", "failed", "blocked")


@dataclass(frozen=True)
class Warned:
    """All that was said under one code.

    Parameters
    ----------
    code, meaning, advice : str
        The code in plain words, and what to do.
    is_serious : bool
        True if it touches the numbers of everything behind it, or a product is missing.
    n_frames : int
        Number of frames.
    products : tuple of str
        Masters, stacks and fields that bear it.
    steps : tuple of str
        Where it was said.
    messages : tuple of (sentence, count)
        The most frequent sentences.
    n_messages : int
        Number of different sentences.
    """

    code: str
    meaning: str
    advice: str
    is_serious: bool
    n_frames: int
    products: tuple[str, ...]
    steps: tuple[str, ...]
    messages: tuple[tuple[str, int], ...]
    n_messages: int


def collect_warnings(data: ReportData, limit: int = 3) -> tuple[Warned, ...]:
    """Group what degraded frames and products, and which products could not be made.

    Parameters
    ----------
    data : ReportData
        Outcomes and frames.
    limit : int
        Most sentences quoted for a code.

    Returns
    -------
    tuple of Warned
        Serious ones first, then by number of frames and products.
    """
    frames: dict[str, dict[str, None]] = {}
    products: dict[str, dict[str, None]] = {}
    steps: dict[str, dict[str, None]] = {}
    messages: dict[str, dict[str, int]] = {}
    lost: set[str] = set()
    known = {frame.frame_id for frame in data.frames}

    def say(code: str, step: str, name: str, message: str) -> None:
        (frames if name in known else products).setdefault(code, {})[name] = None
        steps.setdefault(code, {})[step] = None
        said = messages.setdefault(code, {})
        said[message] = said.get(message, 0) + 1

    for frame in data.frames:
        if frame.verdict == "degraded":
            for code in _split(frame.code):
                say(code, "ingest", frame.frame_id, frame.message)
    for o in data.outcomes:
        stopped = o.frame_id not in known and o.status in _STOPS
        # The plan repeats the verdicts of the sheet.
        if (o.status == "degraded" and o.step not in ("ingest", "plan")) or stopped:
            for code in _split(o.code):
                say(code, o.step, o.frame_id, o.message)
                if stopped and code != "UPSTREAM_BLOCKED":
                    lost.add(code)
    warned = [
        Warned(
            code,
            meaning(code),
            advice(code),
            code in SERIOUS or code in lost,
            len(frames.get(code, {})),
            tuple(products.get(code, {})),
            tuple(steps[code]),
            tuple(sorted(said.items(), key=lambda item: (-item[1], item[0]))[:limit]),
            len(said),
        )
        for code, said in messages.items()
    ]
    rank = {code: number for number, code in enumerate(SERIOUS)}
    warned.sort(
        key=lambda w: (
            not w.is_serious,
            rank.get(w.code, len(rank)),
            -w.n_frames - len(w.products),
            w.code,
        )
    )
    return tuple(warned)


def _split(codes: str) -> list[str]:
    return [code for code in codes.split(";") if code]
