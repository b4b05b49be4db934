"""Rule mask: the final mask of every frame of a block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import run_block
from skymill.errors import Result
from skymill.jobs.frames import frame_file, load_frame, origin
from skymill.steps.mask import mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["mask_block"]


def mask_block(
    *,
    rows: Sequence[Mapping[str, Any]],
    calibrated: str | Path,
    upstream: str | Path,
    masks: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
) -> None:
    """Mask the frames of a block.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    calibrated : str or Path
        Folder of the calibrated frames.
    upstream : str or Path
        Outcomes of ``calibrate``.
    masks, outcomes : str or Path
        Folder of the masks and table of outcomes to write.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    threads : int
        Frames worked on at a time.
    """
    Path(masks).mkdir(parents=True, exist_ok=True)

    def work(row: Mapping[str, Any]) -> Result[bool]:
        name = row["frame_id"]
        frame = load_frame(calibrated, None, name)
        result = mask(frame, **settings)
        cards = provenance.cards(
            "mask", code=code, settings=settings, inputs=origin(name, calibrated)
        )
        io.write_mask(frame_file(masks, name), result.value, frame, cards)
        return Result(True, result.flags, result.numbers)

    run_block("mask", rows, work, outcomes=outcomes, upstream=[upstream], threads=threads)
