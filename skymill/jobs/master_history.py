"""Rule master_history: masters compared with earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.block import stopped
from skymill.errors import Outcome, Result
from skymill.jobs.tables import from_records
from skymill.steps.master_history import COLUMNS, MasterSample, master_history, series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["compare_masters"]

STEP = "master_history"
#: Rows that are read of each master, in bands: 64 rows of a 4k detector are 260 000 pixels.
BANDS, ROWS = 16, 4


def compare_masters(
    *,
    facts: Sequence[Mapping[str, Any]],
    masters: Sequence[str | Path],
    upstream: Sequence[str | Path],
    table: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Compare the masters of each series.

    Parameters
    ----------
    facts : sequence of dict
        What the plan knows of each master: ``id``, ``kind``, ``night``, read-out mode.
    masters, upstream : sequence of str or Path
        Their files and outcomes.
    table, outcomes : str or Path
        Table of figures and table of outcomes to write.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    """
    files = {Path(path).stem: Path(path) for path in masters}
    made = {Path(path).stem: io.read_outcomes(path)[-1] for path in upstream}
    usable = [one for one in facts if made[one["id"]].usable]
    options = dict(settings)
    groups = series(usable, options.pop("temperature_tolerance_k"))

    def samples() -> Iterator[tuple[str, MasterSample]]:
        for number, (name, members) in enumerate(groups):
            for one in members:
                # Two series may bear one name; the number keeps them apart.
                yield f"{number}:{name}", _sample(one, files[one["id"]], made[one["id"]])

    seen = master_history(samples(), **options)
    for record in seen.records:
        record["series"] = record["series"].partition(":")[2]
    found = from_records(seen.records, COLUMNS, {"n_hot": -1})
    inputs = {f"masters/{one['id']}": io.data_digest(files[one["id"]]) for one in usable}
    io.write_table(
        table, found, provenance.facts(STEP, code=code, settings=settings, inputs=inputs)
    )
    io.write_outcomes(outcomes, [_outcome(one["id"], made[one["id"]], seen) for one in facts])


def _sample(one: Mapping[str, Any], path: Path, outcome: Outcome) -> MasterSample:
    planes, where, header = io.read_bands(path, ("SCI", "ERR", "MASK"), BANDS, ROWS)
    _, shape = io.read_geometry(path)
    hot = outcome.numbers.get("n_hot")
    return MasterSample(
        str(one["id"]),
        one,
        planes["SCI"],
        planes["ERR"],
        planes["MASK"],
        where,
        shape,
        dict(header),
        None if hot is None else int(hot),
    )


def _outcome(name: str, made: Outcome, seen: Any) -> Outcome:
    if not made.usable:
        return stopped(STEP, made)
    result = Result(True, tuple(seen.flags[name]), seen.numbers[name])
    return Outcome.from_result(name, STEP, result)
