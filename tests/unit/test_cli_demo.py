"""The demo: simulated once, expected rejections are no failure, honest comparison."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.table import Table

from skymill.cli import main
from skymill.commands.demo_check import _isolated, _matched, _plane, compare, surprises
from skymill.commands.ingest import run_ingest
from skymill.commands.init import make_project
from skymill.commands.project import Project
from skymill.errors import Outcome
from skymill.io import write_outcomes
from skymill.sheet import write_sheet
from skymill.simulate import NightConfig, simulate_night

TINY = NightConfig(
    shape=(64, 64), n_bias=1, n_dark=1, n_flat=1, n_light=1, n_stars=5, truth_images=False
)


def test_differences_of_known_size_are_told_with_their_errors():
    rng = np.random.default_rng(11)
    n, shift, sigma = 4000, 0.5, 2.0
    found = compare("x", "px", shift + sigma * rng.standard_normal(n), np.full(n, sigma))
    # Four standard errors of the median, of the MAD-based scatter and of the rms.
    assert abs(found.difference - shift) < 4 * 1.2533 * sigma / math.sqrt(n)
    assert found.difference_err == pytest.approx(1.2533 * sigma / math.sqrt(n), rel=0.1)
    assert abs(found.scatter - sigma) < 4 * 1.167 * sigma / math.sqrt(n)
    assert abs(found.pull - math.hypot(1, shift / sigma)) < 4 / math.sqrt(2 * n) * 1.1


def test_measurements_without_value_or_error_do_not_count():
    difference = np.array([1.0, np.nan, 3.0, 5.0, 7.0])
    error = np.array([1.0, 1.0, 0.0, np.nan, 1.0])
    assert compare("x", "", difference, error).number == 2
    assert compare("x", "", difference).number == 4
    assert compare("x", "", np.array([1.0])) is None
    assert math.isnan(compare("x", "", difference).pull)


def test_only_lonely_stars_are_matched_and_only_near_sources():
    stars = np.array([[0.0, 0.0], [5.0, 0.0], [100.0, 0.0], [200.0, 0.0], [np.nan, 1.0]])
    alone = _isolated(stars)
    assert alone.tolist() == [False, False, True, True, False]
    found = np.array([[203.0, 0.0], [100.3, 0.2], [0.0, 0.0]])
    of_star, of_row = _matched(stars, found, alone)
    assert (of_star.tolist(), of_row.tolist()) == ([2], [1])


def test_offsets_on_the_sky_are_in_pixels_across_the_zero_of_right_ascension():
    table = Table({"ra": [0.001, 359.999], "dec": [60.0, 60.001]})
    offsets = _plane(table, (0.0, 60.0), 0.5)
    # East is positive; cos(60 deg) = 1/2; 3.6 arcsec are 7.2 px of 0.5 arcsec.
    assert offsets[:, 0] == pytest.approx([3.6, -3.6], abs=1e-3)
    assert offsets[:, 1] == pytest.approx([0.0, 7.2], abs=1e-3)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The demo with a tiny night; reducing it is played."""
    runs = []

    def run_project(project, cores=None, flags=()):
        runs.append(project)
        return 10

    monkeypatch.setattr("skymill.simulate.demo_config", lambda: TINY)
    monkeypatch.setattr("skymill.commands.run.run_project", run_project)
    monkeypatch.setattr("skymill.commands.demo_check.comparison", lambda project, truth: ["table"])
    monkeypatch.setattr("skymill.commands.demo_check.surprises", lambda project, truth: [])
    return tmp_path / "d", runs


def test_expected_rejections_are_no_failure(demo, capsys):
    folder, runs = demo
    assert main(["demo", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "table" in told
    assert "planted" in told
    assert runs[0].settings.reference.file == "truth/reference.csv"
    assert runs[0].settings.raw == "raw"


def test_a_surprise_is_told_and_is_no_success(demo, monkeypatch, capsys):
    odd = ["light_V_001.fits is rejected NO_STARS (sources), expected ok/degraded"]
    monkeypatch.setattr("skymill.commands.demo_check.surprises", lambda project, truth: odd)
    assert main(["demo", str(demo[0])]) == 10
    assert odd[0] in capsys.readouterr().out


def test_every_frame_must_end_as_the_simulation_expects(tmp_path):
    night = TINY.model_copy(update={"bad": ("empty", "missing_exptime")})
    simulate_night(tmp_path / "n", night)
    project = Project(make_project(tmp_path / "p", tmp_path / "n" / "raw"))
    run_ingest(project.folder, project.settings, update=False)
    plan = project.plan()
    rows = {row["path"].rpartition("/")[2]: row for row in project.rows()}
    truth = tmp_path / "n" / "truth"
    # Nothing has run: one frame of each kind is too few, and the light frame waits.
    (light,) = [name for name in rows if name.startswith("light")]
    odd = surprises(project, truth)
    assert not [line for line in odd if "odd_" in line]
    assert any(light in line for line in odd)
    # The light frame is used, but the empty file now counts as truncated.
    (block,) = plan.blocks
    write_outcomes(
        project.results / "outcomes" / "calibrate" / f"{block}.csv",
        [Outcome(rows[light]["frame_id"], "calibrate", "ok")],
    )
    write_outcomes(project.results / "outcomes" / "plan" / "plan.csv", plan.outcomes)
    rows["odd_empty.fits"]["code"] = "TRUNCATED"
    write_sheet(project.sheet, list(rows.values()))
    odd = surprises(project, truth)
    assert not any(light in line for line in odd)
    assert any("odd_empty.fits is rejected TRUNCATED (ingest), expected EMPTY" in o for o in odd)


def test_a_second_demo_simulates_nothing_again(demo, monkeypatch):
    folder, runs = demo
    main(["demo", str(folder)])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("skymill.simulate.simulate_night", None)
    assert main(["demo", str(folder)]) == 0
    assert len(runs) == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_an_interrupted_simulation_is_done_again(demo):
    folder, _ = demo
    main(["demo", str(folder)])
    (folder / "truth" / "truth.json").unlink()
    assert main(["demo", str(folder)]) == 0
    assert (folder / "truth" / "truth.json").is_file()


def test_the_demo_touches_no_folder_of_others(demo, capsys):
    folder, runs = demo
    folder.mkdir()
    (folder / "mine.txt").touch()
    assert main(["demo", str(folder)]) == 2
    assert "was not made by the demo" in capsys.readouterr().err
    assert not runs
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_night_of_another_version_is_not_taken_for_this_one(demo, monkeypatch, capsys):
    folder, _ = demo
    main(["demo", str(folder)])
    other = TINY.model_copy(update={"seed": 2})
    monkeypatch.setattr("skymill.simulate.demo_config", lambda: other)
    assert main(["demo", str(folder)]) == 2
    assert "night of another version" in capsys.readouterr().err


def test_a_sheet_of_another_version_is_kept_and_made_anew(tmp_path, capsys):
    from skymill.commands.demo import _set_aside

    sheet = tmp_path / "frames.csv"
    _set_aside(sheet)
    sheet.write_text("frame_id,path\n1,a.fits\n")
    _set_aside(sheet)
    assert not sheet.exists()
    assert (tmp_path / "frames.csv.old").read_text() == "frame_id,path\n1,a.fits\n"
    assert "another version" in capsys.readouterr().err
