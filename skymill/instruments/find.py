"""Where instrument files lie, how they are read, and which one fits a header."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from skymill.errors import ConfigError
from skymill.instruments.conditions import holds, normal
from skymill.instruments.model import Instrument

if TYPE_CHECKING:
    from skymill.cards import RawHeader

__all__ = [
    "all_instruments",
    "find_instrument",
    "instrument_directories",
    "instrument_files",
    "instrument_names",
    "load_instrument",
]

PACKAGED = Path(__file__).parent
FALLBACK = "generic"
#: The same rules compiled, where the library has them: ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def instrument_directories() -> list[Path]:
    """Return the folders of instrument files in order of search.

    First those of the environment variable ``SKYMILL_INSTRUMENTS`` (separated as in
    PATH), then ``~/.config/skymill/instruments``, then those of the package.
    """
    own = [Path(p) for p in os.environ.get("SKYMILL_INSTRUMENTS", "").split(os.pathsep) if p]
    base = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return [*own, Path(base) / "skymill" / "instruments", PACKAGED]


def instrument_names(directories: Sequence[Path] | None = None) -> list[str]:
    """Return the names of all instruments that can be loaded, sorted."""
    return sorted(_files(directories))


def instrument_files(directories: Sequence[Path] | None = None) -> dict[str, Path]:
    """Return the files of all instruments by name."""
    return _files(directories)


def _files(directories: Sequence[Path] | None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in instrument_directories() if directories is None else directories:
        try:
            files = sorted(folder.glob("*.y*ml"))
        except OSError:
            continue
        for path in files:
            if path.suffix in (".yaml", ".yml"):
                found.setdefault(path.stem, path)
    return found


def load_instrument(name: str | Path, directories: Sequence[Path] | None = None) -> Instrument:
    """Return an instrument by name, or from a YAML file.

    Parameters
    ----------
    name : str or Path
        Name, or path of a file that ends in ``.yaml`` or ``.yml``.
    directories : sequence of Path, optional
        Folders to search, by default `instrument_directories`.

    Raises
    ------
    ConfigError
        If there is none of that name, or the file is not valid; the message names file,
        key and what was expected.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        return _load(str(Path(text).absolute()))
    files = _files(directories)
    if text not in files:
        raise ConfigError(
            f"NO_PROFILE: no instrument {text!r}; known: {', '.join(sorted(files))}. A file of "
            "your own can be given by its path or put into ~/.config/skymill/instruments."
        )
    return _load(str(files[text].absolute()))


def _load(path: str) -> Instrument:
    """Load a file; one that was edited in the meantime is loaded again."""
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"instrument {Path(path).name}: {error.strerror or error}") from None
    return _parse(path, changed)


@lru_cache(maxsize=256)
def _parse(path: str, changed: int) -> Instrument:  # noqa: ARG001
    name = Path(path).name
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_LOADER)  # noqa: S506 (both are safe)
    except OSError as error:
        raise ConfigError(f"instrument {name}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"instrument {name}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"instrument {name}: expected keys and values, got {type(content).__name__}"
        )
    try:
        instrument = Instrument.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"instrument {name}: {_where(error)}") from None
    return instrument


def _where(error: ValidationError) -> str:
    """Return key and trouble of every error; those of the whole file name their key themselves."""
    said = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        said.append(f"{key}: {text}" if key else text)
    return "; ".join(said)


def find_instrument(
    header: RawHeader, folder_hint: str = "", known: Sequence[Instrument] | None = None
) -> Instrument:
    """Return the instrument that fits a header; the generic one if none does.

    Parameters
    ----------
    header : RawHeader
        Cards of a frame.
    folder_hint : str
        Relative folder of the file: if several instruments fit, one whose name is a
        folder in it is preferred.
    known : sequence of Instrument, optional
        Those to choose from, by default all (`all_instruments`); whoever asks for many
        frames looks them up once.
    """
    known = all_instruments() if known is None else known
    fitting = [
        instrument
        for instrument in known
        if any(holds(conditions, header) for conditions in instrument.match)
    ]
    if len(fitting) > 1:
        folders = {normal(part) for part in folder_hint.split("/")}
        fitting.sort(key=lambda one: normal(one.name) not in folders)
    if fitting:
        return fitting[0]
    fallback = [instrument for instrument in known if instrument.name == FALLBACK]
    return fallback[0] if fallback else load_instrument(FALLBACK)


def all_instruments(directories: Sequence[Path] | None = None) -> tuple[Instrument, ...]:
    """Return all instruments in order of search; a broken user file is an error."""
    return tuple(_load(str(path.absolute())) for path in _files(directories).values())
