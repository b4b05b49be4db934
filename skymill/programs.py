"""Programs of others: found before they are needed, and never believed without looking.

A program that is missing stops the run at its start, not hours later, and only if it was asked
for. One that ends without an error but without its output has failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skymill.errors import SkymillError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Program", "ProgramError", "find_program", "run_program"]

#: Lines of what a program said that go into a message.
_LINES = 8


class ProgramError(SkymillError):
    """A program is missing (TOOL_MISSING) or failed (TOOL_FAILED).

    Parameters
    ----------
    code : str
        One of the two.
    message : str
        What was observed and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Program:
    """A program that was found.

    Parameters
    ----------
    name : str
        Name under which it was found.
    path : str
        Where it lies.
    version : str
        What it says of itself; empty if it says nothing. It belongs into the provenance.
    """

    name: str
    path: str
    version: str = ""


def find_program(
    names: Sequence[str],
    *,
    purpose: str,
    version_args: Sequence[str] = ("--version",),
    minimum: tuple[int, ...] = (),
) -> Program:
    """Find a program that distributions call by different names.

    Parameters
    ----------
    names : sequence of str
        Names in order of preference (``SWarp``, ``swarp``).
    purpose : str
        What it is needed for, for the message.
    version_args : sequence of str
        Arguments with which it tells its version; empty if it cannot.
    minimum : tuple of int
        Oldest version that will do.

    Returns
    -------
    Program

    Raises
    ------
    ProgramError
        TOOL_MISSING if none of the names is found, or it is too old.
    """
    found = next(((name, path) for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise ProgramError(
            "TOOL_MISSING",
            f"{purpose} needs the program {' or '.join(names)}, which is not on the PATH; "
            "install it, or choose another engine",
        )
    version = _version(found[1], version_args) if version_args else ""
    numbers = tuple(int(word) for word in re.findall(r"\d+", version)[:3])
    if minimum and numbers and numbers < minimum:
        wanted = ".".join(map(str, minimum))
        raise ProgramError(
            "TOOL_MISSING", f"{purpose} needs {found[0]} {wanted} or newer; found {version}"
        )
    return Program(found[0], found[1], version)


def _version(path: str, arguments: Sequence[str]) -> str:
    """Return the first word with a dotted number of what a program says of itself."""
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, check=False, timeout=30, text=True,
            errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = re.search(r"\d+(?:\.\d+)+[\w.-]*", done.stdout + done.stderr)
    return said.group() if said else ""


def run_program(
    program: Program,
    arguments: Sequence[str],
    *,
    outputs: Sequence[str | Path] = (),
    folder: str | Path | None = None,
    timeout_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program and look at what it left.

    Parameters
    ----------
    program : Program
        The program.
    arguments : sequence of str
        Its arguments.
    outputs : sequence of str or Path
        Files that it must write; older ones of these names are removed first.
    folder : str or Path, optional
        Where it runs; ``outputs`` are relative to it.
    timeout_s : float, optional
        Longest time (s).
    environment : mapping, optional
        Variables beside those of this process.

    Returns
    -------
    str
        What it said.

    Raises
    ------
    ProgramError
        TOOL_FAILED with its last lines if it ends with an error or a signal, takes too long,
        or leaves an output out or empty; TOOL_MISSING if it is gone.
    """
    base = Path(folder) if folder is not None else Path()
    paths = [base / path for path in outputs]
    for path in paths:
        path.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [program.path, *arguments], cwd=folder, check=False, timeout=timeout_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise ProgramError("TOOL_MISSING", f"{program.path} is gone") from None
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode("utf-8", "replace")
        raise _failed(program, f"was stopped after {timeout_s:g} s", said) from None
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode < 0:
        raise _failed(program, f"was ended by signal {-done.returncode}", said)
    if done.returncode:
        raise _failed(program, f"ended with code {done.returncode}", said)
    for path in paths:
        if not path.is_file():
            raise _failed(program, f"ended without an error but did not write {path.name}", said)
        if not path.stat().st_size:
            raise _failed(program, f"ended without an error but {path.name} is empty", said)
    return said


def _failed(program: Program, what: str, said: str) -> ProgramError:
    lines = [line.rstrip() for line in said.splitlines() if line.strip()][-_LINES:]
    last = "; its last lines: " + " | ".join(lines) if lines else "; it said nothing"
    return ProgramError("TOOL_FAILED", f"{program.name} {program.version} {what}{last}")
