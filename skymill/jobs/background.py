"""Rule background: sky level and scatter of every frame of a block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import run_block
from skymill.errors import Result
from skymill.jobs.frames import frame_file, load_frame, origin
from skymill.steps.background import background
from skymill.user_functions import code_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["background_block"]


def background_block(
    *,
    rows: Sequence[Mapping[str, Any]],
    calibrated: str | Path,
    masks: str | Path,
    upstream: str | Path,
    backgrounds: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Measure the background of the frames of a block.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    calibrated, masks : str or Path
        Folders of the calibrated frames and of their masks.
    upstream : str or Path
        Outcomes of ``mask``.
    backgrounds, outcomes : str or Path
        Folder of the meshes and table of outcomes to write.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    Path(backgrounds).mkdir(parents=True, exist_ok=True)

    def work(row: Mapping[str, Any]) -> Result[bool]:
        name = row["frame_id"]
        frame = load_frame(calibrated, masks, name)
        result = background(frame, **settings)
        inputs = origin(name, calibrated, masks)
        cards = provenance.cards("background", code=code, settings=settings, inputs=inputs)
        engine = str(settings.get("engine", "skymill"))
        cards["BKGENG"] = (engine, "who estimated the level")
        if ":" in engine:
            cards["BKGCODE"] = (code_of(engine), "SHA-256 of the engine's module (begin)")
        io.write_background(frame_file(backgrounds, name), result.value, cards)
        return Result(True, result.flags, result.numbers)

    run_block("background", rows, work, outcomes=outcomes, upstream=[upstream])
