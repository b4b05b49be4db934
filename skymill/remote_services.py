"""Catalogues that can be fetched: where they are kept, what their columns mean.

The columns of a service are those of `Service.columns`: meaning to name there. Identifiers of
the tables are versions: a new release is a table of its own and is never mixed with an old one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from astropy.table import Table

    from skymill.catalog_tables import Region

__all__ = ["CACHE", "SERVICES", "Query", "Service", "Transport", "check_client", "client"]

#: Folder of the answers in a project.
CACHE = "catalogs"


@dataclass(frozen=True)
class Service:
    """A catalogue on a server.

    Parameters
    ----------
    title : str
        Its name, for people and as label of the solutions.
    kind : str
        ``vizier`` or ``gaia`` (the archive of ESA).
    table : str
        Identifier of the table, which is its version.
    epoch : float
        Year of the positions.
    main : str
        Band whose magnitudes order and limit the stars.
    columns : mapping
        Meaning (as in a column map) to column of the table.
    where : mapping
        Column to condition that the rows must meet.
    """

    title: str
    kind: str
    table: str
    epoch: float
    main: str
    columns: Mapping[str, str]
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """What is asked of a server.

    Parameters
    ----------
    service : Service
        The catalogue.
    region : Region
        The circle.
    faintest_mag : float or None
        Limit in the main band.
    max_stars : int
        The brightest so many are enough.
    """

    service: Service
    region: Region
    faintest_mag: float | None
    max_stars: int


class Transport(Protocol):
    """Asks a server."""

    def __call__(self, query: Query, timeout_s: float) -> Table:
        """Return the rows, none if there are none; raise if the server does not answer."""


def _bands(pattern: str, bands: str, error: str) -> dict[str, str]:
    """Columns of magnitudes and errors that are named alike."""
    names = {band: pattern.format(band) for band in bands.split()}
    return names | {f"e_{band}": error.format(band) for band in bands.split()}


#: Name in the settings to catalogue.
SERVICES: dict[str, Service] = {
    "gaia": Service(
        "Gaia DR3", "gaia", "gaiadr3.gaia_source", 2016.0, "G",
        {"ra": "ra", "dec": "dec", "name": "source_id", "pmra": "pmra", "pmdec": "pmdec",
         "epoch": "ref_epoch", "G": "phot_g_mean_mag", "BP": "phot_bp_mean_mag",
         "RP": "phot_rp_mean_mag", "snr_G": "phot_g_mean_flux_over_error",
         "snr_BP": "phot_bp_mean_flux_over_error", "snr_RP": "phot_rp_mean_flux_over_error"},
    ),
    "ps1": Service(
        "Pan-STARRS1 DR1", "vizier", "II/349/ps1", 2012.0, "r",
        {"ra": "RAJ2000", "dec": "DEJ2000", "name": "objID",
         **_bands("{}mag", "g r i z y", "e_{}mag")},
    ),
    "sdss": Service(
        "SDSS DR16", "vizier", "V/154/sdss16", 2005.0, "r",
        {"ra": "RA_ICRS", "dec": "DE_ICRS", "name": "objID",
         **_bands("{}mag", "u g r i z", "e_{}mag")},
        {"class": "=6", "mode": "=1"},  # stars, primary detections
    ),
    "2mass": Service(
        "2MASS", "vizier", "II/246/out", 2000.0, "J",
        {"ra": "RAJ2000", "dec": "DEJ2000", "name": "2MASS",
         **_bands("{}mag", "J H K", "e_{}mag")},
    ),
    "apass": Service(
        "APASS DR9", "vizier", "II/336/apass9", 2012.0, "V",
        {"ra": "RAJ2000", "dec": "DEJ2000", "name": "recno",
         **_bands("{}mag", "B V", "e_{}mag"), **_bands("{}'mag", "g r i", "e_{}'mag")},
    ),
    "tycho2": Service(
        "Tycho-2", "vizier", "I/259/tyc2", 2000.0, "VT",
        {"ra": "RAmdeg", "dec": "DEmdeg", "pmra": "pmRA", "pmdec": "pmDE",
         **_bands("{}mag", "BT VT", "e_{}mag")},
    ),
    "refcat2": Service(
        "ATLAS-REFCAT2", "vizier", "J/ApJ/867/105/refcat2", 2015.5, "r",
        {"ra": "RA_ICRS", "dec": "DE_ICRS", "pmra": "pmRA", "pmdec": "pmDE",
         **_bands("{}mag", "g r i z", "e_{}mag")},
    ),
}  # fmt: skip


def check_client(catalog: str, folder: Path) -> None:
    """Check before a run that a catalogue can be fetched, or has been.

    Parameters
    ----------
    catalog : str
        Name in the settings.
    folder : Path
        Project folder.

    Raises
    ------
    ConfigError
        TOOL_MISSING if astroquery is not installed and no answer of this catalogue is kept.
    """
    if importlib.util.find_spec("astroquery") is not None:
        return
    if any((folder / CACHE).glob(f"{catalog}-*.json")):
        return
    raise ConfigError(
        f"config: reference.catalog = {catalog!r}: TOOL_MISSING: astroquery is not installed and "
        f"no star of this catalogue is kept in {CACHE}/; `pip install 'skymill[remote]'`, or give "
        "a local catalogue (`reference: PATH`)"
    )


def client(query: Query, timeout_s: float) -> Table:
    """Ask a server by astroquery; the `Transport` of every run.

    Parameters
    ----------
    query : Query
        What is asked.
    timeout_s : float
        Longest wait for VizieR (s); the archive of Gaia has queues and limits of its own.

    Raises
    ------
    ConfigError
        TOOL_MISSING if astroquery is not installed.
    """
    if importlib.util.find_spec("astroquery") is None:
        raise ConfigError(
            f"{query.service.title} cannot be fetched: TOOL_MISSING: astroquery is not installed; "
            "`pip install 'skymill[remote]'`"
        )
    asks = {"gaia": _ask_gaia, "vizier": _ask_vizier}
    return asks[query.service.kind](query, timeout_s)


def _ask_vizier(query: Query, timeout_s: float) -> Table:
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from astropy.table import Table
    from astroquery.vizier import Vizier

    service, region = query.service, query.region
    limits = dict(service.where)
    if query.faintest_mag is not None:
        limits[service.columns[service.main]] = f"<={query.faintest_mag:g}"
    # All rows: a server that cuts does so in no order, and would keep faint stars as well.
    asked = Vizier(
        columns=[*service.columns.values()],
        column_filters=limits,
        row_limit=-1,
        timeout=timeout_s,
    )
    found: Any = asked.query_region(
        SkyCoord(region.ra, region.dec, unit="deg"),
        radius=region.radius_deg * u.deg,
        catalog=service.table,
        cache=False,
    )
    if not len(found):
        return Table(names=[*service.columns.values()])
    return found[0]


def adql(query: Query) -> str:
    """Return the query of the archive of Gaia: the brightest stars of the circle."""
    service, region = query.service, query.region
    main = service.columns[service.main]
    limit = "" if query.faintest_mag is None else f" AND {main} <= {query.faintest_mag:g}"
    return (  # numbers and names of this module only
        f"SELECT TOP {query.max_stars:d} {', '.join(service.columns.values())} "  # noqa: S608
        f"FROM {service.table} WHERE 1 = CONTAINS(POINT('ICRS', ra, dec), "
        f"CIRCLE('ICRS', {region.ra:.6f}, {region.dec:.6f}, {region.radius_deg:.6f}))"
        f" AND {main} IS NOT NULL{limit} ORDER BY {main}, source_id"
    )


def _ask_gaia(query: Query, timeout_s: float) -> Table:
    import socket

    from astroquery.gaia import Gaia

    # The client of the archive has no limit of its own.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        # Without a queue an answer is cut at 2000 rows.
        return Gaia.launch_job_async(adql(query)).get_results()
    finally:
        socket.setdefaulttimeout(before)
