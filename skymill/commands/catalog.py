"""Fetch the reference catalogue of a project beforehand, or say what is kept.

A run fetches by itself what it needs; on machines without a network the folder catalogs/ is
filled with this command, on one that has a network, and copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skymill.commands.project import Project, add_directory, shown
from skymill.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from skymill.remote_services import Transport

__all__ = ["HELP", "add_arguments", "main"]

HELP = "fetch the reference catalogue of each field, or list what is kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("fetch", "list"), help="what to do")
    add_directory(parser)


def main(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit code is 1 if a server could not be reached."""
    project = Project.find(args.directory)
    return _list(project) if args.action == "list" else fetch_all(project)


def _list(project: Project) -> int:
    from skymill.remote_catalogs import kept
    from skymill.remote_services import CACHE

    found = kept(project.folder / CACHE)
    for about in found:
        where = about["region"]
        print(
            f"{about['title']:16} {about['status']:6} {about['n_stars']:7d} stars  RA "
            f"{where['ra']:8.2f}  Dec {where['dec']:+7.2f}  radius {where['radius_deg']:.2f} deg  "
            f"{about['file']}"
        )
    if not found:
        print(f"nothing is kept in {shown(project.folder / CACHE)}")
    return 0


def fetch_all(project: Project, transport: Transport | None = None) -> int:
    """Ask for the stars of every field of a project, once each.

    Parameters
    ----------
    project : Project
        The project; it needs a sheet.
    transport : Transport, optional
        Asks a server in place of astroquery.

    Returns
    -------
    int
        0, or 1 if the stars of a field could not be had.
    """
    from skymill.field_catalog import field_catalog
    from skymill.remote_catalogs import CatalogUnreachableError

    settings = project.settings.reference
    if settings is None or settings.catalog is None:
        raise ConfigError(
            "catalog fetch: the settings name no catalogue to fetch; write for example "
            "`reference: {catalog: gaia}` into config/config.yaml"
        )
    asked = settings.model_dump(mode="json") | {"policy": "require"}
    plan = project.plan()
    missing = 0
    for name, field in sorted(plan.fields.items()):
        rows = plan.rows_of(frame for block in field.blocks for frame in plan.blocks[block].frames)
        try:
            got = field_catalog(name, rows, None, asked, folder=project.folder, transport=transport)
        except CatalogUnreachableError as error:
            print(error)
            missing += 1
            continue
        flagged = "; ".join(message for _, message in got.flags)
        print(flagged or f"{name}: {got.numbers['n_catalog']} stars")
        missing += any(code == "CATALOG_UNREACHABLE" for code, _ in got.flags)
    return 1 if missing else 0
