"""Write, check and list instrument files.

  draft RAW...               write a first file for a camera from a folder of its frames
  check [NAME|YAML] RAW...   say what in a file does not fit the frames
  list                       the instruments that are known, and where their files lie
  show NAME                  print the file of an instrument

RAW are files or folders; they are only read.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from skymill.commands.project import shown
from skymill.errors import ConfigError
from skymill.progress import Display

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skymill.instruments.check import Finding
    from skymill.sheet import Row

__all__ = ["HELP", "add_arguments", "main"]

HELP = "write, check and list instrument files"

_KINDS = ("bias", "dark", "flat", "flat_dark", "light", "not_science")
_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    draft = what.add_parser("draft", help="write a first file from a folder of frames")
    draft.add_argument("raw", metavar="RAW", nargs="+", help="files or folders of one camera")
    draft.add_argument("--name", help="name of the instrument (default: from the headers)")
    draft.add_argument("-o", "--output", metavar="YAML", help="file to write (default: NAME.yaml)")
    draft.add_argument(
        "--kind", metavar="KIND=PATTERN", action="append", default=[],
        help="kind of the files with such names, where headers do not tell it; "
        f"KIND is one of {', '.join(_KINDS)}; may be repeated",
    )  # fmt: skip
    check = what.add_parser("check", help="say what in a file does not fit the frames")
    check.add_argument(
        "raw", metavar="[NAME|YAML] RAW", nargs="+",
        help="an instrument (without one, each header tells), then files or folders",
    )  # fmt: skip
    what.add_parser("list", help="the instruments that are known")
    show = what.add_parser("show", help="print the file of an instrument")
    show.add_argument("name", metavar="NAME", help="name of an instrument")


def main(args: argparse.Namespace) -> int:
    """Do one of the four."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "draft": _draft, "check": _check, "list": _list, "show": _show,
    }  # fmt: skip
    return commands[args.what](args)


def _draft(args: argparse.Namespace) -> int:
    from skymill.instruments.draft import draft
    from skymill.instruments.survey import look
    from skymill.io import write_bytes

    given = _given(args.kind)
    raw = [Path(item) for item in args.raw]
    output = Path(args.output) if args.output else None
    if output is not None:
        _free(output)
        if output.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"instrument draft: {output} must end in .yaml")
    display = Display(sys.stderr)
    survey = look(raw, given=given, progress=_reporter(display))
    display.clear()
    name = args.name or (output.stem if output else _name(survey.values("INSTRUME")))
    output = output or Path(f"{name}.yaml")
    _free(output)
    text = draft(survey, name)
    write_bytes(output, text.encode())
    guessed = sum(line.count("# guessed:") for line in text.splitlines())
    unknown = sum(line.startswith("# not known:") for line in text.splitlines())
    for path, code in survey.unreadable:
        print(f"not read: {path} ({code})", file=sys.stderr)
    print(
        f"{shown(output)}: made from {len(survey.shots)} frames; {guessed} entries are guessed, "
        f"{unknown} are not known"
    )
    print(f"then: skymill instrument check {shown(output)} {' '.join(args.raw)}")
    return 0


def _free(output: Path) -> None:
    if output.exists():
        raise ConfigError(f"instrument draft: {shown(output)} exists and is not overwritten")


def _given(texts: Sequence[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for text in texts:
        kind, found, pattern = text.partition("=")
        if not found or kind not in _KINDS or not pattern:
            raise ConfigError(
                f"instrument draft: --kind {text}: expected KIND=PATTERN with one of "
                f"{', '.join(_KINDS)}"
            )
        given.setdefault(kind, []).append(pattern)
    return given


def _name(values: dict[str, int]) -> str:
    """Name from INSTRUME, as an instrument may bear it."""
    word = next(iter(values), "camera")
    name = re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")[:32]
    return name or "camera"


def _reporter(display: Display) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if display.live:
            display.update(f"reading {done}/{total} files", time.monotonic())

    return tell


def _check(args: argparse.Namespace) -> int:
    from skymill.instruments.check import check
    from skymill.instruments.find import load_instrument
    from skymill.instruments.survey import Survey, look

    instrument, raw = _instrument_and_raw(args.raw)
    display = Display(sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = _staged(raw, Path(temporary))
        survey = look([folder], progress=_reporter(display))
        rows = _rows(folder, instrument)
    display.clear()
    names = sorted({str(row["instrument"]) for row in rows if row["instrument"]})
    errors = 0
    for name in names:
        own = [row for row in rows if row["instrument"] in (name, "")]
        paths = {row["path"] for row in own if row["instrument"]}
        part = Survey([s for s in survey.shots if s.path in paths], survey.unreadable)
        found = check(load_instrument(instrument or name), part, own)
        errors += sum(finding.level == "error" for finding in found)
        print(_table(name, found, len(part.shots)))
    if not names:
        raise ConfigError("instrument check: no file could be read")
    return 1 if errors else 0


def _instrument_and_raw(words: Sequence[str]) -> tuple[str | None, list[Path]]:
    """Tell an instrument from the files: it comes first and is no image."""
    from skymill.instruments.find import instrument_names

    first, rest = words[0], [Path(word) for word in words[1:]]
    if first.endswith((".yaml", ".yml")) or (first in instrument_names() and rest):
        if not rest:
            raise ConfigError("instrument check: which frames? Name files or folders")
        return first, rest
    return None, [Path(word) for word in words]


def _staged(raw: Sequence[Path], temporary: Path) -> Path:
    """Return one folder that holds everything, by links where there is more than one."""
    for item in raw:
        if not item.exists():
            raise ConfigError(f"instrument check: {item} is neither a file nor a folder")
    if len(raw) == 1 and raw[0].is_dir():
        return raw[0]
    for number, item in enumerate(raw):
        name = item.name or f"folder{number}"
        link = temporary / name
        if link.is_symlink():
            link = temporary / f"{number}-{name}"
        link.symlink_to(item.resolve(), target_is_directory=item.is_dir())
    return temporary


def _rows(folder: Path, instrument: str | None) -> list[Row]:
    from skymill.ingest import ingest

    return ingest(folder, instrument=instrument, follow_links=True).rows


def _table(name: str, found: Sequence[Finding], frames: int) -> str:
    errors = sum(finding.level == "error" for finding in found)
    lines = [f"{name}: {errors} errors, {len(found) - errors} warnings in {frames} frames"]
    for finding in found:
        number = f"{len(finding.frames)} files" if len(finding.frames) > 1 else ""
        lines.append(f"  {finding.level:<8} {finding.subject:<18} {number}".rstrip())
        text = finding.text
        if finding.frames:
            more = ", ..." if len(finding.frames) > _SHOWN else ""
            text += f" [{', '.join(finding.frames[:_SHOWN])}{more}]"
        lines += textwrap.wrap(text, 94, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _list(args: argparse.Namespace) -> int:  # noqa: ARG001
    from skymill.instruments.find import PACKAGED, instrument_files, load_instrument

    for name, path in sorted(instrument_files().items()):
        where = "" if path.parent == PACKAGED else f"  ({shown(path)})"
        print(f"{name:<14} {load_instrument(name).description}{where}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from skymill.instruments.find import instrument_files, load_instrument

    load_instrument(args.name)
    print(instrument_files()[args.name].read_text(encoding="utf-8").rstrip())
    return 0
