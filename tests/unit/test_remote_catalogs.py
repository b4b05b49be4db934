"""Catalogues from servers: found, empty and unreachable are three things; no network here."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from skymill import io
from skymill.catalog_tables import Region
from skymill.catalogs import read_catalog
from skymill.errors import ConfigError
from skymill.field_catalog import field_catalog, field_region
from skymill.remote_catalogs import CatalogUnreachableError, Unreachable, fetch, kept
from skymill.remote_services import SERVICES, Query, adql, check_client, client

WHERE = Region(120.003, -0.5, 0.2)


def _gaia(n: int = 50, seed: int = 1) -> Table:
    rng = np.random.default_rng(seed)
    table = Table(
        {
            "SOURCE_ID": np.arange(n) + 10,  # the archive answers in capitals
            "ra": 120.0 + rng.uniform(-0.1, 0.1, n),
            "dec": -0.5 + rng.uniform(-0.1, 0.1, n),
            "pmra": rng.normal(0, 5, n),
            "pmdec": rng.normal(0, 5, n),
            "ref_epoch": np.full(n, 2016.0),
            "phot_g_mean_mag": rng.uniform(10, 19, n),
            "phot_bp_mean_mag": rng.uniform(10, 19, n),
            "phot_rp_mean_mag": rng.uniform(10, 19, n),
            "phot_g_mean_flux_over_error": np.full(n, 1000.0),
            "phot_bp_mean_flux_over_error": np.full(n, 100.0),
            "phot_rp_mean_flux_over_error": np.full(n, 100.0),
        }
    )
    table["pmra"] = MaskedColumn(table["pmra"], mask=np.arange(n) == 3)
    return table


class Server:
    """Answers from a list: tables, or exceptions that are raised."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, query: Query, timeout_s: float) -> Table:
        self.asked.append((query, timeout_s))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _no_wait(_: float) -> None:
    return None


def test_an_answer_is_kept_and_the_server_is_asked_once(tmp_path: Path):
    server = Server(_gaia())
    first = fetch("gaia", WHERE, tmp_path, transport=server)
    again = fetch("gaia", WHERE, tmp_path, transport=server)
    assert (first.status, first.source, again.source) == ("found", "server", "cache")
    assert len(server.asked) == 1
    assert len(first.catalog) == len(again.catalog) == 50
    assert np.array_equal(first.catalog.ra, again.catalog.ra)
    assert first.catalog.epoch == again.catalog.epoch == 2016.0
    assert again.catalog.label == "Gaia DR3"
    # Errors from signal to noise: 1.0857 / 1000.
    assert first.catalog.errs["G"] == pytest.approx(np.full(50, 2.5 / np.log(10) / 1000))
    assert np.isnan(again.catalog.pmra).sum() == 1


def test_the_kept_bytes_do_not_depend_on_the_order_of_the_rows_of_the_server(tmp_path: Path):
    table = _gaia()
    one = fetch("gaia", WHERE, tmp_path / "a", transport=Server(table))
    two = fetch("gaia", WHERE, tmp_path / "b", transport=Server(table[::-1]))
    assert one.path.name == two.path.name
    assert one.path.read_bytes() == two.path.read_bytes()
    described = one.path.with_suffix(".json")
    assert described.read_text() == (tmp_path / "b" / described.name).read_text()
    about = json.loads(described.read_text())
    assert about["version"] == "gaiadr3.gaia_source"
    assert about["sha256"] == io.file_digest(one.path)


def test_empty_is_an_answer_and_is_kept(tmp_path: Path):
    server = Server(_gaia(0))
    assert fetch("gaia", WHERE, tmp_path, transport=server).status == "empty"
    assert fetch("gaia", WHERE, tmp_path, transport=server).source == "cache"
    assert len(server.asked) == 1
    assert kept(tmp_path)[0]["status"] == "empty"


OUTAGES = [
    ConnectionRefusedError("port closed"),
    TimeoutError("120 s"),
    OSError("name or service not known"),
    ValueError,  # replaced below: an error page instead of a table
]


@pytest.mark.parametrize("number", range(4))
def test_unreachable_is_tried_again_a_stated_number_of_times_and_never_kept(tmp_path, number):
    outage = OUTAGES[number] if number < 3 else Table({"html": ["<h1>503</h1>"]})
    waits: list[float] = []
    server = Server(outage)
    got = fetch("gaia", WHERE, tmp_path, attempts=3, transport=server, wait=waits.append)
    assert isinstance(got, Unreachable)
    assert (got.attempts, len(server.asked)) == (3, 3)
    assert waits == [2.0, 4.0]
    assert kept(tmp_path) == []
    recovered = fetch("gaia", WHERE, tmp_path, transport=Server(outage, _gaia()), wait=_no_wait)
    assert recovered.status == "found"


