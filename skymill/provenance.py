"""Who made this file, from what, with which code and settings."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["cards", "digest", "facts", "fingerprint"]

_PACKAGE = Path(__file__).parent


def digest(settings: Mapping[str, Any]) -> str:
    """Return 12 hex digits that stand for these values, whatever their order."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cards(
    step: str, *, code: str, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> dict[str, tuple[Any, str]]:
    """Return the header cards that tell the origin of a product.

    Parameters
    ----------
    step : str
        The step that made it.
    code : str
        Fingerprint of the code.
    settings : mapping
        Settings of the step.
    inputs : mapping
        Name of each input to the checksum of its content.

    Returns
    -------
    dict
        Keyword to (value, comment).
    """
    out: dict[str, tuple[Any, str]] = {
        "SMSTEP": (step, "step that made this file"),
        "SMVERS": (__version__, "version of skymill"),
        "SMCODE": (code, "fingerprint of the code"),
        "SMSETT": (digest(settings), "digest of the settings"),
        "SMNIN": (len(inputs), "number of inputs"),
    }
    # More inputs than a keyword can number are told by one digest of the whole list.
    listed = sorted(inputs.items())
    for number, (name, checksum) in enumerate(listed[:9999], 1):
        text = name.encode("ascii", "backslashreplace").decode()
        out[f"SMI{number:04d}"] = (f"{text} {checksum[:16]}", "")
    text = "\n".join(f"{name} {checksum}" for name, checksum in listed)
    out["SMINPUT"] = (hashlib.sha256(text.encode()).hexdigest()[:16], "digest of all inputs")
    return out


def facts(
    step: str, *, code: str, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Return the same as `cards` for the metadata of a table."""
    return {
        "step": step,
        "version": __version__,
        "code": code,
        "settings": digest(settings),
        "inputs": dict(sorted(inputs.items())),
    }


@cache
def fingerprint(script: str) -> str:
    """Hash a rule's script and everything of the package that it imports.

    Snakemake reruns a job when its script changes, but not when a module changes that
    the script imports. With this value among the parameters of the rule it does.

    Parameters
    ----------
    script : str
        Path of the script.

    Returns
    -------
    str
        12 hex digits.

    Notes
    -----
    Follows static imports inside the package, also those inside functions; the versions
    of libraries belong to the environment.
    """
    todo = [Path(script)]
    seen: dict[str, bytes] = {}
    while todo:
        path = todo.pop()
        key = path.name if path == Path(script) else path.relative_to(_PACKAGE).as_posix()
        if key in seen:
            continue
        seen[key] = path.read_bytes()
        for asset in sorted((path.parent / "templates").glob("*")):
            seen[asset.relative_to(_PACKAGE).as_posix()] = asset.read_bytes()
        todo += [found for name in _imports(seen[key]) if (found := _module_file(name))]
    total = hashlib.sha256()
    for key in sorted(seen):
        total.update(key.encode() + b"\0" + seen[key] + b"\0")
    return total.hexdigest()[:12]


@cache
def _imports(source: bytes) -> tuple[str, ...]:
    names: list[str] = []
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.module and node.level == 0:
                names.append(node.module)
                names += [f"{node.module}.{alias.name}" for alias in node.names]
        else:  # imports are statements: expressions, most of the tree, hold none
            for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                found = getattr(node, part, None)
                todo += found if isinstance(found, list) else ()
    return tuple(name for name in names if name.split(".")[0] == "skymill")


def _module_file(name: str) -> Path | None:
    base = _PACKAGE.joinpath(*name.split(".")[1:])
    if base == _PACKAGE:
        return None  # the version in skymill/__init__.py is a card of its own
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    if (base / "__init__.py").is_file():
        return base / "__init__.py"
    return None
