"""Masters over time in the report: only where there is something to compare."""

import math

from skymill.io import write_table
from skymill.jobs.tables import from_records
from skymill.report import build_page, load_report_data
from skymill.report.history import drifts, load_history
from skymill.steps.master_history import COLUMNS

from .test_report import make_results


def write(folder, *records):
    base = {"series": "flat cam R", "kind": "flat", "n_hot": -1}
    table = from_records([base | record for record in records], COLUMNS, {"n_hot": -1})
    write_table(folder / "master_history.parquet", table, {})


def test_series_of_two_masters_are_drawn(tmp_path):
    write(
        tmp_path,
        {"master": "a", "night": "2026-01-10", "gain_ratio": 1.0, "gain_e_adu": 1.5},
        {
            "master": "b", "night": "2026-01-14", "gain_ratio": 1.1, "gain_e_adu": 1.65,
            "pattern_sigma": 3.0, "flags": "MASTER_CHANGED",
        },
        {"master": "c", "night": "2026-01-14", "series": "flat cam V"},
    )  # fmt: skip
    missing = []
    (one,) = load_history(tmp_path, None, missing)
    assert not missing
    assert (one.name, one.flagged, len(one.days)) == ("flat cam R", 1, 2)
    assert one.days[1] - one.days[0] == 4
    assert one.nights == "2026-01-10 … 2026-01-14"
    assert one.middle("gain_e_adu") == "1.5 … 1.65"
    assert one.middle("n_hot") == "–"
    assert math.isnan(one.values["pattern_sigma"][0])
    titles = [title for title, _ in drifts([one])]
    assert titles == ["Measured over declared gain"]
    assert "2 masters since 2026-01-10: 1 to 1.1" in drifts([one])[0][1]


def test_masters_of_an_earlier_plan_and_a_broken_table_are_left_out(tmp_path):
    assert load_history(tmp_path, None, []) == ()
    rows = [{"master": name, "night": "2026-01-10"} for name in ("a", "b")]
    write(tmp_path, *rows)
    assert load_history(tmp_path, {"a"}, []) == ()
    (tmp_path / "master_history.parquet").write_bytes(b"x")
    missing = []
    assert load_history(tmp_path, None, missing) == ()
    assert "could not be read" in missing[0]


def test_the_page_shows_the_series_and_only_if_there_are_any(tmp_path):
    sheet = make_results(tmp_path)
    assert "Masters over time" not in build_page(load_report_data(tmp_path, sheet))
    rows = [{"master": name, "night": "2026-01-10", "pattern_sigma": 1.5} for name in ("a", "b")]
    write(tmp_path, *rows)
    page = build_page(load_report_data(tmp_path, sheet))
    assert "Masters over time" in page
    assert "flat cam R" in page
    assert "Change of the pattern" in page