def test_a_defect_of_ours_is_no_outage(tmp_path: Path):
    with pytest.raises(TypeError):
        fetch("gaia", WHERE, tmp_path, transport=Server(TypeError("defect")), wait=_no_wait)


def test_offline_asks_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SKYMILL_OFFLINE", "1")
    server = Server(_gaia())
    got = fetch("gaia", WHERE, tmp_path, transport=server)
    assert isinstance(got, Unreachable)
    assert server.asked == []


def test_a_wider_and_deeper_answer_serves_a_smaller_question(tmp_path: Path):
    fetch("gaia", WHERE, tmp_path, transport=Server(_gaia()))
    server = Server(ConnectionRefusedError())
    inside = Region(120.02, -0.52, 0.1)
    got = fetch("gaia", inside, tmp_path, faintest_mag=15.0, transport=server, wait=_no_wait)
    assert got.source == "cache"
    assert got.covers
    assert server.asked == []
    asked = inside.rounded()
    assert asked.inside(got.catalog.ra, got.catalog.dec).all()


def test_kept_stars_of_another_region_serve_only_if_the_server_is_down(tmp_path: Path):
    fetch("gaia", WHERE, tmp_path, transport=Server(_gaia()))
    wide = Region(120.0, -0.5, 0.8)
    got = fetch("gaia", wide, tmp_path, transport=Server(OSError("down")), wait=_no_wait)
    assert not got.covers
    assert len(got.catalog) == 50
    assert fetch("gaia", wide, tmp_path, transport=Server(_gaia())).source == "server"


def test_a_kept_file_that_was_changed_is_not_believed(tmp_path: Path):
    first = fetch("gaia", WHERE, tmp_path, transport=Server(_gaia()))
    with first.path.open("ab") as stream:
        stream.write(b"x")
    assert fetch("gaia", WHERE, tmp_path, transport=Server(_gaia())).source == "server"


def test_only_the_brightest_stars_are_kept(tmp_path: Path):
    got = fetch("gaia", WHERE, tmp_path, max_stars=10, transport=Server(_gaia()))
    bright = np.sort(_gaia()["phot_g_mean_mag"])[:10]
    assert np.sort(got.catalog.mags["G"]) == pytest.approx(bright)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_catalogue_maps_its_columns_to_positions_and_bands(tmp_path, name):
    service = SERVICES[name]
    # Clients replace characters that are no letters in the names of columns.
    columns = {"".join(c if c.isalnum() or c == "_" else "_" for c in v): np.array([10.5, 11.5])
               for v in service.columns.values()}  # fmt: skip
    columns[service.columns["ra"]] = np.array([120.0, 120.01])
    columns[service.columns["dec"]] = np.array([-0.5, -0.51])
    for key in ("epoch",):
        if key in service.columns:
            columns[service.columns[key]] = np.full(2, service.epoch)
    got = fetch(name, WHERE, tmp_path, transport=Server(Table(columns)))
    assert len(got.catalog) == 2
    assert got.catalog.epoch == service.epoch
    wanted = {key for key in service.columns if key in ("B", "V", *"ugrizyJHKG", "BT", "VT")}
    assert wanted <= set(got.catalog.bands)
    for band in wanted:
        assert np.isfinite(got.catalog.errs[band]).all(), band


def test_vizier_is_asked_by_astroquery_without_a_limit_of_rows(monkeypatch, tmp_path):
    asked: dict[str, object] = {}

    class Vizier:
        def __init__(self, **options: object) -> None:
            asked.update(options)

        def query_region(self, centre, **options):  # noqa: ANN001, ANN003, ANN202
            asked.update(options, ra=centre.ra.deg)
            return []

    package = types.ModuleType("astroquery")
    package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    module = types.ModuleType("astroquery.vizier")
    module.Vizier = Vizier  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "astroquery", package)
    monkeypatch.setitem(sys.modules, "astroquery.vizier", module)
    got = fetch("sdss", WHERE, tmp_path, faintest_mag=18.0, timeout_s=7.0, transport=client)
    assert got.status == "empty"
    assert asked["row_limit"] == -1
    assert asked["timeout"] == 7.0
    assert asked["catalog"] == "V/154/sdss16"
    assert asked["column_filters"] == {"class": "=6", "mode": "=1", "rmag": "<=18"}
    assert asked["radius"].to_value("deg") == pytest.approx(0.21)


