"""Reduce everything that is not reduced yet.

Reads the raw folder if there is no sheet, then starts Snakemake. All flags that are not
listed here go to Snakemake: -n (dry run), --forcerun STEP, --profile slurm, targets, ...
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from skymill.commands.project import Project, add_directory, shown
from skymill.errors import ConfigError, SkymillError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["HELP", "add_arguments", "check_writable", "cores", "main", "run_project"]

HELP = "reduce everything that is not reduced yet (all Snakemake flags pass through)"

DRY = ("-n", "--dry-run", "--dryrun")
#: Flags with which Snakemake answers a question or tidies up instead of running jobs.
QUESTIONS = (
    *DRY,
    "--dag",
    "--rulegraph",
    "--filegraph",
    "--d3dag",
    "--summary",
    "-S",
    "--detailed-summary",
    "-D",
    "--list-rules",
    "--list",
    "-l",
    "--list-target-rules",
    "--lt",
    "--list-changes",
    "--lc",
    "--list-input-changes",
    "--li",
    "--list-params-changes",
    "--lp",
    "--list-untracked",
    "--lu",
    "--lint",
    "--unlock",
    "--cleanup-metadata",
    "--cm",
    "--report",
    "--archive",
    "--containerize",
    "--print-compilation",
    "--generate-unit-tests",
    "--delete-all-output",
    "--delete-temp-output",
    "--version",
    "-v",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_directory(parser)
    parser.add_argument(
        "-c",
        "--cores",
        metavar="N",
        type=cores,
        help="CPU cores to use, or `all` (default: all that this process may use)",
    )
    parser.set_defaults(passes_flags=True)


def main(args: argparse.Namespace) -> int:
    """Run the workflow of a project."""
    return run_project(Project.find(args.directory), args.cores, args.extra)


def run_project(project: Project, n_cores: int | None = None, flags: Sequence[str] = ()) -> int:
    """Check, ingest if there is no sheet, run Snakemake, sum up.

    Parameters
    ----------
    project : Project
        The project.
    n_cores : int, optional
        CPU cores; by default all that this process may use.
    flags : sequence of str
        Further flags of Snakemake.

    Returns
    -------
    int
        0 all good, 10 some frames were rejected, 130 interrupted, otherwise 1.

    Raises
    ------
    ConfigError
        If the settings, the raw folder or the sheet are wrong; nothing has run then.
    SkymillError
        If the results cannot be written.
    """
    from skymill.commands import snakemake_run
    from skymill.settings import check_paths

    check_paths(project.settings, project.folder)  # a mistake ends here, before any job
    asks = _given(flags, QUESTIONS)
    if not asks:
        check_writable(project)
    if not project.sheet.is_file():
        if asks and not _given(flags, DRY):
            raise ConfigError(
                f"no sheet yet in {shown(project.folder)}: `skymill ingest` or `skymill run` first"
            )
        _first_ingest(project, write=not asks)
        if asks:
            print("dry run: the sheet was not written; without it there are no jobs to list")
            return 0
    elif _is_newer(project.overrides, project.sheet):
        print(
            f"note: {shown(project.overrides)} is newer than the sheet; "
            f"`skymill ingest -d {shown(project.folder)} --update` applies it"
        )
    n_cores = n_cores or len(os.sched_getaffinity(0))
    command = snakemake_run.command(project, n_cores, flags)
    environment = snakemake_run.environment()
    if asks:
        return subprocess.run(command, env=environment, check=False).returncode
    ended = snakemake_run.follow(project, command, environment, n_cores)
    if ended.code != 0:
        print(snakemake_run.explanation(project, ended), file=sys.stderr)
        return 130 if ended.interrupted else 1
    return _sum_up(project, ended, complete=not flags)


def check_writable(project: Project) -> None:
    """Make sure that products can be written before hours are spent on them.

    Raises
    ------
    SkymillError
        If a file cannot be made in the project or its results.
    """
    for folder in (project.results, project.folder / "logs", project.folder / ".skymill"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SkymillError(
                f"cannot write into {shown(folder)}: {error.strerror}; "
                "nothing was run. Make room or permit writing, or choose another project folder"
            ) from None


def _first_ingest(project: Project, *, write: bool) -> None:
    from skymill.commands.ingest import ingest_text, run_ingest

    print(f"reading {shown(project.raw)} ...", file=sys.stderr)
    print(ingest_text(run_ingest(project.folder, project.settings, update=False, write=write)))


def _is_newer(one: Path, other: Path) -> bool:
    return one.is_file() and one.stat().st_mtime > other.stat().st_mtime


def _sum_up(project: Project, ended: object, *, complete: bool) -> int:
    from skymill.commands.snakemake_run import Ended
    from skymill.commands.status import funnel_lines, state
    from skymill.progress import duration

    assert isinstance(ended, Ended)
    now = state(project)
    if ended.tracker.nothing_to_do:
        print("nothing to be done")
    else:
        print(f"finished in {duration(ended.seconds)}")
    print("\n".join(funnel_lines(now.funnel, len(now.pending))))
    if project.report.is_file():
        print(f"report: {shown(project.report)}")
    if complete and any(now.missing.values()):
        lost = ", ".join(step for step, names in now.missing.items() if names)
        print(f"not made: {lost}; look at the logs of these steps", file=sys.stderr)
        return 1
    return 0 if now.is_clean else 10


def _given(flags: Sequence[str], wanted: Sequence[str]) -> bool:
    """True if one of the wanted flags is there, also as ``-nq`` or ``--flag=value``."""
    from skymill.commands.snakemake_run import has_flag

    return has_flag(flags, *wanted)


def cores(text: str) -> int:
    """Return the number of cores that a word of the command line means."""
    if text == "all":
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of cores or 'all', got {text!r}")
    return int(text)
