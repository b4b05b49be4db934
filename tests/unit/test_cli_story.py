"""status, explain, ingest and show: what a project says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skymill.cli import main
from skymill.commands.explain import story
from skymill.commands.ingest import changes, run_ingest
from skymill.commands.init import make_project
from skymill.commands.project import Project
from skymill.commands.simulate import night_config
from skymill.commands.status import funnel_lines, state
from skymill.errors import ConfigError, Outcome
from skymill.frame import Frame, MaskBit
from skymill.io import write_frame, write_mask, write_outcomes
from skymill.sheet import empty_row, frame_id, write_sheet

BLOCK_STEPS = ("calibrate", "mask", "background", "sources", "astrometry", "photcal")


def a_row(name, kind, **cells):
    start = cells.pop("mjd_start", 61114.0)
    facts = {
        "frame_id": frame_id(name, 0),
        "path": name,
        "hdu": 0,
        "sha256": "0" * 64,
        "verdict": "ok",
        "kind": kind,
        "instrument": "generic",
        "night": "2026-03-15",
        "date_start": "2026-03-15T22:00:00.000",
        "mjd_start": start,
        "mjd_mid": start,
        "binning": "1x1",
        "nx": 64,
        "ny": 48,
        "gain_e_adu": 1.6,
        "read_noise_e": 6.0,
        "exptime_s": 0.0 if kind == "bias" else 60.0,
    }
    return empty_row(**{**facts, **cells})


@pytest.fixture
def project(tmp_path):
    """Three bias frames, three flats, three lights, and one broken file."""
    (tmp_path / "raw").mkdir()
    made = Project(make_project(tmp_path / "p", tmp_path / "raw"))
    rows = [a_row(f"bias_{i}.fits", "bias", mjd_start=61113.5 + i / 1e3) for i in range(3)]
    rows += [
        a_row(f"flat_{i}.fits", "flat", filter="V", mjd_start=61113.6 + i / 1e3) for i in range(3)
    ]
    light = {"filter": "V", "object": "M 67", "target": "M_67", "ra_deg": 132.8, "dec_deg": 11.8}
    rows += [
        a_row(f"light_{i}.fits", "light", mjd_start=61114.0 + i / 1e3, **light) for i in range(3)
    ]
    rows[7]["fixes"] = "DECIMAL_COMMA EXPTIME 60,0 read as 60"
    rows.append(
        a_row("bad.fits", "", verdict="rejected", code="EMPTY", message="the file has zero bytes.")
    )
    write_sheet(made.sheet, rows)
    return made


def outcome(name, step, status="ok", code="", message="", **numbers):
    return Outcome(name, step, status, code, message, numbers)


def finish_masters(project):
    plan = project.plan()
    assert sorted(master.kind for master in plan.masters.values()) == ["bias", "flat"]
    for master in plan.masters.values():
        step = f"master_{master.kind}"
        rows = [outcome(name, step) for name in (*master.frames, master.id)]
        write_outcomes(project.results / "outcomes" / step / f"{master.id}.csv", rows)
    write_outcomes(project.results / "outcomes" / "plan" / "plan.csv", plan.outcomes)
    return plan


def finish_block(project, steps=BLOCK_STEPS):
    """The second light frame has no stars; the third one a trail."""
    plan = finish_masters(project)
    (block,) = plan.blocks.values()
    first, second, third = block.frames
    for step in steps:
        rows = [outcome(first, step), outcome(second, step), outcome(third, step)]
        if step == "mask":
            rows[2] = outcome(third, step, "degraded", "COSMIC_OFF", "A trail crosses.", n_trail=81)
        if step == "sources":
            rows[1] = outcome(second, step, "rejected", "NO_STARS", "0 sources, expected 3.")
        if step in ("astrometry", "photcal"):
            rows[1] = outcome(second, step, "blocked", "UPSTREAM_BLOCKED", "stopped by sources")
        write_outcomes(project.results / "outcomes" / step / f"{block.id}.csv", rows)
    return plan, block


# --- status ---


def test_before_the_run_all_sound_frames_wait(project):
    now = state(project)
    assert len(now.pending) == 9
    assert now.funnel.counts["rejected"] == 1
    assert funnel_lines(now.funnel, len(now.pending))[0] == (
        "10 raw frames = 1 rejected + 9 waiting"
    )
    assert set(now.missing) >= {"master_bias", "master_flat", *BLOCK_STEPS, "stack"}


def test_half_way_what_is_done_and_what_waits_add_up(project):
    finish_masters(project)
    now = state(project)
    assert now.funnel.counts["used"] == 6
    assert {row["kind"] for row in now.pending} == {"light"}
    assert now.funnel.total + len(now.pending) == 10
    assert now.steps["master_bias"] == {"ok": 3}
    assert "master_bias" not in now.missing


def test_at_the_end_the_funnel_says_why_each_frame_is_missing(project, capsys):
    finish_block(project)
    now = state(project)
    assert not now.pending
    assert now.funnel.counts["used"] == 7
    assert now.funnel.counts["degraded"] == 1
    assert now.funnel.counts["rejected"] == 2
    assert not now.is_clean
    assert now.steps["mask"] == {"ok": 2, "degraded": 1}
    assert main(["status", "-d", str(project.folder)]) == 0
    told = capsys.readouterr().out
    assert "10 raw frames = 7 used + 1 used but degraded + 2 rejected" in told
    assert "1 rejected at sources: NO_STARS" in told
    assert "1 rejected at ingest: EMPTY" in told
    assert "bad.fits" in told


def test_status_for_programs_has_the_same_numbers(project, capsys):
    finish_block(project)
    assert main(["status", "-d", str(project.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["raw"] == 10
    assert sum(told["fates"].values()) + len(told["waiting"]) == 10
    assert {reason["code"] for reason in told["reasons"]} == {"EMPTY", "NO_STARS"}
    assert told["report"] is None
    assert "stack" in told["missing"]


def test_outcomes_of_blocks_that_are_no_longer_planned_are_left_out(project):
    _, block = finish_block(project)
    stale = project.results / "outcomes" / "mask" / "gone-00000000.csv"
    write_outcomes(stale, [outcome(block.frames[0], "mask", "rejected", "ALL_MASKED", "old")])
    assert state(project).funnel.counts["rejected"] == 2


def test_without_a_sheet_the_way_to_one_is_told(project, capsys):
    project.sheet.unlink()
    assert main(["status", "-d", str(project.folder)]) == 2
    assert "skymill ingest -d" in capsys.readouterr().err


# --- explain ---


def test_the_story_of_a_frame_has_header_fixes_steps_masters_and_end(project):
    plan, block = finish_block(project)
    lines = story(project, "light_1.fits")
    text = "\n".join(lines)
    assert lines[0] == "light_1.fits"
    assert "M 67" in text
    assert "1.6 electron/ADU, 6 electron read noise" in text
    assert "DECIMAL_COMMA EXPTIME 60,0 read as 60" in text
    assert "sources          rejected  NO_STARS: 0 sources, expected 3." in text
    assert "rejected (sources)" in text
    for master in plan.masters:
        assert master in text
    steps = [line.split()[0] for line in lines if line.startswith("  ") and line.split()]
    order = [step for step in steps if step in ("ingest", *BLOCK_STEPS)]
    assert order == ["ingest", *BLOCK_STEPS]
    assert block.id in text


def test_a_flag_comes_with_its_numbers(project):
    finish_block(project)
    text = "\n".join(story(project, "light_2.fits"))
    assert "degraded  COSMIC_OFF: A trail crosses." in text
    assert "n_trail = 81" in text


def test_a_frame_is_found_by_raw_path_id_product_and_bare_name(project, monkeypatch):
    _, block = finish_block(project)
    frame = block.frames[0]
    product = project.results / "calibrated" / block.id / f"{frame}.fits"
    raw = project.raw / "light_0.fits"
    monkeypatch.chdir(project.raw)
    stories = {
        tuple(story(project, name))
        for name in (frame, "light_0.fits", str(raw), str(product), "./light_0.fits")
    }
    assert len(stories) == 1


def test_products_that_exist_are_listed(project):
    _, block = finish_block(project)
    frame = block.frames[0]
    product = project.results / "calibrated" / block.id / f"{frame}.fits"
    product.parent.mkdir(parents=True)
    product.touch()
    text = "\n".join(story(project, frame))
    assert f"results/calibrated/{block.id}/{frame}.fits" in text
    assert f"results/mask/{block.id}" not in text


def test_before_the_run_a_frame_waits(project):
    assert any("it waits" in line for line in story(project, "light_0.fits"))


def test_masters_blocks_and_stacks_have_stories_of_their_own(project):
    plan, block = finish_block(project)
    bias = next(master for master in plan.masters.values() if master.kind == "bias")
    text = "\n".join(story(project, bias.id))
    assert "master bias of 3 frames" in text
    assert all(frame in text for frame in bias.frames)
    assert block.id in text
    (stack,) = plan.stacks
    assert "not made yet" in "\n".join(story(project, f"results/stack/{stack}.fits"))
    assert "light_2.fits" in "\n".join(story(project, block.id))


def test_an_unknown_name_is_told_with_the_nearest_ones(project):
    with pytest.raises(ConfigError, match=r"'ligth_0\.fits'; did you mean .*light_0\.fits"):
        story(project, "ligth_0.fits")


# --- ingest ---


def test_a_new_sheet_is_told_by_what_is_new_changed_and_gone():
    before = [a_row(name, "light") for name in ("a.fits", "b.fits", "c.fits")]
    after = [a_row(name, "light") for name in ("b.fits", "c.fits", "d.fits")]
    after[1]["filter"] = "R"
    lines = changes(before, after)
    assert lines == [
        "1 new, 1 changed, 1 gone since the last sheet",
        "  new      d.fits",
        "  changed  c.fits (filter)",
        "  gone     a.fits",
    ]


def test_an_existing_sheet_is_not_overwritten(project, capsys):
    before = project.sheet.read_bytes()
    assert main(["ingest", "-d", str(project.folder)]) == 2
    assert "`--update` reads new and changed files" in capsys.readouterr().err
    assert project.sheet.read_bytes() == before


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    assert main(["simulate", "-o", str(folder / "n"), "--preset", "tiny", "--bad", "empty"]) == 0
    return folder / "n" / "raw"


@pytest.fixture
def fresh(night, tmp_path):
    """A project of a raw folder of its own."""
    shutil.copytree(night, tmp_path / "raw")
    return Project(make_project(tmp_path / "q", tmp_path / "raw"))


def test_ingest_says_what_was_found_and_writes_the_sheet(fresh, capsys):
    assert main(["ingest", "-d", str(fresh.folder)]) == 0
    told = capsys.readouterr().out
    assert "EMPTY" in told
    assert "bias" in told
    rows = fresh.rows()
    assert len(rows) == sum(path.is_file() for path in fresh.raw.rglob("*"))
    assert sum(row["verdict"] == "rejected" for row in rows) == 1


def test_a_dry_run_writes_nothing(fresh, capsys):
    before = sorted(fresh.folder.rglob("*"))
    assert main(["ingest", "-d", str(fresh.folder), "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert main(["run", "-d", str(fresh.folder), "-n"]) == 0
    told = capsys.readouterr().out
    assert "EMPTY" in told
    assert "the sheet was not written" in told
    assert sorted(fresh.folder.rglob("*")) == before


def test_an_update_reads_new_files_and_tells_the_difference(fresh, capsys):
    assert main(["ingest", "-d", str(fresh.folder)]) == 0
    first = fresh.sheet.read_bytes()
    assert main(["ingest", "-d", str(fresh.folder), "--update"]) == 0
    assert "0 new, 0 changed, 0 gone" in capsys.readouterr().out
    assert fresh.sheet.read_bytes() == first
    empty = next(fresh.raw.rglob("*empty*"))
    light = next(fresh.raw.rglob("light*"))
    empty.unlink()
    (fresh.folder / "config" / "overrides.yaml").write_text(
        f"- files: {light.name}\n  exclude: dome in the beam\n"
    )
    assert main(["ingest", "-d", str(fresh.folder), "--update"]) == 0
    told = capsys.readouterr().out
    assert "0 new, 1 changed, 1 gone" in told
    assert f"{light.name} (verdict, code, message)" in told
    row = next(row for row in fresh.rows() if row["path"].endswith(light.name))
    assert (row["verdict"], row["code"]) == ("rejected", "EXCLUDED")


def test_a_project_can_be_read_from_its_own_folder_as_scripts_do(fresh, monkeypatch):
    monkeypatch.chdir(fresh.folder)
    run_ingest(Path(), fresh.settings, update=False)
    assert len(fresh.rows()) > 10


def test_a_broken_override_is_one_sentence(fresh, capsys):
    fresh.overrides.write_text("- files: x\n  sett: {kind: bias}\n")
    assert main(["ingest", "-d", str(fresh.folder)]) == 2
    told = capsys.readouterr().err
    assert "sett" in told
    assert len(told.strip().splitlines()) <= 2


# --- simulate ---


def test_simulate_changes_a_preset_and_refuses_a_full_folder(tmp_path, capsys):
    arguments = ["simulate", "-o", str(tmp_path / "n"), "--preset", "tiny", "--frames", "1"]
    arguments += ["--size", "96x64", "--filters", "B,R", "--seed", "7"]
    assert main(arguments) == 0
    assert "raw files in" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "n" / "raw").rglob("light*"))
    assert names == ["light_B_001.fits", "light_R_001.fits"]
    truth = json.loads((tmp_path / "n" / "truth" / "truth.json").read_text())["config"]
    assert (truth["shape"], truth["seed"]) == ([64, 96], 7)
    assert main(arguments) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "big"], "--size 'big' is not like 512 or 640x480"),
        (["--size", "8"], "at least 32 px"),
        (["--frames", "-1"], "n_light: Input should be greater than or equal to 0"),
        (["--bad", "nonsense"], "nonsense"),
    ],
)
def test_simulate_refuses_what_is_impossible(tmp_path, arguments, said, capsys):
    assert main(["simulate", "-o", str(tmp_path / "n"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_other_filters_do_not_need_the_numbers_of_the_preset():
    config = night_config("demo", {"filters": ("B",), "n_light": 2})
    assert config.filters == ("B",)
    assert not isinstance(config.sky_e_s, dict)
    assert config.trails == ()


# --- show ---


@pytest.fixture
def product(tmp_path):
    rng = np.random.default_rng(5)
    sci = rng.normal(100.0, 5.0, (48, 64)).astype(np.float32)
    mask = np.zeros(sci.shape, np.uint16)
    mask[0, :7] = MaskBit.COSMIC
    frame = Frame(sci, np.full_like(sci, 5.0), mask, fits.Header())
    path = tmp_path / "results" / "calibrated" / "b" / "f.fits"
    path.parent.mkdir(parents=True)
    write_frame(path, frame, {})
    write_mask(tmp_path / "m.fits", mask, frame, {})
    return path


def test_show_writes_a_picture_here_and_says_its_path_and_numbers(
    product, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(product)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert told[0] == "SCI 64 x 48 px"
    assert "electron" in told[1]
    assert told[-1] == "f.png"


def test_show_counts_the_bits_of_a_mask(product, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "m.fits", "-o", "x.png"]) == 0
    told = capsys.readouterr().out
    assert "COSMIC" in told
    assert " 7 px" in told
    assert (tmp_path / "x.png").is_file()
    assert main(["show", str(product), "--plane", "mask"]) == 0
    assert (tmp_path / "f-mask.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plane", "DEPTH"], "no plane 'DEPTH'"),
        (["--cmap", "rainbow"], "no colours 'rainbow'; there are gray"),
        (["--size", "3"], "--size 3 is too small"),
    ],
)
def test_show_refuses_what_it_does_not_know(product, arguments, said, capsys):
    assert main(["show", str(product), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_show_of_nothing_says_so(tmp_path, capsys):
    assert main(["show", str(tmp_path / "no.fits")]) == 2
    assert "does not exist" in capsys.readouterr().err
