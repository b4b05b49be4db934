"""Masters between nights: pooled, borrowed and compared, and what a policy runs again."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skymill.io import read_frame, read_outcomes, read_table
from skymill.plan import make_plan
from skymill.settings import load_settings
from skymill.sheet import read_sheet
from skymill.simulate import NightConfig, simulate_night

from .conftest import skymill, snakemake
from .test_workflow import planned

#: No further than what the masters decide.
ENOUGH = ("--until", "calibrate", "master_history", "plan")


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights, masters and calibrated frames: flats of both are few, one has no bias."""
    folder = tmp_path_factory.mktemp("nights")
    start = datetime(2026, 1, 10, 20, tzinfo=UTC)
    for number, n_bias in enumerate((4, 0)):
        config = NightConfig(
            seed=5,
            night_index=number,
            start_utc=start + timedelta(days=number),
            shape=(120, 140),
            n_bias=n_bias,
            n_dark=3,
            n_flat=2,
            n_light=2,
            n_stars=30,
        )
        simulate_night(folder / f"night{number}", config)
        shutil.copytree(folder / f"night{number}" / "raw", folder / "raw" / f"night{number}")
    project = tmp_path_factory.mktemp("reduction") / "project"
    made = skymill("init", project, "--raw", folder / "raw")
    assert made.returncode == 0, made.stderr
    assert skymill("ingest", "-d", project).returncode == 0
    done = snakemake(project, *ENOUGH)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return project


@pytest.fixture
def copy(nights: Path, tmp_path: Path) -> Path:
    """A copy of the project that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(nights, folder, symlinks=True)
    return folder


def with_policy(folder: Path, policy: str) -> dict[str, int]:
    """Return the jobs that a policy would run."""
    config = folder / "config" / "config.yaml"
    config.write_text(f"{config.read_text()}\nplan:\n  match: {policy}\n")
    done = snakemake(folder, "-n", *ENOUGH)
    assert done.returncode == 0, done.stdout + done.stderr
    return planned(done.stdout + done.stderr)


def test_h217_h221_a_night_without_bias_borrows_one_and_says_its_age(nights):
    plan = make_plan(
        read_sheet(nights / "config" / "frames.csv"),
        load_settings(nights / "config" / "config.yaml"),
    )
    first, second = sorted(plan.blocks.values(), key=lambda block: block.night)
    assert first.bias == second.bias
    assert first.flat == second.flat
    assert plan.masters[first.flat].nights == (first.night, second.night)
    for block, age in ((first, 0), (second, 1)):
        frames = sorted((nights / "results" / "calibrated" / block.id).glob("*.fits"))
        assert len(frames) == 2
        for path in frames:
            header = read_frame(path).header
            assert (header["BIASAGE"], header["BIASRULE"]) == (age, "nearest")
            assert (header["FLATAGE"], header["FLATID"]) == (0, block.flat)
        for outcome in read_outcomes(nights / f"results/outcomes/calibrate/{block.id}.csv"):
            assert outcome.numbers["bias_age_nights"] == age
    choices = (nights / "results" / "plan" / "choices.csv").read_text()
    assert f"{second.id},bias,{second.bias},1,nearest" in choices


def test_masters_of_both_nights_are_compared(nights):
    table = read_table(nights / "results" / "master_history.parquet")
    darks = table[table["kind"] == "dark"]
    assert [bool(name) for name in darks["previous"]] == [False, True]
    # 64 rows of 140 pixels: the scatter has a standard error of 1.5 %; the same detector.
    assert float(darks["pattern_sigma"][1]) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("policy", "counts"),
    [
        ("{window_nights: {bias: 5}}", {"plan": 1}),
        # both nights have darks, and the only bias lies before
        ("{window_nights: {dark: 0}, prefer: before}", {"plan": 1}),
    ],
)
def test_h243_a_policy_that_changes_no_choice_runs_no_master_and_no_block(copy, policy, counts):
    found = with_policy(copy, policy)
    assert {name: n for name, n in found.items() if name != "report"} == counts


def test_h243_a_policy_reruns_only_what_it_changes(copy):
    found = with_policy(copy, "{window_nights: {bias: 0}}")
    assert found["calibrate"] >= 1
    assert "master_bias" not in found
    assert found.get("master_dark") == 1


def test_a_master_file_that_the_sheet_names_is_used(copy):
    mine = copy / "masters"
    mine.mkdir()
    (bias,) = (copy / "results" / "masters").glob("bias-*.fits")
    shutil.copy(bias, mine / "bias.fits")
    sheet = copy / "config" / "frames.csv"
    lines = sheet.read_text().splitlines()
    assert lines[0].endswith(",use_bias,use_dark,use_flat")
    lights = [n for n, line in enumerate(lines) if "night1/" in line and "light" in line]
    for n in lights:
        assert lines[n].endswith(",,,")
        lines[n] = lines[n][:-3] + ",masters/bias.fits,,"
    sheet.write_text("\n".join(lines) + "\n")
    done = snakemake(copy, *ENOUGH)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rules = {
        read_frame(path).header["BIASRULE"]
        for path in (copy / "results" / "calibrated").glob("*/*.fits")
    }
    assert rules == {"nearest", "assigned"}
