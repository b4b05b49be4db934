"""The sections Diagnostics and Moving objects of the report."""

import numpy as np
import pytest
from astropy.table import Table

from skymill import io
from skymill.report import build_page, load_report_data
from skymill.report.diagnostics import Residuals, diagnostics, load_residuals
from skymill.report.model import Field, FrameRow, LightCurve, StackView
from skymill.report.movers import load_movers


def stars(slope=0.05, n=60, seed=4):
    random = np.random.default_rng(seed)
    x, y = random.uniform(0, 1000, (2, n))
    mag, colour = random.uniform(12, 16, n), random.uniform(0, 1, n)
    off = slope * (x - 500) / 1000 + 0.004 * random.standard_normal(n)
    keep = np.ones(n, bool)
    off[0], keep[0] = 0.7, False
    columns = (x, y, mag, colour, off)
    return tuple(zip(*(c.tolist() for c in columns), keep.tolist(), strict=True))


def test_o45_a_gradient_of_the_zero_point_is_told_with_its_error():
    """O45: slopes of the kept stars; brighter than the catalogue is orange on the map."""
    item = Residuals("field", "V", "f1", "V", (1000, 1000), stars())
    card = diagnostics([item], [], [], [])["residuals"][0]
    slope, error = card["slopes"]["x"]
    assert error < 0.005
    assert slope == pytest.approx(0.05, abs=4 * error)
    assert card["rejected"] == 1
    assert "size4" in card["map"]
    assert "plus" in card["map"]
    assert "minus" in card["map"]


def test_o45_scatter_is_told_for_bright_and_faint_sources():
    """O45: a floor shows as an excess of the bright third only."""
    mags = np.linspace(11, 17, 90)
    expected = 0.002 * 10 ** (0.2 * (mags - 11))
    rms = np.hypot(expected, 0.006)
    curves = tuple(
        LightCurve(str(k), "V", float(m), float(r), float(e), False)
        for k, (m, r, e) in enumerate(zip(mags, rms, expected, strict=True))
    )
    row = diagnostics([], [], [Field("f", "MJD", True, curves, ())], [])["scatter"][0]
    assert row["bright"] > 1.8
    assert row["faint"] == pytest.approx(1.0, abs=0.1)
    assert -0.5 < row["exponent"] < 0


def test_stacks_and_positions_have_rows_and_missing_figures_are_dashes():
    frame = FrameRow("f", "f.fits", "light", "i", "t", "t", "V", "2026-01-01", "", 61000.0, 10.0,
                     metrics={"rms_x_px": 0.1, "rms_y_px": 0.2, "rms_px": 0.15})  # fmt: skip
    stack = StackView("s", "ok", "", "", 7, 9, {"corr_inf": 1.3})
    made = diagnostics([], [frame], [], [stack, StackView("b", "failed", "X", "", 0, 2, {})])
    assert made["stacks"] == [
        {"name": "s", "used": 7, "left_out": 2, "coverage": None, "correlation": 1.3,
         "shared": None, "holes": None, "fwhm": None, "depth": None},
    ]  # fmt: skip
    assert made["positions"][0]["rms_x_px"] == 0.1
    assert made["positions"][0]["holdout_rms_px"] is None
    assert made["positions_plot"] == ""


def mover_tables(folder):
    names = ("mjd", "ra", "dec", "x", "y", "rate_x", "rate_y", "rate", "rate_err",
             "position_angle", "rms_px", "mag", "expected_false")  # fmt: skip
    values = (61000.5, 130.0, 20.0, 50.0, 60.0, 3.0, -4.0, 5.0, 0.1, 110.0, 0.05, 16.2, 1e-9)
    tracks = Table({"mover": [1], "n_detections": [6], "n_frames": [7]})
    for name, value in zip(names, values, strict=True):
        tracks[name] = [value]
    points = Table({"frame_id": [f"f{k}" for k in range(7)], "mover": np.ones(7, int)})
    points["mjd"] = 61000.5 + np.arange(7) / 100
    points["flux_corr"] = [100.0, 101.0, 99.0, 100.0, np.nan, 102.0, -3.0]
    points["flux_corr_err"], points["flags"] = np.ones(7), np.zeros(7, int)
    (folder / "movers" / "points").mkdir(parents=True)
    io.write_table(folder / "movers" / "field.parquet", tracks, {})
    io.write_table(folder / "movers" / "points" / "field.parquet", points, {})


def test_moving_objects_have_a_section_only_where_there_are_any(tmp_path):
    """Motion and light curve of each; lost and negative points are left out of the drawing."""
    assert 'id="movers"' not in build_page(load_report_data(tmp_path, []))
    mover_tables(tmp_path)
    missing = []
    found = load_movers(tmp_path, None, {f"f{k}": "V" for k in range(7)}, missing)
    assert not missing
    assert found[0].rate_px == pytest.approx(5.0)
    assert len(found[0].curves[0].time) == 5
    page = build_page(load_report_data(tmp_path, []))
    assert 'id="movers"' in page
    assert "6 of 7" in page
    assert load_movers(tmp_path, {"another"}, {}, missing) == ()


def test_products_that_cannot_be_read_become_sentences(tmp_path):
    """Missing or broken products never stop the page."""
    missing = []
    assert load_residuals(tmp_path, None, missing) == ()
    for name in ("movers", "reference_frames", "reference_catalogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "field.parquet").write_bytes(b"no table")
    data = load_report_data(tmp_path, [])
    assert [text for text in data.missing if "moving objects of field" in text]
    assert [text for text in data.missing if "residuals of field" in text]
    assert "nothing to diagnose yet" in build_page(data)
