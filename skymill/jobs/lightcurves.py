"""Rule lightcurves: the measurements of a field, joined and corrected."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.errors import Outcome, ScienceFailure
from skymill.jobs.tables import records, table_inputs
from skymill.steps.lightcurves import LightCurves, empty_lightcurves, lightcurves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table

__all__ = ["lightcurves_field"]


def lightcurves_field(
    *,
    rows: Sequence[Mapping[str, Any]],
    photometry: Sequence[str],
    photcal: Sequence[str],
    catalogs: Sequence[str],
    filters: Sequence[str],
    points: str | Path,
    statistics: str | Path,
    sources: str | Path,
    frames: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Join the forced photometry of a field to light curves.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the field's frames.
    photometry, photcal : sequence of str
        Tables of the field's blocks.
    catalogs, filters : sequence of str
        Catalogues of the field's stacks of all epochs, and the filter of each.
    points, statistics, sources, frames : str or Path
        Tables to write, see `skymill.steps.lightcurves.LightCurves`.
    outcomes : str or Path
        Table of outcomes to write; empty light curves have a reason.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    name = Path(outcomes).stem
    by_frame = {str(row["frame_id"]): row for row in rows}
    fluxes: dict[str, dict[str, Any]] = {}
    for path in photcal:
        fluxes |= records(io.read_table(path))
    measured = _by_filter(photometry, by_frame)
    inputs = table_inputs(*photometry, *photcal, *catalogs)
    lists = {name: io.read_table(path) for name, path in zip(filters, catalogs, strict=True)}
    try:
        result = lightcurves(
            measured, {f: lists[f] for f in measured}, by_frame, fluxes, **settings
        )
    except ScienceFailure as failure:
        outcome = Outcome.from_failure(name, "lightcurves", failure)
        most = max(Counter(str(row["filter"]) for row in rows).values(), default=0)
        if failure.code == "NO_FRAMES" and most < settings["minimum_epochs"]:
            # A field observed once or twice has no light curve; nothing has failed.
            outcome = Outcome(name, "lightcurves", "off", "TOO_FEW", failure.message)
        curves: LightCurves = empty_lightcurves()
    else:
        outcome = Outcome.from_result(name, "lightcurves", result)
        curves = result.value
    facts = provenance.facts("lightcurves", code=code, settings=settings, inputs=inputs)
    io.write_table(points, curves.points, facts)
    io.write_table(statistics, curves.statistics, facts)
    io.write_table(sources, curves.sources, facts)
    io.write_table(frames, curves.frames, facts)
    io.write_outcomes(outcomes, [outcome])


def _by_filter(paths: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Table]:
    """Join the tables of the blocks of each filter."""
    from astropy.table import vstack

    found: dict[str, list[Table]] = defaultdict(list)
    for path in sorted(paths):
        table = io.read_table(path)
        if len(table):
            table.meta = {}
            found[str(rows[str(table["frame_id"][0])]["filter"])].append(table)
    return {
        name: vstack(tables, join_type="exact", metadata_conflicts="silent")
        for name, tables in found.items()
    }
