"""Tables of single frames, joined to the table of a block and taken apart again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from astropy.table import Table

__all__ = ["by_frame", "catalog_inputs", "from_records", "records", "stacked", "table_inputs"]


def stacked(found: Mapping[str, Table], empty: Table) -> Table:
    """Join the tables of frames, with the frame id as first column.

    Parameters
    ----------
    found : mapping
        Frame id to table.
    empty : Table
        Gives columns, units and descriptions where there is no frame.

    Returns
    -------
    Table
    """
    from astropy.table import Column, vstack

    tables = []
    for name, table in (found or {"": empty[:0]}).items():
        copy = table.copy(copy_data=False)
        if "frame_id" not in copy.colnames:
            names = np.full(len(copy), name, dtype=f"U{max(len(name), 1)}")
            copy.add_column(
                Column(names, name="frame_id", description="frame of the measurement"), index=0
            )
        copy.meta = {}
        tables.append(copy)
    return vstack(tables, join_type="exact", metadata_conflicts="silent")


def by_frame(table: Table) -> dict[str, Table]:
    """Return the rows of each frame of a block's table, in order."""
    names = np.asarray(table["frame_id"])
    out: dict[str, Table] = {}
    for name in dict.fromkeys(names.tolist()):
        out[str(name)] = table[names == name]
    return out


def records(table: Table) -> dict[str, dict[str, Any]]:
    """Return the row of each frame of a table with one row a frame, as plain values."""
    out = {}
    for row in table:
        values = {name: row[name] for name in table.colnames}
        out[str(row["frame_id"])] = {
            name: value.item() if hasattr(value, "item") else value
            for name, value in values.items()
        }
    return out


def table_inputs(*paths: str | Path) -> dict[str, str]:
    """Return tables as inputs of a product: ``<step>/<name>`` to the checksum of the file."""
    return {f"{Path(p).parent.name}/{Path(p).stem}": io.file_digest(p) for p in map(Path, paths)}


def catalog_inputs(catalog: Iterable[str | Path]) -> dict[str, str]:
    """Return the reference catalogue, if there is one, as an input of a product."""
    return {f"catalog/{Path(path).name}": io.file_digest(path) for path in catalog}


def from_records(
    items: Sequence[Mapping[str, Any]],
    columns: Mapping[str, tuple[str, str | None, str]],
    defaults: Mapping[str, Any],
) -> Table:
    """Return a table with one row an item.

    Parameters
    ----------
    items : sequence of dict
        Values by column; what is missing or None is NaN, 0 or empty.
    columns : mapping
        Column to (type, unit, description).
    defaults : mapping
        Values for what is missing, where these are not right.

    Returns
    -------
    Table
    """
    from astropy.table import Column, Table

    unknown: dict[str, Any] = {"U": "", "i8": 0, "f8": np.nan}
    out = []
    for name, (kind, unit, description) in columns.items():
        default = defaults.get(name, unknown[kind])
        values = [item.get(name) for item in items]
        values = [default if value is None else value for value in values]
        data = np.array(values, dtype=str if kind == "U" else kind)
        out.append(Column(data, name=name, unit=unit, description=description))
    return Table(out)
