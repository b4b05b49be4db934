"""Build the report again from what is there, without running anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skymill.commands.project import Project, add_directory, shown
from skymill.errors import SkymillError
from skymill.workflow_files import workflow_root

if TYPE_CHECKING:
    import argparse

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
    from skymill.provenance import fingerprint

    now = state(project)
    if now.pending:
        raise SkymillError(
            f"report: {len(now.pending)} frames have no end yet, so their story cannot be told.\n"
            f"`skymill status -d {shown(project.folder)}` says what is missing, "
            "`skymill run` does it."
        )
    plan = now.plan
    # The same arguments as those of the rule, so that the page is the same.
    write_report(
        results=project.results,
        sheet=project.sheet,
        page=project.report,
        planned=sorted(["master_history", *plan.masters, *plan.blocks, *plan.stacks, *plan.fields]),
        settings=project.settings.report.model_dump(mode="json"),
        all_settings=project.settings.reduction(),
        code=fingerprint(str(workflow_root() / "scripts" / "report.py")),
    )
    print(shown(project.report))
    return 0
