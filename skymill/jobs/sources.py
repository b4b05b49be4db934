"""Rule sources: what is on every frame of a block, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import run_block
from skymill.jobs.frames import load_background, load_frame, origin
from skymill.jobs.tables import stacked
from skymill.steps.sources import empty_sources_table, sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from skymill.errors import Result

__all__ = ["sources_block"]


def sources_block(
    *,
    rows: Sequence[Mapping[str, Any]],
    calibrated: str | Path,
    masks: str | Path,
    backgrounds: str | Path,
    upstream: str | Path,
    table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Detect and measure the sources on the frames of a block.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    calibrated, masks, backgrounds : str or Path
        Folders of the frames, their masks and their backgrounds.
    upstream : str or Path
        Outcomes of ``background``.
    table, outcomes : str or Path
        Table of sources and table of outcomes to write.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    inputs: dict[str, str] = {}

    def work(row: Mapping[str, Any]) -> Result[Any]:
        name = row["frame_id"]
        frame = load_frame(calibrated, masks, name)
        inputs.update(origin(name, calibrated, masks, backgrounds))
        return sources(frame, load_background(backgrounds, name), row, **settings)

    found = run_block("sources", rows, work, outcomes=outcomes, upstream=[upstream])
    facts = provenance.facts("sources", code=code, settings=settings, inputs=inputs)
    io.write_table(table, stacked(found, empty_sources_table()), facts)
