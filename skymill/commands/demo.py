"""Simulate a night, reduce it, compare with the truth. No network is needed.

A second call finds everything done. Bad frames belong to that night, to show how they
are told: the exit code is 0 although they are rejected, and 10 if a frame ended in
another way than the simulation expects.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skymill.commands.project import Project, shown
from skymill.commands.run import cores
from skymill.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "add_arguments", "main"]

HELP = "simulate a night, reduce it, compare with the truth"

#: Says that a folder is ours before its truth is complete.
_MARK = Path(".skymill") / "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default="skymill-demo",
        help="folder to make or to go on with (default: skymill-demo)",
    )
    parser.add_argument("-c", "--cores", metavar="N", type=cores, help="CPU cores to use, or `all`")


def main(args: argparse.Namespace) -> int:
    """Simulate once, reduce what is not reduced, compare."""
    from skymill.commands.demo_check import comparison, surprises
    from skymill.commands.init import make_project
    from skymill.commands.run import run_project

    folder = Path(args.directory).resolve()
    _simulate(folder)
    if not (folder / "config" / "config.yaml").is_file():
        reference = str(folder / "truth" / "reference.csv")
        make_project(folder, folder / "raw", reference=reference)
    project = Project.find(folder)
    _set_aside(project.sheet)
    code = run_project(project, args.cores)
    if code not in (0, 10):
        return code
    print("\n" + "\n".join(comparison(project, folder / "truth")))
    odd = surprises(project, folder / "truth")
    if odd:
        print("\nnot as the simulation expects:", *odd, sep="\n  ")
    else:
        print("\nThe rejected frames are those that were planted; every frame ended as expected.")
    print("\nlook at")
    for path in _sights(project):
        print(f"  {shown(path)}")
    return 10 if odd else 0


def _simulate(folder: Path) -> None:
    """Write raw frames and truth, unless they are there."""
    from skymill.simulate import Truth, demo_config, simulate_night

    truth = folder / "truth" / "truth.json"
    if truth.is_file():
        if Truth.load(truth.parent).config != demo_config():
            raise ConfigError(
                f"demo: {shown(folder)} holds the night of another version of skymill; "
                "remove it or choose another folder"
            )
        print(f"the simulated night in {shown(folder)} is there", file=sys.stderr)
        return
    mark = folder / _MARK
    if folder.exists() and not mark.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"demo: {shown(folder)} exists and was not made by the demo; choose another folder"
        )
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    print(f"simulating a night in {shown(folder)} ...", file=sys.stderr)
    # What an interrupted call has left is written again.
    simulate_night(folder, demo_config(), overwrite=True)


def _set_aside(sheet: Path) -> None:
    """Keep a sheet that another version wrote under another name: it is made anew."""
    from skymill.sheet import read_sheet

    if not sheet.is_file():
        return
    try:
        read_sheet(sheet)
    except ConfigError:
        old = sheet.with_suffix(".csv.old")
        sheet.replace(old)
        print(f"the sheet is of another version; it is kept as {shown(old)}", file=sys.stderr)


def _sights(project: Project) -> list[Path]:
    found = [project.report]
    for pattern in ("stack/*.fits", "catalog/*.parquet", "lightcurves/*.parquet"):
        found += sorted(project.results.glob(pattern))
    return [path for path in found if path.is_file()]
