"""Rule report: the page that tells what happened to every file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import __version__, io, provenance
from skymill.report import build_page, load_report_data
from skymill.sheet import read_sheet

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["write_report"]


def write_report(
    *,
    results: str | Path,
    sheet: str | Path,
    page: str | Path,
    planned: Collection[str] | None,
    settings: Mapping[str, Any],
    all_settings: Mapping[str, Any],
    code: str,
) -> None:
    """Write the report.

    Parameters
    ----------
    results : str or Path
        Folder of the products.
    sheet : str or Path
        The sheet.
    page : str or Path
        Page to write.
    planned : collection of str or None
        Identifiers of the plan; products of others, of an earlier sheet, are not shown.
    settings, all_settings : mapping
        Settings of the report, and of the whole reduction, whose digest the page names.
    code : str
        Fingerprint of the code.
    """
    data = load_report_data(
        results,
        read_sheet(Path(sheet)),
        planned=planned,
        max_lightcurves=settings["max_lightcurves"],
    )
    html = build_page(
        data,
        title=settings["title"],
        version=__version__,
        settings_digest=provenance.digest(all_settings),
        code=code,
    )
    io.write_text(page, html)