def test_gaia_is_asked_for_the_brightest_stars_of_the_circle():
    text = adql(Query(SERVICES["gaia"], Region(120.0, -0.5, 0.2), 18.5, 3000))
    assert text.startswith("SELECT TOP 3000 ra, dec, source_id")
    assert "CIRCLE('ICRS', 120.000000, -0.500000, 0.200000)" in text
    assert "phot_g_mean_mag <= 18.5" in text
    assert text.endswith("ORDER BY phot_g_mean_mag, source_id")


SETTINGS = {"catalog": "gaia", "columns": {}, "faintest_mag": None, "max_stars": 1000,
            "radius_deg": 0.5, "margin": 0.25, "attempts": 1, "timeout_s": 5.0,
            "policy": "require"}  # fmt: skip
ROWS = [{"frame_id": "a", "ra_deg": 120.0, "dec_deg": -0.5, "corners": ""}]


def test_one_question_per_field_however_many_frames(tmp_path: Path):
    rows = [{"frame_id": str(i), "corners": "",
             "ra_deg": 120.0 + 1e-4 * i, "dec_deg": -0.5} for i in range(40)]  # fmt: skip
    server = Server(_gaia())
    got = field_catalog("f", rows, None, SETTINGS, folder=tmp_path, transport=server)
    assert len(server.asked) == 1
    assert got.flags == ()
    assert list(got.inputs) == [f"catalog/{next((tmp_path / 'catalogs').glob('*.parquet')).name}"]


def test_policy_decides_whether_a_field_goes_on_without_its_catalogue(tmp_path: Path):
    down = Server(ConnectionRefusedError("closed port"))
    with pytest.raises(CatalogUnreachableError, match="CATALOG_UNREACHABLE.*catalog fetch"):
        field_catalog("f", ROWS, None, SETTINGS, folder=tmp_path, transport=down)
    asked = SETTINGS | {"policy": "degrade"}
    got = field_catalog("f", ROWS, None, asked, folder=tmp_path, transport=down)
    assert [code for code, _ in got.flags] == ["CATALOG_UNREACHABLE"]
    assert len(got.catalog) == 0
    empty = field_catalog("f", ROWS, None, asked, folder=tmp_path, transport=Server(_gaia(0)))
    assert [code for code, _ in empty.flags] == ["CATALOG_EMPTY"]
    lost = [{"frame_id": "a", "ra_deg": None, "dec_deg": None, "corners": ""}]
    nowhere = field_catalog("f", lost, None, asked, folder=tmp_path, transport=Server(_gaia()))
    assert "no frame of the field says where it points" in nowhere.flags[0][1]


def test_region_of_a_field_holds_the_corners_of_all_frames():
    rows = [
        {"corners": "359.9 -0.1;0.1 -0.1;0.1 0.1;359.9 0.1", "ra_deg": 0.0, "dec_deg": 0.0},
        {"corners": "0.0 -0.1;0.2 -0.1;0.2 0.1;0.0 0.1", "ra_deg": 0.1, "dec_deg": 0.0},
    ]
    found = field_region(rows, radius_deg=0.5, margin=0.0)
    assert found.ra == pytest.approx(0.05, abs=1e-6)
    assert found.radius_deg == pytest.approx(np.hypot(0.15, 0.1), rel=1e-3)
    assert field_region(rows, radius_deg=0.5, margin=0.5).radius_deg == pytest.approx(
        1.5 * found.radius_deg
    )
    assert field_region([{"corners": "", "ra_deg": None, "dec_deg": None}], radius_deg=1.0,
                        margin=0.0) is None  # fmt: skip


@pytest.mark.parametrize("dec", [-89.95, -45.0, 0.0, 60.0, 90.0])
def test_rounded_regions_hold_the_region(dec):
    region = Region(359.9963, dec, 0.1234)
    assert region.rounded().contains(region)
    assert region.rounded().radius_deg <= region.radius_deg + 0.03


def test_missing_client_is_told_before_a_run_unless_answers_are_kept(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"TOOL_MISSING.*skymill\[remote\]"):
        check_client("gaia", tmp_path)
    fetch("gaia", WHERE, tmp_path / "catalogs", transport=Server(_gaia()))
    check_client("gaia", tmp_path)


def test_the_kept_file_is_a_catalogue_that_any_project_can_use(tmp_path: Path):
    got = fetch("gaia", WHERE, tmp_path, transport=Server(_gaia()))
    assert np.array_equal(read_catalog(got.path).band("G")[0], got.catalog.band("G")[0])
