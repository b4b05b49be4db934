"""Make a project folder: settings, room for corrections by hand, a .gitignore."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from skymill.commands.project import shown
from skymill.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "add_arguments", "main", "make_project"]

HELP = "make a project folder for a tree of raw files"

OVERRIDES = """\
# Corrections by hand: what a header says wrongly or not at all, and files to leave out.
# Nobody edits headers. Each entry has a pattern of file names relative to the raw folder;
# an entry that matches no file is reported.
#
# - files: "2024-05-13/d10[01]*.fits*"
#   set: {kind: bias}
# - files: "**/m67_*.fits"
#   set: {filter: V, exptime_s: 60}
# - files: "2024-05-13/d1059.fits.gz"
#   exclude: "dome in the beam"
[]
"""

GITIGNORE = """\
# Made from the raw files and config/; config/ itself belongs into version control.
results/
logs/
benchmarks/
.snakemake/
.skymill/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("directory", metavar="DIR", help="folder to make")
    parser.add_argument("--raw", metavar="PATH", required=True, help="folder of the raw files")
    parser.add_argument(
        "--instrument",
        metavar="NAME",
        help="instrument by name, or path of a YAML file (default: told by each header)",
    )
    parser.add_argument(
        "--reference",
        metavar="CATALOGUE",
        help="local reference catalogue: CSV, ECSV, FITS or Parquet with positions and magnitudes "
        "(default: none; positions and fluxes are then relative)",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="settings that belong together, written into config.yaml: iraf",
    )


def main(args: argparse.Namespace) -> int:
    """Make the folder and say what comes next."""
    folder = make_project(
        Path(args.directory), Path(args.raw), args.instrument, args.reference, args.recipe
    )
    print(f"made {shown(folder)}")
    print(f"  settings      {shown(folder / 'config' / 'config.yaml')}")
    print(f"  corrections   {shown(folder / 'config' / 'overrides.yaml')}")
    print(f"next: skymill run -d {shown(folder)}")
    return 0


def make_project(
    folder: Path,
    raw: Path,
    instrument: str | None = None,
    reference: str | None = None,
    recipe: str | None = None,
) -> Path:
    """Write a new project folder.

    Parameters
    ----------
    folder : Path
        The folder to make; it may exist but must not hold a project.
    raw : Path
        Existing folder of raw files; never written to.
    instrument : str, optional
        Name of an instrument that skymill knows, or path of a YAML file.
    reference : str, optional
        Path of a local reference catalogue.
    recipe : str, optional
        Name of a set of settings, see `skymill.recipes`.

    Returns
    -------
    Path
        Absolute path of the project.

    Raises
    ------
    ConfigError
        If something is missing, unknown or unreadable, or would be overwritten.
    """
    from skymill.io import write_text
    from skymill.recipes import recipe_text
    from skymill.settings import default_config_text, schema_text

    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"init: {shown(folder)} exists and is not a folder")
    config = folder / "config"
    for name in ("config.yaml", "overrides.yaml", "frames.csv"):
        if (config / name).exists():
            raise ConfigError(
                f"init: {shown(config / name)} exists and is not overwritten; "
                "choose another folder or remove it"
            )
    if not raw.is_dir():
        what = "is a file" if raw.exists() else "does not exist"
        raise ConfigError(f"init: --raw {raw} {what}; expected the folder of the raw files")
    text = default_config_text(
        raw=_stored(raw, folder),
        instrument=_instrument(instrument, folder),
        reference=_reference(reference, folder),
    )
    if recipe is not None:
        text += "\n" + recipe_text(recipe)
    write_text(config / "config.yaml", text)
    write_text(config / "schema.json", schema_text())
    write_text(config / "overrides.yaml", OVERRIDES)
    if not (folder / ".gitignore").exists():
        write_text(folder / ".gitignore", GITIGNORE)
    return folder


def _stored(path: Path, folder: Path) -> str:
    """Return how a path is written into the settings.

    Relative to the project if it lies inside or beside it, so that both can be moved
    together; absolute otherwise.
    """
    absolute = path.resolve()
    if absolute.is_relative_to(folder.parent) and folder.parent != Path(folder.anchor):
        return Path(os.path.relpath(absolute, folder)).as_posix()
    return absolute.as_posix()


def _instrument(name: str | None, folder: Path) -> str | None:
    if name is None:
        return None
    from skymill.instruments import instrument_names, load_instrument

    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"init: --instrument {name} does not exist")
        load_instrument(name)
        return _stored(Path(name), folder)
    known = instrument_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"init: no instrument {name!r}; known: {', '.join(known)}.\n"
            f"{hint}A YAML file of your own can be given by its path."
        )
    return name


def _reference(path: str | None, folder: Path) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise ConfigError(f"init: --reference {path} does not exist")
    from skymill.catalogs import read_catalog

    read_catalog(path)
    return _stored(Path(path), folder)
