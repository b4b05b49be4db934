"""One small module per command of the command line.

A command module has ``HELP`` (one line), ``add_arguments(parser)`` and
``main(args) -> int``, and imports nothing heavy at its top.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import argparse

__all__ = ["COMMANDS", "Command", "load"]

#: Commands in the order in which an observer meets them.
COMMANDS = (
    "demo", "init", "ingest", "run", "status", "explain", "report", "show", "animate", "catalog",
    "export", "instrument", "simulate",
)  # fmt: skip


class Command(Protocol):
    """What a command module looks like."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments of the command."""

    def main(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


def load(name: str) -> Command:
    """Return the module of a command."""
    return cast("Command", import_module(f"skymill.commands.{name}"))
