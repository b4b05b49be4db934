"""Functions of the user, named by their import path ``package.module:name``.

Modules are looked up where Python finds them, then in the working directory, which is
the folder of the project during a run.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["IMPORT_PATH", "code_of", "load_function"]

#: Pattern of an import path, without anchors.
IMPORT_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


def load_function(path: str, what: str) -> Any:
    """Return what an import path stands for; a new object if it is a class without arguments.

    Parameters
    ----------
    path : str
        ``package.module:name``; the name may have dots.
    what : str
        What it is used for, for messages.

    Raises
    ------
    ConfigError
        If there is no such module or name, it cannot be imported, or is not callable.
    """
    where, _, name = path.partition(":")
    try:
        found: Any = _module(where)
        for part in name.split("."):
            found = getattr(found, part)
        if inspect.isclass(found) and not _has_arguments(found):
            found = found()
    except Exception as error:  # code of the user raises anything
        raise ConfigError(
            f"{what} {path!r} cannot be loaded: {type(error).__name__}: {error}. "
            "Expected `package.module:name` of an installed package or of a file in the project "
            "folder."
        ) from error
    if not callable(found):
        raise ConfigError(f"{what} {path!r} is {type(found).__name__}, not callable")
    return found


def _has_arguments(found: Any) -> bool:
    """Whether a class must be called with arguments: such a class is itself the function."""
    parameters = inspect.signature(found).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in kinds for p in parameters)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or name.partition(".")[0] != error.name.partition(".")[0]:
            raise  # a module that the user's module needs
        sys.path.append(str(Path.cwd()))
        try:
            importlib.invalidate_caches()
            return importlib.import_module(name)
        finally:
            sys.path.pop()


def code_of(path: str) -> str:
    """Return the begin of the SHA-256 of the function's module; empty if it has no source."""
    source = getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
    if source is None or not Path(source).is_file():
        return ""
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]
