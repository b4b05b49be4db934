"""Read the raw folder and write the sheet, config/frames.csv: one row per frame.

The sheet is what a reduction is made from. It is never overwritten without --update,
which reads only new and changed files.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.commands.project import Project, add_directory, shown
from skymill.errors import ConfigError
from skymill.progress import Display

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from skymill.ingest import Ingested
    from skymill.settings import Settings

__all__ = ["HELP", "Reading", "add_arguments", "ingest_text", "main", "run_ingest"]

HELP = "read the raw folder into the sheet, config/frames.csv"

_NAMES_SHOWN = 10
#: Columns that change with a file and say nothing more than `sha256` does.
_FILE_COLUMNS = ("size_bytes",)


@dataclass(frozen=True)
class Reading:
    """What reading the raw folder gave.

    Parameters
    ----------
    ingested : Ingested
        Rows and what became of files without a row.
    rows : list of dict
        Rows of the new sheet.
    before : list of dict or None
        Rows of the sheet before; None if there was none.
    """

    ingested: Ingested
    rows: list[dict[str, Any]]
    before: list[dict[str, Any]] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_directory(parser)
    parser.add_argument(
        "--update", action="store_true", help="refresh the sheet: read new and changed files"
    )
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be written, write nothing"
    )


def main(args: argparse.Namespace) -> int:
    """Read, write the sheet, say what was found."""
    project = Project.find(args.directory)
    if project.sheet.is_file() and not (args.update or args.dry_run):
        raise ConfigError(
            f"ingest: {shown(project.sheet)} exists and is not overwritten; "
            "`--update` reads new and changed files, `--dry-run` only says what it would do"
        )
    reading = run_ingest(
        project.folder, project.settings, update=args.update, write=not args.dry_run
    )
    print(ingest_text(reading))
    if args.dry_run:
        print("dry run: nothing was written")
    else:
        print(f"sheet: {shown(project.sheet)}")
    return 0


def run_ingest(folder: Path, settings: Settings, update: bool, *, write: bool = True) -> Reading:
    """Read the raw folder of a project and write its sheet.

    Parameters
    ----------
    folder : Path
        The project.
    settings : Settings
        Its settings.
    update : bool
        Use the sheet that is there: files that did not change are not read again.
    write : bool
        Whether to write the sheet.

    Returns
    -------
    Reading

    Raises
    ------
    ConfigError
        If the raw folder, the overrides or the sheet are wrong.
    """
    from skymill.ingest import ingest, read_overrides
    from skymill.sheet import read_sheet, write_sheet

    project = Project(folder)
    try:
        before = list(read_sheet(project.sheet)) if project.sheet.is_file() else None
    except ConfigError as error:
        if not update:
            raise
        print(f"the sheet cannot be read and is made anew: {error}", file=sys.stderr)
        before = None
    raw = folder / settings.raw
    if not raw.is_dir():
        raise ConfigError(
            f"config: raw = {settings.raw!r} is not a folder (looked at {shown(raw)}); "
            f"correct it in {shown(project.config)}"
        )
    display = Display(sys.stderr)
    with _cache(folder, write=write) as cache:
        ingested = ingest(
            raw,
            instrument=instrument_path(folder, settings.instrument),
            overrides=read_overrides(project.overrides),
            previous=before if update else None,
            cache=cache,
            progress=_reporter(display),
            **settings.ingest.model_dump(),
        )
    display.clear()
    rows = list(ingested.rows)
    if write:
        write_sheet(project.sheet, rows)
    return Reading(ingested, rows, before)


def _reporter(display: Display) -> Callable[[int, int], None]:
    """Tell how many files were read; without a terminal only if it takes long."""
    began = time.monotonic()

    def tell(done: int, total: int) -> None:
        now = time.monotonic()
        if display.live or now - began > display.interval_s:
            display.update(f"reading {done}/{total} files", now)

    return tell


@contextmanager
def _cache(folder: Path, *, write: bool) -> Iterator[Path]:
    """Give the file that remembers what was read; a copy of it if nothing may be written."""
    cache = folder / ".skymill" / "ingest.json"
    if write:
        cache.parent.mkdir(exist_ok=True)
        yield cache
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / cache.name
        if cache.is_file():
            shutil.copyfile(cache, copy)
        yield copy


def instrument_path(folder: Path, instrument: str | None) -> str | None:
    """Return the instrument's name, or the path of its file as seen from here."""
    if instrument is None or not instrument.endswith((".yaml", ".yml")):
        return instrument
    return str(folder / instrument)


def ingest_text(reading: Reading) -> str:
    """Say what was found, what was rejected and why, and what changed."""
    from skymill.ingest import summary

    text = summary(reading.ingested)
    if reading.before is None:
        return text
    return text + "\n" + "\n".join(changes(reading.before, reading.rows))


def changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines that say which frames are new, changed or gone.

    Parameters
    ----------
    before, after : sequence of dict
        Rows of the two sheets.
    """
    old = {row["frame_id"]: row for row in before}
    new = {row["frame_id"]: row for row in after}
    added = [row["path"] for name, row in new.items() if name not in old]
    gone = [row["path"] for name, row in old.items() if name not in new]
    changed = []
    for name, row in new.items():
        if name in old and (columns := _differing(old[name], row)):
            changed.append(f"{row['path']} ({', '.join(columns)})")
    lines = [f"{len(added)} new, {len(changed)} changed, {len(gone)} gone since the last sheet"]
    for word, names in (("new", added), ("changed", changed), ("gone", gone)):
        lines += [f"  {word:<8} {name}" for name in names[:_NAMES_SHOWN]]
        if len(names) > _NAMES_SHOWN:
            lines.append(f"  {word:<8} and {len(names) - _NAMES_SHOWN} more")
    return lines


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in new if key not in _FILE_COLUMNS and old.get(key) != new[key]]
