"""The stars of the reference catalogue in one field: cut from a file, or fetched.

One place decides which part of the sky a field needs, from the sheet alone: the job that uses
the stars and the command that fetches them beforehand ask the same question.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.catalog_tables import Region, region_of
from skymill.catalogs import RefCatalog, read_catalog
from skymill.io import file_digest
from skymill.remote_catalogs import CatalogUnreachableError, Unreachable, fetch
from skymill.remote_services import CACHE, SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skymill.remote_services import Transport

__all__ = ["FieldCatalog", "field_catalog", "field_region", "no_catalog"]

#: Local files below (byte) are used whole: a pointing may be wrong by more than a margin.
SMALL_FILE = 50_000_000


@dataclass(frozen=True, eq=False)
class FieldCatalog:
    """The stars of a field and what is to be said of them.

    Parameters
    ----------
    catalog : RefCatalog or None
        The stars; None if no catalogue was asked for, or none could be had.
    flags : tuple of (code, message)
        CATALOG_EMPTY, CATALOG_UNREACHABLE.
    inputs : dict
        What the stars come from, to its checksum.
    numbers : dict
        Figures for the outcome.
    """

    catalog: RefCatalog | None
    flags: tuple[tuple[str, str], ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)


def no_catalog(label: str = "none") -> RefCatalog:
    """Return a catalogue without stars."""
    return RefCatalog(label, np.zeros(0), np.zeros(0), np.zeros(0, "U1"))


def field_region(
    rows: Iterable[Mapping[str, Any]], *, radius_deg: float, margin: float
) -> Region | None:
    """Return a circle that holds the frames of a field; None if none of them points anywhere.

    Parameters
    ----------
    rows : iterable of dict
        Rows of the sheet: ``corners``, else ``ra_deg`` and ``dec_deg``.
    radius_deg : float
        Reach of a frame around its pointing where its corners are not known (degree).
    margin : float
        The circle is wider by this part of its radius.
    """
    corners: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for row in rows:
        text = str(row.get("corners") or "")
        if text:
            pairs = (pair.split() for pair in text.split(";"))
            corners += [(float(ra), float(dec)) for ra, dec in pairs]
        elif row.get("ra_deg") is not None and row.get("dec_deg") is not None:
            bare.append((float(row["ra_deg"]), float(row["dec_deg"])))
    # The circle around bare pointings must reach as far as their frames do.
    around = region_of(bare + corners, radius_deg if bare else 0.0)
    if around is None:
        return None
    return replace(around, radius_deg=min(around.radius_deg * (1 + margin), 180.0))


def field_catalog(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    file: str | Path | None,
    settings: Mapping[str, Any] | None,
    *,
    folder: Path | None = None,
    transport: Transport | None = None,
) -> FieldCatalog:
    """Return the reference stars of a field.

    Parameters
    ----------
    name : str
        The field, for messages.
    rows : sequence of dict
        Its rows of the sheet.
    file : str or Path, optional
        Local catalogue.
    settings : mapping, optional
        ``reference`` of the settings; None without a catalogue.
    folder : Path, optional
        Project folder; by default the current one.
    transport : Transport, optional
        Asks a server in place of astroquery.

    Raises
    ------
    ConfigError
        If the local file cannot be used, or astroquery is missing.
    CatalogUnreachableError
        If no server answers, nothing is kept and ``policy`` is ``require``.
    """
    if file is None and (settings is None or settings["catalog"] is None):
        return FieldCatalog(None)
    settings = settings or {"columns": {}, "radius_deg": 0.5, "margin": 0.25}
    region = field_region(rows, radius_deg=settings["radius_deg"], margin=settings["margin"])
    if file is not None:
        return _local(name, Path(file), settings, region)
    return _fetched(name, settings, region, folder or Path(), transport)


def _local(
    name: str, file: Path, settings: Mapping[str, Any], region: Region | None
) -> FieldCatalog:
    inputs = {f"catalog/{file.name}": file_digest(file)}
    if file.stat().st_size < SMALL_FILE:
        region = None
    catalog = read_catalog(file, columns=settings["columns"], region=region)
    numbers = {"n_catalog": len(catalog)}
    if len(catalog):
        return FieldCatalog(catalog, (), inputs, numbers)
    text = (
        f"{name}: the catalogue {catalog.label} ({catalog.n_rows} rows) has no star {_at(region)}"
    )
    return FieldCatalog(catalog, (("CATALOG_EMPTY", text),), inputs, numbers)


def _fetched(
    name: str,
    settings: Mapping[str, Any],
    region: Region | None,
    folder: Path,
    transport: Transport | None,
) -> FieldCatalog:
    title = SERVICES[settings["catalog"]].title
    if region is None:
        text = (
            f"{name}: {title} was not asked: no frame of the field says where it points; give "
            "ra_deg and dec_deg in config/overrides.yaml"
        )
        return FieldCatalog(no_catalog(title), (("CATALOG_EMPTY", text),), {}, {"n_catalog": 0})
    got = fetch(
        settings["catalog"],
        region,
        folder / CACHE,
        faintest_mag=settings["faintest_mag"],
        max_stars=settings["max_stars"],
        attempts=settings["attempts"],
        timeout_s=settings["timeout_s"],
        transport=transport,
    )
    if isinstance(got, Unreachable):
        why = f"{got.why} ({got.attempts} attempts)"
        if settings["policy"] == "require":
            raise CatalogUnreachableError(
                f"CATALOG_UNREACHABLE: {name}: {title} could not be reached: {why}. "
                "`skymill catalog fetch` on a machine with a network fills catalogs/; or set "
                "reference.policy to degrade"
            )
        text = f"{name}: {title} could not be reached and is not used: {why}"
        flags = (("CATALOG_UNREACHABLE", text),)
        return FieldCatalog(no_catalog(title), flags, {}, {"n_catalog": 0})
    inputs = {f"catalog/{got.path.name}": file_digest(got.path)}
    numbers = {"n_catalog": len(got.catalog)}
    if not got.covers:
        text = f"{name}: {title} could not be reached; kept stars of another region are used"
        return FieldCatalog(got.catalog, (("CATALOG_UNREACHABLE", text),), inputs, numbers)
    if got.status == "empty":
        text = f"{name}: {title} has no star {_at(got.region)}"
        return FieldCatalog(got.catalog, (("CATALOG_EMPTY", text),), inputs, numbers)
    return FieldCatalog(got.catalog, (), inputs, numbers)


def _at(region: Region | None) -> str:
    if region is None:
        return "at all"
    return f"within {region.radius_deg:.3g} degree of RA {region.ra:.3f}, Dec {region.dec:.3f}"
