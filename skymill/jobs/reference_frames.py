"""Rule reference_frames: the best frame of a field, solved, and the best of each filter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import latest_outcomes
from skymill.catalogs import read_catalog
from skymill.errors import Outcome, Result, ScienceFailure, StepFailed
from skymill.jobs.frames import frame_file
from skymill.jobs.tables import by_frame, catalog_inputs, table_inputs
from skymill.steps.astrometry import astrometry
from skymill.steps.reference_frames import Candidate, reference_frames

if TYPE_CHECKING:
    from astropy.table import Table

    from skymill.catalogs import RefCatalog

__all__ = ["reference_frames_field"]

Row = Mapping[str, Any]
Flags = tuple[tuple[str, str], ...]


def reference_frames_field(
    *,
    rows: Sequence[Row],
    tables: Sequence[str],
    calibrated: Sequence[str],
    upstream: Sequence[str],
    catalog: Sequence[str],
    table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    astrometry_settings: Mapping[str, Any],
    code: str,
) -> None:
    """Choose the reference frames of a field and find where they point.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the field's frames.
    tables, calibrated, upstream : sequence of str
        Sources, calibrated frames and outcomes of ``sources`` of the field's blocks.
    catalog : sequence of str
        The reference catalogue, or nothing.
    table, outcomes : str or Path
        Star lists and table of outcomes to write. The facts of the table hold what is
        known of each reference frame (``frames``) and its solution (``solutions``).
    settings, astrometry_settings : mapping
        Settings of this step and of ``astrometry``.
    code : str
        Fingerprint of the code.
    """
    name = Path(outcomes).stem
    candidates = _candidates(rows, tables, calibrated, upstream)
    inputs = table_inputs(*tables) | catalog_inputs(catalog)
    facts = provenance.facts("reference_frames", code=code, settings=settings, inputs=inputs)
    try:
        result = reference_frames(candidates, **settings)
    except ScienceFailure as failure:
        outcome = Outcome.from_failure(name, "reference_frames", failure)
        stars = _no_stars()
    else:
        stars = result.value
        known = read_catalog(catalog[0]) if catalog else None
        facts["solutions"], flags = _solutions(stars, candidates, known, astrometry_settings)
        result = Result(stars, result.flags + flags, result.numbers)
        outcome = Outcome.from_result(name, "reference_frames", result)
    io.write_table(table, stars, facts)
    io.write_outcomes(outcomes, [outcome])


def _candidates(
    rows: Sequence[Row], tables: Sequence[str], calibrated: Sequence[str], upstream: Sequence[str]
) -> list[Candidate]:
    usable = {name: o for name, o in latest_outcomes(upstream).items() if o.usable}
    by_id = {str(row["frame_id"]): row for row in rows}
    found = []
    for path, folder in zip(tables, calibrated, strict=True):
        for name, sources in by_frame(io.read_table(path)).items():
            if name in usable:
                wcs, shape = io.read_geometry(frame_file(folder, name))
                numbers = usable[name].numbers
                found.append(Candidate(name, by_id[name], sources, shape, numbers, wcs))
    return found


def _solutions(
    stars: Table,
    candidates: Sequence[Candidate],
    catalog: RefCatalog | None,
    settings: Mapping[str, Any],
) -> tuple[dict[str, dict[str, Any]], Flags]:
    """Solve the best frame, then those of the other filters relative to it.

    Returns the solutions, and what is to be said of that of the best frame.
    """
    by_id = {candidate.frame_id: candidate for candidate in candidates}
    best: dict[str, Any] | None = None
    flags: Flags = ()
    solved: dict[str, dict[str, Any]] = {}
    order = sorted(stars.meta["frames"], key=lambda n: (not stars.meta["frames"][n]["best"], n))
    for name in order:
        item = by_id[name]
        try:
            result = astrometry(
                item.sources,
                item.row,
                item.header_wcs,
                item.shape,
                stars if best is not None else None,
                best,
                catalog,
                **settings,
            )
        except StepFailed as failure:
            solved[name] = {"solution": "none", "code": failure.code, "message": failure.message}
            if best is None:
                break  # nothing can be aligned to a frame that has no solution
            continue
        solved[name] = {k: _plain(v) for k, v in result.value.items()}
        if best is None:
            best, flags = result.value, result.flags
    return solved, flags


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _no_stars() -> Table:
    from astropy.table import Table

    names = ("frame_id", "filter", "best", "star", "x", "y", "flux", "flux_err")
    kinds = ("U1", "U1", bool, int, float, float, float, float)
    return Table(names=names, dtype=kinds)
