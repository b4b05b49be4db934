"""Write products in the formats of other programs.

KIND says what is written: light curves as Parquet, FITS, ECSV, CSV or in the layout of
opticam.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "KINDS", "add_arguments", "main"]

HELP = "products in the formats of other programs"

#: Kind of product to the module that writes it: HELP, add_arguments(parser), main(args).
KINDS: dict[str, str] = {"lightcurves": "skymill.commands.export_lightcurves"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one command of its own per kind of product."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, place in KINDS.items():
        module: Any = import_module(place)
        sub = kinds.add_parser(
            name, help=module.HELP, description=module.__doc__, allow_abbrev=False
        )
        module.add_arguments(sub)


def main(args: argparse.Namespace) -> int:
    """Write the products of this kind."""
    return int(import_module(KINDS[args.kind]).main(args))
