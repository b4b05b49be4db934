"""Write light curves, all in one file or one file per source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skymill.commands.project import Project, add_directory, shown

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "add_arguments", "main"]

HELP = "light curves as Parquet, FITS, ECSV, CSV, or in opticam's layout"

_FORMATS = ("parquet", "fits", "ecsv", "csv", "opticam")
#: As many names of files are printed.
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_directory(parser)
    parser.add_argument("--field", metavar="NAME", help="field, where there are several")
    parser.add_argument("--format", choices=_FORMATS, default="ecsv", help="default: ecsv")
    parser.add_argument(
        "--source", metavar="STAR", action="append",
        help="number, name or RA,DEC in degrees; may be repeated (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--filter", metavar="NAME", action="append", help="may be repeated (default: all)"
    )
    parser.add_argument(
        "--columns", metavar="A,B,...", help="columns besides times and flags (default: all)"
    )
    parser.add_argument("--per-source", action="store_true", help="one file per source")
    parser.add_argument(
        "--utc", action="store_true", help="opticam: MJD at the site in place of BMJD"
    )
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="file, or folder for many (default: here)"
    )


def main(args: argparse.Namespace) -> int:
    """Write the files, print their paths."""
    from skymill.curves.collection import open_lightcurves
    from skymill.curves.export import FORMATS, export_lightcurves, export_opticam
    from skymill.errors import ConfigError

    curves = open_lightcurves(Project.find(args.directory).results, args.field)
    try:
        curves = curves.select(args.source, filter=args.filter)
    except KeyError as error:
        raise ConfigError(f"export: {error.args[0]}") from None
    columns = None if args.columns is None else [c.strip() for c in args.columns.split(",")]
    if args.format == "opticam":
        if columns is not None and len(columns) > 1:
            raise ConfigError("export: opticam's layout has room for one flux in --columns")
        column = columns[0] if columns else "flux"
        folder = Path(args.output or f"{curves.field}-lightcurves")
        paths = export_opticam(curves, folder, column=column, barycentre=not args.utc)
    else:
        many = f"{curves.field}-lightcurves"
        default = many if args.per_source else f"{many}{FORMATS[args.format]}"
        paths = export_lightcurves(
            curves, Path(args.output or default), format=args.format,
            per_source=args.per_source, columns=columns,
        )  # fmt: skip
    for path in paths[:_SHOWN]:
        print(shown(path))
    if len(paths) > _SHOWN:
        print(f"and {len(paths) - _SHOWN} more in {shown(paths[0].parent)}")
    return 0
