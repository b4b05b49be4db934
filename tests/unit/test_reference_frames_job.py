"""The job of a field: catalogue cut or fetched, frames solved, all written for later steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

import skymill.jobs.reference_frames as job
from skymill import io
from skymill.catalogs import read_catalog
from skymill.remote_catalogs import CatalogUnreachableError
from skymill.steps.reference_frames import Candidate
from skymill.wcsmath import pixel_to_sky

if TYPE_CHECKING:
    from skymill.errors import Outcome

SHAPE = (200, 300)
FETCH = {"catalog": "gaia", "columns": {}, "faintest_mag": None, "max_stars": 1000,
         "radius_deg": 0.2, "margin": 0.25, "attempts": 1, "timeout_s": 5.0,
         "policy": "require"}  # fmt: skip


def _wcs() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, 20.0]
    wcs.wcs.crpix = [150.0, 100.0]
    wcs.wcs.cdelt = [-1 / 3600, 1 / 3600]
    return wcs


def _sources() -> Table:
    rng = np.random.default_rng(5)
    flux = np.sort(rng.uniform(1e3, 1e5, 40))[::-1]
    columns = {"x": rng.uniform(0, 299, 40), "y": rng.uniform(0, 199, 40), "flux": flux}
    columns |= {name: np.full(40, 0.05) for name in ("x_err", "y_err")}
    columns |= {"flux_err": np.sqrt(flux), "fwhm": np.full(40, 3.0)}
    return Table(columns | {"flags": np.zeros(40, int)})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A field of one frame, its catalogue, and the arguments of the job."""
    monkeypatch.chdir(tmp_path)
    row = {"frame_id": "a", "filter": "V", "ra_deg": 10.0, "dec_deg": 20.0, "corners": "",
           "exptime_s": 60.0, "mjd_mid": 57388.5}  # fmt: skip
    sources = _sources()
    frame = Candidate("a", row, sources, SHAPE, {}, _wcs())
    monkeypatch.setattr(job, "_candidates", lambda *_: [frame])
    sky = pixel_to_sky(_wcs(), np.stack([sources["x"], sources["y"]], axis=1))
    stars = Table({"ra": sky[:, 0], "dec": sky[:, 1]})
    stars["V"] = 25 - 2.5 * np.log10(np.asarray(sources["flux"]))
    stars.write("stars.csv")
    io.write_table("sources.parquet", sources, {})
    return {
        "rows": [row], "tables": ["sources.parquet"], "calibrated": ["."], "upstream": ["u.csv"],
        "catalog": (), "table": "t.parquet", "catalog_table": "c.parquet",
        "outcomes": "field.csv", "settings": {}, "astrometry_settings": {"blind": "never"},
        "reference_settings": None, "code": "x",
    }  # fmt: skip


def _outcome() -> Outcome:
    return io.read_outcomes("field.csv")[0]


def test_stars_of_a_local_catalogue_are_handed_on_and_solve_the_field(place):
    settings = FETCH | {"catalog": None}
    job.reference_frames_field(**place | {"catalog": ["stars.csv"], "reference_settings": settings})
    assert _outcome().numbers["solution"] == "absolute"
    assert _outcome().numbers["n_catalog"] == 40
    assert read_catalog("c.parquet").label == "stars.csv"
    assert "catalog/stars.csv" in io.read_table("t.parquet").meta["inputs"]


def test_without_a_catalogue_an_empty_one_is_written_and_the_header_serves(place):
    job.reference_frames_field(**place)
    assert _outcome().numbers["solution"] == "header"
    assert len(read_catalog("c.parquet")) == 0


def test_align_only_looks_neither_at_the_header_nor_at_the_catalogue(place):
    only = {"blind": "never", "mode": "align_only"}
    job.reference_frames_field(**place | {"catalog": ["missing.csv"], "astrometry_settings": only})
    assert _outcome().numbers["solution"] == "relative"
    assert _outcome().code == "WCS_RELATIVE"


def test_a_server_that_is_down_stops_the_job_or_flags_the_field(place):
    def down(_query: object, _timeout_s: float) -> Table:
        raise ConnectionRefusedError("closed port")

    with pytest.raises(CatalogUnreachableError):
        job.reference_frames_field(**place | {"reference_settings": FETCH}, transport=down)
    assert not Path("t.parquet").exists()
    go_on = FETCH | {"policy": "degrade"}
    job.reference_frames_field(**place | {"reference_settings": go_on}, transport=down)
    assert _outcome().status == "degraded"
    assert "CATALOG_UNREACHABLE" in _outcome().code
    assert _outcome().numbers["best_frame"] == "a"
