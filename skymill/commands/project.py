"""The project folder: where its files lie and what they say."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from skymill.plan import Plan
    from skymill.report.funnel import GroupOutcome
    from skymill.settings import Settings

__all__ = ["Project", "add_directory", "shown"]


@dataclass(frozen=True)
class Project:
    """One reduction.

    Parameters
    ----------
    folder : Path
        Absolute path of the folder with ``config/config.yaml``.
    """

    folder: Path

    @classmethod
    def find(cls, folder: str | Path) -> Project:
        """Return the project in a folder.

        Raises
        ------
        ConfigError
            If there is none.
        """
        path = Path(folder).resolve()
        if not (path / "config" / "config.yaml").is_file():
            raise ConfigError(
                f"no project in {shown(path)}: config/config.yaml is missing.\n"
                "Make one with `skymill init DIR --raw PATH` or name its folder with -d."
            )
        return cls(path)

    @cached_property
    def settings(self) -> Settings:
        """The checked settings; a mistake raises ConfigError."""
        from skymill.settings import load_settings

        return load_settings(self.config)

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.folder / "config" / "config.yaml"

    @property
    def sheet(self) -> Path:
        """The sheet of frames."""
        return self.folder / "config" / "frames.csv"

    @property
    def overrides(self) -> Path:
        """The corrections by hand."""
        return self.folder / "config" / "overrides.yaml"

    @property
    def results(self) -> Path:
        """The folder of products."""
        return self.folder / "results"

    @property
    def report(self) -> Path:
        """The report."""
        return self.results / "report" / "index.html"

    @property
    def raw(self) -> Path:
        """The raw folder.

        Raises
        ------
        ConfigError
            If it does not exist.
        """
        path = self.folder / self.settings.raw
        if not path.is_dir():
            raise ConfigError(
                f"config: raw = {self.settings.raw!r} is not a folder (looked at {shown(path)}); "
                f"correct it in {shown(self.config)}"
            )
        return path

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the sheet.

        Raises
        ------
        ConfigError
            If there is no sheet yet.
        """
        from skymill.sheet import read_sheet

        if not self.sheet.is_file():
            raise ConfigError(
                f"no sheet yet: {shown(self.sheet)} is missing.\n"
                f"Make it with `skymill ingest -d {shown(self.folder)}` or start `skymill run`."
            )
        return list(read_sheet(self.sheet))

    def plan(self) -> Plan:
        """Return the plan that follows from the sheet and the settings."""
        from skymill.plan import make_plan

        return make_plan(self.rows(), self.settings, self.folder)

    def outcomes(self, plan: Plan) -> list[GroupOutcome]:
        """Return what became of every frame so far, in the order of the steps.

        Tables of blocks, masters and stacks that are no longer planned are left out:
        they tell of an earlier sheet.
        """
        from skymill.io import read_outcomes
        from skymill.report.funnel import GroupOutcome

        planned = {"plan", "master_history"}
        planned |= {*plan.masters, *plan.blocks, *plan.stacks, *plan.fields}
        found = [
            GroupOutcome(o.frame_id, o.step, o.status, o.code, o.message, o.numbers, path.stem)
            for step in self.steps_done()
            for path in sorted((self.results / "outcomes" / step).glob("*.csv"))
            if path.stem in planned
            for o in read_outcomes(path)
        ]
        # Before the first job has run, the plan itself says what it could not use.
        if not (self.results / "outcomes" / "plan").is_dir():
            found += [
                GroupOutcome(o.frame_id, o.step, o.status, o.code, o.message, o.numbers, "plan")
                for o in plan.outcomes
            ]
        return found

    def steps_done(self) -> list[str]:
        """Return the steps that have outcomes, in the order of the steps."""
        from skymill.settings import STEPS

        folder = self.results / "outcomes"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        order = {step: index for index, step in enumerate(STEPS)}
        return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Declare ``-d DIR``."""
    parser.add_argument(
        "-d",
        "--directory",
        metavar="DIR",
        default=".",
        help="project folder, made by `skymill init` (default: here)",
    )


def shown(path: str | Path) -> str:
    """Return a path as a person writes it: relative if it lies near the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(f"..{os.sep}..") else relative
