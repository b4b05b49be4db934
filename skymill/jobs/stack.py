"""Rule stack: the frames of a field and filter on one grid."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import latest_outcomes, stopped
from skymill.errors import Outcome, StepFailed
from skymill.grid import Grid, make_grid
from skymill.jobs.frames import frame_file, frame_folders, load_background, origin
from skymill.jobs.tables import records, table_inputs
from skymill.steps.shared_errors import Calibration, MasterCells
from skymill.steps.stack import StackProduct, stack
from skymill.steps.stack_inputs import StackInput, StackRows
from skymill.steps.stack_selection import on_one_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["stack_frames"]

_log = logging.getLogger(__name__)

_FACT_CARDS = ("RDNOISE", "SATURATE", "BIASSHA", "DARKSHA", "FLATSHA", "GAIN", "DARKTAU")

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
    grid_files: Sequence[str] = (),
    fields: int = 1,
    masters: Sequence[str] = (),
    threads: int = 1,
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
    grid_files : sequence of str
        File of the given grid, or nothing; its content belongs to the provenance.
    fields : int
        Fields that the frames come from: with several of them fluxes are brought to one
        scale by the zero points.
    masters : sequence of str
        Files of the masters of these blocks, for the errors that frames share.
    threads : int
        Frames resampled at a time; the stack does not depend on it.
    """
    name = Path(stack_file).stem
    before = latest_outcomes(upstream)
    blocked = [stopped("stack", o) for o in before.values() if not o.usable]
    places = frame_folders(calibrated, masks, backgrounds)
    solutions: dict[str, dict[str, Any]] = {}
    for path in astrometry:
        solutions |= records(io.read_table(path))
    fluxes: dict[str, dict[str, Any]] = {}
    for path in photcal:
        fluxes |= records(io.read_table(path))
    usable = [row for row in rows if before[str(row["frame_id"])].usable]
    if fields > 1:
        fluxes = on_one_scale(fluxes)
    inputs = table_inputs(*photcal, *astrometry)
    inputs |= {f"grid/{Path(path).name}": io.file_digest(path) for path in grid_files}
    for row in usable:
        inputs |= _origin(str(row["frame_id"]), places[str(row["frame_id"])])
    inputs |= {f"master/{Path(path).stem}": io.data_digest(path) for path in masters}
    cards = provenance.cards("stack", code=code, settings=settings, inputs=inputs)
    try:
        reference = _reference(solutions)
        for solution in solutions.values():
            solution["wcs"] = io.wcs_from_text(str(solution["wcs"]))
        grid = _grid(solutions, settings, reference)
        frames = [_input(row, solutions[str(row["frame_id"])], fluxes, places) for row in usable]
        options = {key: value for key, value in settings.items() if key != "grid"}
        result = stack(
            frames, grid, reference=reference, masters=_masters(masters),
            scratch=Path(stack_file).parent, threads=threads, **options,
        )  # fmt: skip
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


