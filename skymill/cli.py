"""The command line: which command, which arguments, how an error is said.

Nothing heavy is imported here; each command imports what it needs when it runs, so
that ``skymill --help`` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

from skymill import __version__
from skymill.commands import COMMANDS, load
from skymill.errors import ConfigError, SkymillError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["build_parser", "main"]

EXIT_CODES = """\
exit codes:
  0    all good
  10   finished; some frames were rejected, the report says which and why
  2    the command line or the configuration is wrong; nothing was done
  1    anything else: disk full, killed, missing program
  130  interrupted
"""


class _Parser(argparse.ArgumentParser):
    """Argument parser whose complaints name the nearest right word."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '([^']*)'", message)
        if wrong and "COMMAND" in message:
            message = f"no command {wrong[1]!r}{_near(wrong[1], COMMANDS)}"
        self.exit(2, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help whose column fits the longest command, which argparse does not count."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(map(len, COMMANDS)) + 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code: 0 all good, 10 finished with rejections, 2 wrong command line or
        configuration, 1 infrastructure, 130 interrupted.
    """
    parser = build_parser()
    args, extra = parser.parse_known_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    if extra and not args.passes_flags:
        args.parser.error(_unknown(extra[0], args.parser))
    args.extra = extra
    try:
        return int(load(args.command).main(args))
    except BrokenPipeError:
        # The reader (`| head`) went away; python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("skymill: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug:
            raise
        print(_sentence(error), file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    # A default of the option here would overwrite `skymill --debug COMMAND`.
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser = _Parser(
        prog="skymill",
        description="Raw CCD and CMOS frames to calibrated sky, with errors that are true.",
        epilog=EXIT_CODES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"skymill {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in COMMANDS:
        command = load(name)
        sub = commands.add_parser(
            name,
            parents=[common],
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(passes_flags=False, parser=sub)
        command.add_arguments(sub)
    return parser


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    known = sorted(set(re.findall(r"--[a-z][a-z-]*", parser.format_help())))
    kind = "option" if word.startswith("-") else "argument"
    return f"no {kind} {word!r}{_near(word, known)}"


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def _sentence(error: Exception) -> str:
    """Say an error in one or two lines."""
    if isinstance(error, SkymillError):
        return f"skymill: {error}"
    if isinstance(error, OSError):
        return f"skymill: {error.strerror or error}: {error.filename or ''}".rstrip(": ")
    return (
        f"skymill: internal error: {type(error).__name__}: {error}\n"
        "Run the command again with --debug and report what it prints."
    )
