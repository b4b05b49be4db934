"""What ingest found, as a table for the terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skymill.ingest import Ingested
    from skymill.sheet import Row

__all__ = ["summary"]

_KINDS = ("bias", "dark", "flat_dark", "flat", "light")
_WIDTH = 100


def summary(ingested: Ingested) -> str:
    """Return a plain text table: kinds by filter, then what was rejected or doubted, and why.

    The counts add up: files found = accepted + accepted with fixes + degraded + rejected.
    """
    rows = ingested.rows
    parts = [_counts(rows), _frames(rows)]
    for verdict, title in (("rejected", "rejected"), ("degraded", "degraded (used, with a doubt)")):
        chosen = [row for row in rows if row["verdict"] == verdict]
        if chosen:
            parts.append(_reasons(chosen, title))
    more = list(ingested.notes)
    if ingested.unreadable_dirs:
        more.append(f"Folders that cannot be read: {', '.join(ingested.unreadable_dirs)}.")
    if ingested.unmatched_overrides:
        more.append(f"Overrides that match no file: {', '.join(ingested.unmatched_overrides)}.")
    if ingested.gone:
        more.append(
            f"{len(ingested.gone)} files of the last sheet are gone, such as {ingested.gone[0]}."
        )
    if more:
        parts.append("\n".join(more))
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(rows: Sequence[Row]) -> str:
    if not rows:
        return "No file found that looks like an image."
    rejected = sum(row["verdict"] == "rejected" for row in rows)
    degraded = sum(row["verdict"] == "degraded" for row in rows)
    fixed = sum(row["verdict"] == "ok" and bool(row["fixes"]) for row in rows)
    clean = len(rows) - rejected - degraded - fixed
    return (
        f"{len(rows)} found = {clean} accepted + {fixed} with fixes + {degraded} degraded "
        f"+ {rejected} rejected"
    )


def _frames(rows: Sequence[Row]) -> str:
    """Count frames by instrument, night, kind and filter."""
    usable = [row for row in rows if row["verdict"] != "rejected"]
    if not usable:
        return ""
    groups: dict[tuple[str, str, int, str], list[Row]] = defaultdict(list)
    for row in usable:
        kind = _KINDS.index(str(row["kind"]))
        groups[str(row["instrument"]), str(row["night"]), kind, str(row["filter"])].append(row)
    table = [("instrument", "night", "kind", "filter", "frames", "exposure s", "targets")]
    for (name, night, kind, band), members in sorted(groups.items()):
        table.append(
            (name, night, _KINDS[kind], band, str(len(members)), _range(members), _targets(members))
        )
    return _aligned(table)


def _range(rows: Sequence[Row]) -> str:
    values = sorted({float(row["exptime_s"]) for row in rows if row["exptime_s"] is not None})
    if not values:
        return ""
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _targets(rows: Sequence[Row]) -> str:
    names = sorted({str(row["target"]) for row in rows if row["target"]})
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _reasons(rows: Sequence[Row], title: str) -> str:
    """List each code with its count and one example."""
    counts: Counter[str] = Counter()
    example: dict[str, Row] = {}
    for row in rows:
        for code in str(row["code"]).split(";"):
            counts[code] += 1
            example.setdefault(code, row)
    lines = [f"{title}:"]
    width = max(len(code) for code in counts)
    for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        row = example[code]
        text = _clip(f"{row['path']}: {row['message']}")
        lines.append(f"  {count:5d}  {code:{width}s}  {text}")
    return "\n".join(lines)


def _clip(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _aligned(table: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