def _reference(solutions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the frame of the field that the others were aligned to, if they were."""
    names = {str(s["reference"]) for s in solutions.values()} & set(solutions)
    return min(names) if names else None


def _grid(
    solutions: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], reference: str | None
) -> Grid:
    solved = [
        (name, item["wcs"], (int(item["ny"]), int(item["nx"])))
        for name, item in solutions.items()
        if item["solution"] != "none"
    ]
    return make_grid(
        solved,
        settings["grid"],
        pixel_scale_arcsec=settings["pixel_scale_arcsec"],
        max_mpix=settings["max_mpix"],
        orientation=settings["orientation"],
        reference=reference,
    )


def _input(
    row: Row,
    solution: Mapping[str, Any],
    fluxes: Mapping[str, Mapping[str, Any]],
    places: Mapping[str, tuple[str, ...]],
) -> StackInput:
    name = str(row["frame_id"])
    calibrated, masks, backgrounds = places[name]
    reader = io.RowReader(frame_file(calibrated, name), frame_file(masks, name))

    def read(y0: int, y1: int) -> StackRows:
        return StackRows(*reader.rows(y0, y1))

    facts, calibration = _facts(reader.path)
    return StackInput(
        name,
        {**row, **facts},
        solution["wcs"],
        (int(solution["ny"]), int(solution["nx"])),
        fluxes[name],
        read=read,
        background=partial(load_background, backgrounds, name),
        calibration=calibration,
    )


def _facts(path: Path) -> tuple[dict[str, Any], Calibration | None]:
    """What the header of a calibrated frame adds: electronics, and which masters it had.

    A header that cannot be read adds nothing: the pixels tell what is wrong with the file.
    """
    try:
        header = io.read_cards(path, _FACT_CARDS)
    except (OSError, ValueError):
        return {}, None
    facts: dict[str, Any] = {"read_noise_e": header.get("RDNOISE")}
    facts["saturation_e"] = header.get("SATURATE")
    names = {kind: str(header.get(f"{kind.upper()}SHA") or "") for kind in ("bias", "dark", "flat")}
    if not any(names.values()):
        return facts, None
    gain, tau = float(header.get("GAIN") or 1.0), float(header.get("DARKTAU") or 0.0)
    return facts, Calibration(**names, gain_e_adu=gain, tau=tau)


def _masters(paths: Sequence[str]) -> dict[str, MasterCells] | None:
    """Errors of the masters by the checksum that calibrated frames name."""
    out = {}
    for path in paths:
        try:
            master = io.read_master(path)
        except (OSError, KeyError):  # a master that could not be made has no pixels
            continue
        digest = hashlib.sha256(master.sci.astype(">f4").tobytes()).hexdigest()
        flat = master.unit == ""
        out[digest] = MasterCells.of(master.sci, master.err, master.mask, flat=flat)
    return out or None


def _origin(name: str, places: tuple[str, ...]) -> dict[str, str]:
    """Checksums of the planes of a frame; of a file that cannot be read it is that of the file."""
    try:
        return origin(name, *places)
    except (OSError, ValueError, KeyError, IndexError):
        return {f"{Path(p).parent.name}/{name}": "unreadable" for p in places}


def _write(path: str | Path, product: StackProduct, cards: Mapping[str, Any]) -> None:
    frame = product.frame
    io.check_planes(path, frame)
    planes: dict[str, NDArray[Any]] = {
        "SCI": frame.sci,
        "ERR": frame.err,
        "MASK": frame.mask,
        "COVERAGE": product.coverage,
        "NREJ": product.rejected,
        "MASKANY": product.any_bits,
        "MASKALL": product.all_bits,
        "NOISECOV": product.noise_correlation,
        "CORRMAP": product.correlation_map,
    }
    if product.shared is not None:
        planes["SHARED"] = product.shared
    planes |= {name.upper(): plane for name, plane in product.maps.items()}
    notes = {
        "COVERAGE": {"BUNIT": ("frame", "number of frames used")},
        "NREJ": {"BUNIT": ("frame", "number of frames rejected")},
        "MASKANY": {"NOTE": ("bits of any frame that covers the pixel, see MASK", "")},
        "MASKALL": {"NOTE": ("bits of all frames that cover the pixel, see MASK", "")},
        "SHARED": {
            "BUNIT": ("electron", "error that frames share"),
            "NOTE": ("on empty sky, part of ERR, cells of 64 px", ""),
        },
        "EXPOSURE": {"BUNIT": ("s", "exposure of the frames used")},
        "DEPTH": {"BUNIT": ("mag", "five sigma, point source")},
        "SEEING": {"BUNIT": ("pix", "weighted mean FWHM")},
        "NOISECOV": {"NOTE": ("noise correlation at lags of -5 to 5 px", "")},
        "CORRMAP": {"NOTE": ("noise factor of large apertures, cells of 64 px", "")},
    }
    io.write_planes(path, planes, frame, cards, notes)
