"""Catalogues from servers: asked once per field, kept in the project, never guessed.

An answer is *found*, *empty* or *unreachable*. The first two are facts of the sky and are kept
in the folder ``catalogs/`` of the project; the last says nothing about the sky, is tried again a
stated number of times and is never kept. Whoever has the folder repeats the reduction without a
network, and gets the same stars.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.catalog_columns import numbers
from skymill.catalog_tables import Region
from skymill.catalogs import as_table, from_table, read_catalog
from skymill.errors import SkymillError
from skymill.remote_services import SERVICES, Query, Service, client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from astropy.table import Table

    from skymill.catalogs import RefCatalog
    from skymill.remote_services import Transport

__all__ = ["Answer", "CatalogUnreachableError", "Unreachable", "fetch", "kept"]

_log = logging.getLogger(__name__)

#: Wait before the second attempt (s); it doubles each time.
_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 60.0
#: Libraries whose own exceptions mean that a server did not answer as it should.
_CLIENTS = ("astroquery", "requests", "urllib3", "pyvo")
_MAG_PER_SNR = 2.5 / np.log(10)


class CatalogUnreachableError(SkymillError):
    """No server answered and nothing is kept: the job cannot go on (CATALOG_UNREACHABLE)."""


@dataclass(frozen=True)
class Unreachable:
    """Why a server gave no answer.

    Parameters
    ----------
    why : str
        One sentence.
    attempts : int
        How often it was asked.
    """

    why: str
    attempts: int


@dataclass(frozen=True, eq=False)
class Answer:
    """What a server, or the folder of kept answers, said.

    Parameters
    ----------
    status : str
        ``found`` or ``empty``.
    catalog : RefCatalog
        The stars; none if empty.
    region : Region
        Where was asked.
    path : Path
        The kept file.
    source : str
        ``server``, or ``cache``.
    covers : bool
        False if the kept answer is of another part of the sky or of other limits, and serves
        only because the server could not be reached.
    """

    status: str
    catalog: RefCatalog
    region: Region
    path: Path
    source: str
    covers: bool = True


def _question(name: str, query: Query) -> dict[str, Any]:
    """What identifies an answer; the same question has the same file name everywhere."""
    service, region = query.service, query.region
    return {
        "catalog": name,
        "title": service.title,
        "version": service.table,
        "columns": dict(sorted(service.columns.items())),
        "where": dict(sorted(service.where.items())),
        "region": {"ra": region.ra, "dec": region.dec, "radius_deg": region.radius_deg},
        "faintest_mag": query.faintest_mag,
        "max_stars": query.max_stars,
    }


def _stem(question: Mapping[str, Any]) -> str:
    text = json.dumps(question, sort_keys=True, separators=(",", ":"))
    return f"{question['catalog']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def kept(folder: Path, name: str = "") -> list[dict[str, Any]]:
    """Return the descriptions of the kept answers, in order of their file names.

    Parameters
    ----------
    folder : Path
        Folder of the answers.
    name : str
        Only of this catalogue.

    Returns
    -------
    list of dict
        The question (catalog, version, region, ...), status, n_stars, sha256 and file.
        Descriptions that cannot be read, or whose stars are gone or changed, are left out.
    """
    found = []
    for path in sorted(folder.glob(f"{name or '*'}-*.json")):
        try:
            about = io.read_json(path)
            stars = path.with_suffix(".parquet")
            if io.file_digest(stars) == about["sha256"]:
                found.append({**about, "file": stars.name})
            else:
                _log.warning("%s was changed since it was fetched and is not used", stars.name)
        except (OSError, ValueError, KeyError) as error:
            _log.warning("%s cannot be used: %s", path.name, error)
    return found


def fetch(
    name: str,
    region: Region,
    folder: str | Path,
    *,
    faintest_mag: float | None = None,
    max_stars: int = 50000,
    attempts: int = 3,
    timeout_s: float = 120.0,
    transport: Transport | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Answer | Unreachable:
    """Return the stars of a catalogue in a circle: from the kept answers, else of the server.

    Parameters
    ----------
    name : str
        One of `skymill.remote_services.SERVICES`.
    region : Region
        The circle; it is widened to a grid of 0.01 degree.
    folder : str or Path
        Folder of the kept answers.
    faintest_mag : float, optional
        Limit in the main band of the catalogue.
    max_stars : int
        The brightest so many are kept.
    attempts : int
        How often a server that does not answer is asked.
    timeout_s : float
        Longest wait for an answer (s).
    transport : Transport, optional
        Asks the server; by default astroquery.
    wait : callable
        Waits between the attempts.

    Returns
    -------
    Answer or Unreachable
        An answer that is not of this region (``covers`` false) is given only if the server
        cannot be reached and a kept one holds at least the middle of the field.

    Raises
    ------
    KeyError
        If the catalogue is not known.
    """
    folder = Path(folder)
    query = Query(SERVICES[name], region.rounded(), faintest_mag, max_stars)
    question = _question(name, query)
    stored = kept(folder, name)
    for about in _in_order(stored, question):
        if _serves(about, question):
            return _answer(folder, about, query.region, covers=True)
    got = _ask(query, attempts, timeout_s, transport or client, wait)
    if isinstance(got, Unreachable):
        for about in _in_order(stored, question):
            if _region(about).contains(Region(query.region.ra, query.region.dec, 0.0)):
                return _answer(folder, about, query.region, covers=False)
        return got
    return _keep(folder, question, got, query)


def _region(about: Mapping[str, Any]) -> Region:
    return Region(**about["region"])


def _in_order(stored: list[dict[str, Any]], question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same question first, then the others by the size of their region."""
    own = _stem(question) + ".parquet"
    return sorted(
        (about for about in stored if about["version"] == question["version"]),
        key=lambda about: (about["file"] != own, about["region"]["radius_deg"], about["file"]),
    )


