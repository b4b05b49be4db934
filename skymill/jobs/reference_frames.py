"""Rule reference_frames: the best frame of a field, solved, and the best of each filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import latest_outcomes
from skymill.catalogs import as_table
from skymill.errors import Outcome, Result, ScienceFailure
from skymill.field_catalog import field_catalog, no_catalog
from skymill.jobs.frames import frame_file
from skymill.jobs.tables import by_frame, table_inputs
from skymill.steps.astrometry import astrometry
from skymill.steps.reference_frames import Candidate, reference_frames

if TYPE_CHECKING:
    from astropy.table import Table

    from skymill.catalogs import RefCatalog
    from skymill.remote_services import Transport
    from skymill.steps._reference_tries import Solve

__all__ = ["reference_frames_field"]

Row = Mapping[str, Any]


def reference_frames_field(
    *,
    rows: Sequence[Row],
    tables: Sequence[str],
    calibrated: Sequence[str],
    upstream: Sequence[str],
    catalog: Sequence[str],
    table: str | Path,
    catalog_table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    astrometry_settings: Mapping[str, Any],
    reference_settings: Mapping[str, Any] | None,
    code: str,
    transport: Transport | None = None,
) -> None:
    """Choose the reference frames of a field and find where they point.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the field's frames.
    tables, calibrated, upstream : sequence of str
        Sources, calibrated frames and outcomes of ``sources`` of the field's blocks.
    catalog : sequence of str
        The local reference catalogue, or nothing.
    table, catalog_table, outcomes : str or Path
        Star lists, stars of the catalogue in this field and table of outcomes to write. The
        facts of the star lists hold what is known of each reference frame (``frames``), its
        solution (``solutions``) and which frames were tried (``tried``).
    settings, astrometry_settings, reference_settings : mapping
        Settings of this step, of ``astrometry``, and of the reference catalogue (None if there
        is none).
    code : str
        Fingerprint of the code.
    transport : Transport, optional
        Asks a server in place of astroquery.

    Raises
    ------
    CatalogUnreachableError
        If the catalogue must be fetched and cannot be.
    """
    name = Path(outcomes).stem
    if astrometry_settings.get("mode") == "align_only":
        catalog, reference_settings = (), None
    file = catalog[0] if catalog else None
    known = field_catalog(name, rows, file, reference_settings, transport=transport)
    candidates = _candidates(rows, tables, calibrated, upstream)
    inputs = table_inputs(*tables) | known.inputs
    facts = provenance.facts("reference_frames", code=code, settings=settings, inputs=inputs)
    stars_of_catalog = as_table(known.catalog if known.catalog is not None else no_catalog())
    facts_of_catalog = provenance.facts(
        "reference_frames", code=code, settings=reference_settings or {}, inputs=known.inputs
    )
    io.write_table(catalog_table, stars_of_catalog, facts_of_catalog)
    solve = _solver(known.catalog, astrometry_settings)
    try:
        result = reference_frames(candidates, solve, has_catalog=bool(known.catalog), **settings)
    except ScienceFailure as failure:
        outcome = Outcome.from_failure(name, "reference_frames", failure)
        stars = _no_stars()
    else:
        stars = result.value
        numbers = {**result.numbers, **known.numbers}
        outcome = Outcome.from_result(
            name, "reference_frames", Result(stars, known.flags + result.flags, numbers)
        )
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


def _solver(catalog: RefCatalog | None, settings: Mapping[str, Any]) -> Solve:
    def solve(
        candidate: Candidate, stars: Table | None, reference: Mapping[str, Any] | None
    ) -> Result[dict[str, Any]]:
        return astrometry(
            candidate.sources, candidate.row, candidate.header_wcs, candidate.shape,
            stars, reference, catalog, **settings,
        )  # fmt: skip

    return solve


def _no_stars() -> Table:
    from astropy.table import Table

    names = ("frame_id", "filter", "best", "star", "x", "y", "flux", "flux_err")
    kinds = ("U1", "U1", bool, int, float, float, float, float)
    return Table(names=names, dtype=kinds)
