"""Rule stack: the frames of a field and filter on one grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import latest_outcomes, stopped
from skymill.errors import Outcome, StepFailed
from skymill.grid import Grid, field_grid
from skymill.jobs.frames import load_background, load_frame, origin
from skymill.jobs.tables import records, table_inputs
from skymill.steps.stack import StackProduct, stack
from skymill.steps.stack_inputs import StackFrame, StackInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["stack_frames"]

_log = logging.getLogger(__name__)

Row = Mapping[str, Any]


def stack_frames(
    *,
    rows: Sequence[Row],
    calibrated: Sequence[str],
    masks: Sequence[str],
    backgrounds: Sequence[str],
    photcal: Sequence[str],
    astrometry: Sequence[str],
    upstream: Sequence[str],
    stack_file: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Stack the frames of a field and filter.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    calibrated, masks, backgrounds, photcal : sequence of str
        Products of the blocks that go into the stack.
    astrometry : sequence of str
        Solutions of all blocks of the field: its stacks share one grid.
    upstream : sequence of str
        Outcomes of ``photcal`` of these blocks.
    stack_file, outcomes : str or Path
        Stack and table of outcomes to write. A stack that cannot be made leaves a file
        without pixels.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    name = Path(stack_file).stem
    before = latest_outcomes(upstream)
    blocked = [stopped("stack", o) for o in before.values() if not o.usable]
    places = _places(calibrated, masks, backgrounds)
    solutions: dict[str, dict[str, Any]] = {}
    for path in astrometry:
        solutions |= records(io.read_table(path))
    fluxes: dict[str, dict[str, Any]] = {}
    for path in photcal:
        fluxes |= records(io.read_table(path))
    usable = [row for row in rows if before[str(row["frame_id"])].usable]
    inputs = table_inputs(*photcal, *astrometry)
    for row in usable:
        inputs |= origin(row["frame_id"], *places[str(row["frame_id"])])
    cards = provenance.cards("stack", code=code, settings=settings, inputs=inputs)
    try:
        reference = _reference(solutions)
        grid = _grid(solutions, settings, reference)
        frames = [_input(row, solutions[str(row["frame_id"])], fluxes, places) for row in usable]
        result = stack(frames, grid, reference=reference, **settings)
    except StepFailed as failure:
        whole = Outcome.from_failure(name, "stack", failure)
        every = [
            Outcome(str(row["frame_id"]), "stack", "blocked", failure.code, failure.message)
            for row in usable
        ]
        io.write_placeholder(stack_file, cards, whole)
    else:
        whole = Outcome.from_result(name, "stack", result)
        every = list(result.value.outcomes)
        _write(stack_file, result.value, cards)
    _log.info("%s %s %s %s", name, whole.status, whole.code, whole.message)
    every = sorted([*every, *blocked], key=lambda outcome: outcome.frame_id)
    io.write_outcomes(outcomes, [*every, whole])


def _places(
    calibrated: Sequence[str], masks: Sequence[str], backgrounds: Sequence[str]
) -> dict[str, tuple[str, str, str]]:
    """Return for each frame the folders of its block."""
    return {
        path.stem: folders
        for folders in zip(calibrated, masks, backgrounds, strict=True)
        for path in sorted(Path(folders[0]).glob("*.fits"))
    }


def _reference(solutions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the frame of the field that the others were aligned to, if they were."""
    names = {str(s["reference"]) for s in solutions.values()} & set(solutions)
    return min(names) if names else None


def _grid(
    solutions: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], reference: str | None
) -> Grid:
    solved = [
        (name, io.wcs_from_text(str(item["wcs"])), (int(item["ny"]), int(item["nx"])))
        for name, item in solutions.items()
        if item["solution"] != "none"
    ]
    return field_grid(
        solved,
        pixel_scale_arcsec=settings["pixel_scale_arcsec"],
        max_mpix=settings["max_mpix"],
        orientation=settings["orientation"],
        reference=reference,
    )


def _input(
    row: Row,
    solution: Mapping[str, Any],
    fluxes: Mapping[str, Mapping[str, Any]],
    places: Mapping[str, tuple[str, str, str]],
) -> StackInput:
    name = str(row["frame_id"])
    return StackInput(
        name,
        row,
        io.wcs_from_text(str(solution["wcs"])),
        (int(solution["ny"]), int(solution["nx"])),
        fluxes[name],
        partial(_load, name, *places[name]),
    )


def _load(name: str, calibrated: str, masks: str, backgrounds: str) -> StackFrame:
    return StackFrame(load_frame(calibrated, masks, name), load_background(backgrounds, name))


def _write(path: str | Path, product: StackProduct, cards: Mapping[str, Any]) -> None:
    frame = product.frame
    io.check_planes(path, frame)
    planes: dict[str, NDArray[Any]] = {
        "SCI": frame.sci,
        "ERR": frame.err,
        "MASK": frame.mask,
        "COVERAGE": product.coverage,
        "NOISECOV": product.noise_correlation,
        "CORRMAP": product.correlation_map,
    }
    notes = {
        "COVERAGE": {"BUNIT": ("frame", "number of frames used")},
        "NOISECOV": {"NOTE": ("noise correlation at lags of -5 to 5 px", "")},
        "CORRMAP": {"NOTE": ("noise factor of large apertures, cells of 64 px", "")},
    }
    io.write_planes(path, planes, frame, cards, notes)
