"""Rule catalog: the sources of a stack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import stopped
from skymill.errors import Outcome, ScienceFailure
from skymill.steps.catalog import catalog, empty_catalog

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["catalog_stack"]


def catalog_stack(
    *,
    stack: str | Path,
    upstream: str | Path,
    table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Find and measure the sources of a stack.

    Parameters
    ----------
    stack : str or Path
        The stack.
    upstream : str or Path
        Its outcomes.
    table, outcomes : str or Path
        Catalogue and table of outcomes to write; the catalogue is empty if there is
        no stack.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    name = Path(stack).stem
    made = io.read_outcomes(upstream)[-1]
    inputs: dict[str, str] = {}
    found = empty_catalog()
    if not made.usable:
        outcome = stopped("catalog", made)
    else:
        inputs = {f"stack/{name}": io.data_digest(stack)}
        planes, _, _ = io.read_planes(stack, ("COVERAGE", "NOISECOV", "CORRMAP"))
        try:
            result = catalog(
                io.read_frame(stack),
                planes["COVERAGE"],
                planes["NOISECOV"],
                planes["CORRMAP"],
                **settings,
            )
        except ScienceFailure as failure:
            outcome = Outcome.from_failure(name, "catalog", failure)
        else:
            found = result.value
            outcome = Outcome.from_result(name, "catalog", result)
    facts = provenance.facts("catalog", code=code, settings=settings, inputs=inputs)
    if made.usable:
        wcs, _ = io.read_geometry(stack)
        facts["wcs"] = io.wcs_to_text(wcs) if wcs is not None else ""
    io.write_table(table, found, facts)
    io.write_outcomes(outcomes, [outcome])
