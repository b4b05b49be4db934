"""Light curves as files: O29, O33, A33, and the command."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.cli import main
from skymill.curves import LightCurves, open_lightcurves
from skymill.curves.export import background_table, export_lightcurves, export_opticam
from skymill.errors import ConfigError
from skymill.io import read_table, write_table


@pytest.fixture(scope="module")
def curves():
    from bench.truth_curves import night, reduce_night

    sky = night(3, n_stars=12, n_frames=20, n_targets=2)
    made = reduce_night(sky).value
    points = made.points
    points["flux"][7] = points["flux_err"][7] = np.nan
    points["flags"][7] = 16
    points.meta = {"step": "lightcurves", "version": "1", "inputs": {"a": "b"}}
    made.sources["name"] = ["m67 1"] + [""] * 11
    return LightCurves(points, made.statistics, made.sources, made.frames, "m67-cam1")


@pytest.fixture
def project(curves, tmp_path):
    """A project folder that holds the light curves of one field."""
    folder = tmp_path / "project"
    base = folder / "results" / "lightcurves"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "config.yaml").write_text("raw: raw\n")
    write_table(base / "m67-cam1.parquet", curves.points, {})
    for part in ("statistics", "sources", "frames"):
        write_table(base / part / "m67-cam1.parquet", getattr(curves, part), {})
    return folder


def read_back(path, format):
    if format == "parquet":
        return read_table(path)
    if format == "csv":
        return Table.read(path, format="ascii.csv", comment="#")
    return Table.read(path, format="ascii.ecsv" if format == "ecsv" else format)


@pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")
@pytest.mark.parametrize("format", ["parquet", "fits", "ecsv", "csv"])
def test_o33_every_format_holds_every_epoch_and_what_it_means(curves, tmp_path, format):
    """O33: no row is dropped; units, descriptions, time scale and reference are told."""
    (path,) = export_lightcurves(curves, tmp_path / f"all.{format}", format=format)
    table = read_back(path, format)
    assert len(table) == 240 and table.colnames == curves.points.colnames
    for name in ("bjd_tdb", "flux", "rel_flux_err"):
        truth = np.asarray(curves.points[name], float)
        values = np.asarray(np.ma.filled(np.ma.masked_invalid(table[name]), np.nan), float)
        np.testing.assert_array_equal(values, truth, err_msg=name)
    if format == "csv":
        text = path.read_text()
        assert "# flux [electron / s]: measured flux" in text and "# TIMESYS: TDB" in text
        return
    assert str(table["flux"].unit).replace(" ", "") == "electron/s"
    assert "barycentric" in table["bjd_tdb"].description
    assert table.meta["TIMESYS"] == "TDB" and table.meta["TREFPOS"] == "BARYCENTER"


def test_a33_one_file_per_star_in_order_of_time(curves, tmp_path):
    """A33: a file for each star on the common grid, with its position; same bytes each time."""
    paths = export_lightcurves(
        curves, tmp_path / "one", per_source=True, columns=["mag", "rel_flux"]
    )
    assert [path.name for path in paths][:2] == ["m67-cam1-00001.ecsv", "m67-cam1-00002.ecsv"]
    tables = [Table.read(path) for path in paths]
    for table in tables:
        np.testing.assert_array_equal(table["frame_id"], tables[0]["frame_id"])
        assert (np.diff(table["mjd_mid"]) > 0).all()
    assert tables[0].meta["NAME"] == "m67 1" and tables[0].meta["RA"] > 149
    assert tables[0].colnames == ["source", "filter", "frame_id", "mjd_mid", "bjd_tdb",
                                  "rel_flux", "mag", "flags"]  # fmt: skip
    again = export_lightcurves(
        curves, tmp_path / "two", per_source=True, columns=["mag", "rel_flux"]
    )
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]


def test_o33_the_layout_of_opticam_keeps_lost_epochs(curves, tmp_path):
    """O33 and O29: a CSV per source; BMJD, flux, flux_err, background, flags; sky as ECSV."""
    import pandas as pd

    paths = export_opticam(curves, tmp_path, background=True)
    assert len(paths) == 13
    frame = pd.read_csv(tmp_path / "V_source_1.csv")
    assert frame.columns.tolist() == ["BMJD", "flux", "flux_err", "background", "flags"]
    assert len(frame) == 20 and np.isnan(frame["flux"][7]) and frame["flags"][7] == 16
    mine = curves.series(1, column="flux")
    np.testing.assert_allclose(frame["BMJD"], mine.time - 2400000.5, atol=1e-8)
    np.testing.assert_allclose(frame["flux"].dropna(), mine.value[np.isfinite(mine.value)])
    sky = Table.read(tmp_path / "V_background.ecsv")
    assert str(sky["background"].unit) == "electron" and str(sky["bmjd"].unit) == "d"
    assert (sky["background"] == 100).all() and len(sky) == 20
    utc = export_opticam(curves, tmp_path / "utc", barycentre=False)[0].read_text()
    assert utc.startswith("MJD,flux,flux_err,flags\n60000.15")


def test_o29_background_of_a_frame_is_the_median_over_the_sources(curves):
    """O29: level and robust scatter between the sources, with units."""
    points = curves.points.copy()
    rng = np.random.default_rng(1)
    points["sky"] = 50 + rng.normal(0, 2, len(points)).round(3)
    points["sky"].unit = "electron"
    other = LightCurves(points, curves.statistics, curves.sources, curves.frames, "x")
    table = background_table(other, "V")
    values = np.asarray(points["sky"]).reshape(12, 20)
    np.testing.assert_allclose(table["background"], np.median(values, axis=0))
    spread = np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    np.testing.assert_allclose(table["background_rms"], 1.4826 * spread)


def test_the_command_writes_files_and_says_which(project, capsys):
    out = project / "out.csv"
    argv = ["export", "lightcurves", "-d", str(project), "--format", "csv", "--source", "3"]
    assert main([*argv, "--source", "5", "--columns", "rel_flux", "-o", str(out)]) == 0
    assert "out.csv" in capsys.readouterr().out
    assert set(read_back(out, "csv")["source"]) == {3, 5}
    folder = project / "opticam"
    assert main([*argv[:4], "--format", "opticam", "--utc", "-o", str(folder)]) == 0
    assert len(list(folder.glob("V_source_*.csv"))) == 12
    assert "more in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--source", "99"], "no source '99'"),
        (["--field", "ngc1"], "name one field; there are m67-cam1"),
        (["--columns", "glow"], "no column 'glow'"),
        (["--filter", "Z"], "no light curve is left"),
        (["--format", "opticam", "--columns", "flux,mag"], "room for one flux"),
    ],
)
def test_mistakes_on_the_command_line_are_said(project, capsys, more, hint):
    argv = ["export", "lightcurves", "-d", str(project), "-o", str(project / "x")]
    assert main([*argv, *more]) == 2
    assert hint in capsys.readouterr().err


def test_light_curves_open_by_project_results_and_table(project, tmp_path):
    import skymill

    table = project / "results" / "lightcurves" / "m67-cam1.parquet"
    for place in (project, project / "results", table):
        assert len(skymill.open_lightcurves(place)) == 240
    assert repr(open_lightcurves(project)).startswith("<LightCurves m67-cam1: 12 sources")
    with pytest.raises(ConfigError, match="there are none"):
        open_lightcurves(tmp_path / "project" / "config")
    with pytest.raises(ConfigError, match="does not exist"):
        open_lightcurves(tmp_path / "nothing.parquet")
