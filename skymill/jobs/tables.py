"""Tables of single frames, joined to the table of a block and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["by_frame", "records", "stacked"]


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
