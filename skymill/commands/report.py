"""Build the report again from what is there, without running anything else."""

from __future__ import annotations

import argparse

from skymill.commands.project import Project, add_directory, shown
from skymill.errors import SkymillError

__all__ = ["HELP", "add_arguments", "main"]

HELP = "build results/report/index.html from what is there"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_directory(parser)


def main(args: argparse.Namespace) -> int:
    """Write the page and print its path."""
    project = Project.find(args.directory)

    from skymill.commands.status import state
    from skymill.jobs.report import write_report

    waiting = len(state(project).pending)
    if waiting:
        raise SkymillError(
            f"report: {waiting} frames have no end yet, so their story cannot be told.\n"
            f"`skymill status -d {shown(project.folder)}` says what is missing, "
            "`skymill run` does it."
        )
    write_report(
        results=project.results,
        sheet=project.sheet,
        page=project.report,
        settings=project.settings.report.model_dump(mode="json"),
    )
    print(shown(project.report))
    return 0