def _serves(about: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Return True if a kept answer holds all that a question asks for."""
    same = ("version", "columns", "where")
    if any(about[key] != question[key] for key in same):
        return False
    deep = about["faintest_mag"] is None or (
        question["faintest_mag"] is not None and about["faintest_mag"] >= question["faintest_mag"]
    )
    # A list that was cut at its brightest stars holds all stars only if it was not cut.
    whole = about["n_stars"] < about["max_stars"] or about["region"] == question["region"]
    enough = about["max_stars"] >= question["max_stars"] or about["n_stars"] < about["max_stars"]
    return deep and whole and enough and _region(about).contains(_region(question))


def _answer(folder: Path, about: Mapping[str, Any], region: Region, *, covers: bool) -> Answer:
    path = folder / about["file"]
    catalog = read_catalog(path)
    if covers:
        catalog = catalog.near(region.ra, region.dec, region.radius_deg)
    status = "found" if len(catalog) else "empty"
    return Answer(status, catalog, region, path, "cache", covers)


def _ask(
    query: Query,
    attempts: int,
    timeout_s: float,
    transport: Transport,
    wait: Callable[[float], None],
) -> Table | Unreachable:
    """Ask until there is an answer, at most so often."""
    if os.environ.get("SKYMILL_OFFLINE", "0") not in ("", "0"):
        return Unreachable("SKYMILL_OFFLINE is set: no server is asked", 0)
    why = ""
    for attempt in range(1, attempts + 1):
        try:
            table = transport(query, timeout_s)
            _check(table, query.service)
        except Exception as error:
            if not _is_outage(error):
                raise
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            _log.warning("%s, attempt %d of %d: %s", query.service.title, attempt, attempts, why)
            if attempt < attempts:
                wait(min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S))
        else:
            return table
    return Unreachable(why, attempts)


def _is_outage(error: BaseException) -> bool:
    """Return True for what networks and servers do; a defect of ours is no outage."""
    from xml.parsers.expat import ExpatError

    # Refused, timed out, cut off, an error page in place of a table.
    kinds = (OSError, http.client.HTTPException, ExpatError, _NonsenseError)
    from_client = type(error).__module__.split(".")[0] in _CLIENTS
    votable = type(error).__module__.startswith("astropy.io.votable")
    return isinstance(error, kinds) or from_client or votable


class _NonsenseError(Exception):
    """The answer is no table of this catalogue."""


def _check(table: Any, service: Service) -> None:
    if not hasattr(table, "colnames"):
        raise _NonsenseError(f"the answer is no table but {type(table).__name__}")
    lower = {_plain(name) for name in table.colnames}
    needed = [service.columns[key] for key in ("ra", "dec", service.main)]
    missing = [name for name in needed if _plain(name) not in lower]
    if missing:
        raise _NonsenseError(f"the answer has no column {missing[0]} (it has {table.colnames})")


def _plain(name: str) -> str:
    """Column name without the characters that clients of servers replace."""
    return "".join(c for c in name.lower() if c.isalnum())


def _keep(folder: Path, question: Mapping[str, Any], table: Table, query: Query) -> Answer:
    """Bring an answer to one form and write it: stars first, then their description."""
    catalog = _brightest(_as_catalog(table, query.service), query)
    path = folder / f"{_stem(question)}.parquet"
    io.write_table(path, as_table(catalog), {"question": dict(question)})
    about = {
        **question,
        "status": "found" if len(catalog) else "empty",
        "n_stars": len(catalog),
        "sha256": io.file_digest(path),
    }
    io.write_json(path.with_suffix(".json"), about)
    status = "found" if len(catalog) else "empty"
    return Answer(status, catalog, query.region, path, "server")


def _as_catalog(table: Table, service: Service) -> RefCatalog:
    """Return the rows of an answer as a catalogue."""
    there = {_plain(name): name for name in table.colnames}
    columns = {
        meaning: there[_plain(name)]
        for meaning, name in service.columns.items()
        if _plain(name) in there
    }
    rows = table[[*dict.fromkeys(columns.values())]]
    for meaning in [key for key in columns if key.startswith("snr_")]:
        ratio = numbers(rows, columns.pop(meaning))
        band = meaning.removeprefix("snr_")
        with np.errstate(divide="ignore", invalid="ignore"):
            rows[f"error of {band}"] = np.where(ratio > 0, _MAG_PER_SNR / ratio, np.nan)
        columns[f"e_{band}"] = f"error of {band}"
    return from_table(rows, service.title, columns, service.epoch)


def _brightest(catalog: RefCatalog, query: Query) -> RefCatalog:
    """Return the brightest stars in the order of their positions, whatever the server's order."""
    main = catalog.mags.get(query.service.main)
    if main is not None and query.faintest_mag is not None:
        catalog = catalog.take(np.flatnonzero(~(main > query.faintest_mag)))
        main = catalog.mags[query.service.main]
    if main is not None and len(catalog) > query.max_stars:
        bright = np.where(np.isfinite(main), main, np.inf)
        order = np.lexsort((catalog.ra, catalog.dec, bright))
        catalog = catalog.take(order[: query.max_stars])
    catalog = catalog.near(query.region.ra, query.region.dec, query.region.radius_deg)
    return catalog.take(np.lexsort((catalog.name, catalog.ra, catalog.dec)))
