"""Tables of single frames, joined to the table of a block and taken apart again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from astropy.table import Table

__all__ = [
    "by_frame",
    "catalog_inputs",
    "from_records",
    "joined",
    "records",
    "stacked",
    "table_inputs",
]


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

    quick = _joined(found) if found else None
    if quick is not None:
        return quick
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


def joined(found: Mapping[str, Mapping[str, Any]], empty: Table) -> Table:
    """Join the columns of frames to one table.

    Parameters
    ----------
    found : mapping
        Frame id to columns, among them those of `empty`.
    empty : Table
        Table of no rows, which gives names, units and descriptions.

    Returns
    -------
    Table
    """
    from astropy.table import Column, Table

    columns = []
    for name in empty.colnames:
        like = empty[name]
        parts = [np.asarray(item[name]) for item in found.values()]
        data = np.concatenate(parts) if parts else np.asarray(like)
        columns.append(Column(data, name=name, unit=like.unit, description=like.description))
    return Table(columns, copy=False)


def _joined(found: Mapping[str, Table]) -> Table | None:
    """Join plain tables column by column; None if that is not all there is to do."""
    from astropy.table import Column, Table

    first = next(iter(found.values()))
    names = first.colnames
    for table in found.values():
        if table.colnames != names or "frame_id" in names:
            return None
        for old, new in zip(first.columns.values(), table.columns.values(), strict=True):
            about = (new.dtype, new.unit, new.description, new.format)
            if type(new) is not Column or about != (
                old.dtype, old.unit, old.description, old.format
            ) or new.meta:  # fmt: skip
                return None
    frame = np.repeat(np.array(list(found), dtype=str), [len(table) for table in found.values()])
    columns = [Column(frame, name="frame_id", description="frame of the measurement")]
    for name in names:
        data = np.concatenate([np.asarray(table[name]) for table in found.values()])
        old = first[name]
        columns.append(
            Column(data, name=name, unit=old.unit, description=old.description, format=old.format)
        )
    return Table(columns, copy=False)


def by_frame(table: Table) -> dict[str, Table]:
    """Return the rows of each frame of a block's table, in order."""
    names = np.asarray(table["frame_id"])
    if not len(names):
        return {}
    starts = np.concatenate([[0], np.flatnonzero(names[1:] != names[:-1]) + 1, [len(names)]])
    keys = [str(name) for name in names[starts[:-1]]]
    if len(set(keys)) == len(keys):  # the rows of a frame are together, as they are written
        spans = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        return {name: table[a:b] for name, (a, b) in zip(keys, spans, strict=True)}
    return {name: table[names == name] for name in dict.fromkeys(keys)}


def chosen(table: Table, names: Sequence[str]) -> Table:
    """Return the frame ids and those of some columns that there are, without copying them."""
    from astropy.table import Table

    known = ["frame_id", *(name for name in names if name in table.colnames)]
    return Table([table[name] for name in known], names=known, copy=False)


def records(table: Table) -> dict[str, dict[str, Any]]:
    """Return the row of each frame of a table with one row a frame, as plain values."""
    names = table.colnames
    columns = [table[name].tolist() for name in names]
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    return {str(row["frame_id"]): row for row in rows}


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
