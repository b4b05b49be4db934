"""The graph as a whole: complete, idempotent, precise in what it reruns."""

from __future__ import annotations

import os
import re

import pytest

from skymill.io import read_frame, read_outcomes, read_table
from skymill.plan import make_plan
from skymill.settings import load_settings
from skymill.sheet import read_sheet

from .conftest import skymill, snakemake


def planned(output: str) -> dict[str, int]:
    """Return the job counts of a dry run."""
    found = re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)
    return {name: int(count) for name, count in found if name not in ("total", "all")}


def nothing_to_do(folder) -> bool:
    again = snakemake(folder, "-n")
    return "Nothing to be done" in again.stdout + again.stderr


def test_every_planned_product_is_there(project):
    settings = load_settings(project / "config" / "config.yaml")
    plan = make_plan(read_sheet(project / "config" / "frames.csv"), settings)
    results = project / "results"
    for name in plan.masters:
        assert (results / "masters" / f"{name}.fits").is_file()
    for name in plan.stacks:
        assert (results / "stack" / f"{name}.fits").is_file()
        assert (results / "catalog" / f"{name}.parquet").is_file()
    for name in plan.fields:
        assert (results / "lightcurves" / f"{name}.parquet").is_file()
    for step in ("calibrate", "mask", "background", "sources", "astrometry", "photcal"):
        for name, block in plan.blocks.items():
            outcomes = read_outcomes(results / "outcomes" / step / f"{name}.csv")
            assert [o.frame_id for o in outcomes] == list(block.frames)


def test_a_second_run_has_nothing_to_do(project):
    assert nothing_to_do(project)


def test_bad_frames_are_explained_and_good_ones_are_used(project):
    said = {}
    for table in (project / "results" / "outcomes").glob("*/*.csv"):
        for outcome in read_outcomes(table):
            said.setdefault(outcome.frame_id.rsplit("-", 1)[0], set()).update(
                outcome.code.split(";")
            )
    assert "TRUNCATED" in said["odd_truncated"]
    assert "NO_STARS" in said["odd_no_stars"]
    assert "WRONG_SIZE" in said["odd_wrong_size_flat"]
    assert "FLAT_SATURATED" in said["odd_saturated_flat"]
    assert "NO_FLAT" in said["odd_missing_flat"]
    used = set()
    for table in (project / "results" / "outcomes" / "stack").glob("*.csv"):
        used |= {o.frame_id.rsplit("-", 1)[0] for o in read_outcomes(table) if o.usable}
    good = {f"light_{band}_{n:03d}" for band in "VR" for n in range(1, 5)}
    assert good <= used


def test_the_run_ends_with_the_code_for_rejections(project):
    done = skymill("run", "-d", project)
    assert done.returncode == 10, done.stdout + done.stderr


def test_products_tell_their_origin_and_hold_no_path(project):
    (path, *_) = sorted((project / "results" / "calibrated").glob("*/light_V*.fits"))
    frame = read_frame(path)
    assert frame.header["SMSTEP"] == "calibrate"
    assert frame.header["SMNIN"] == 4
    for product in (project / "results").rglob("*"):
        if product.is_file():
            content = product.read_bytes()
            assert str(project).encode() not in content, product


def test_stack_and_catalogue_have_positions_and_magnitudes(project):
    tables = [read_table(path) for path in (project / "results" / "catalog").glob("Sim*V*.parquet")]
    (catalog,) = tables
    assert len(catalog) > 20
    assert abs(float(catalog["ra"].mean()) - 130) < 0.1
    assert abs(float(catalog["dec"].mean()) - 20) < 0.1


@pytest.mark.parametrize(
    ("setting", "runs", "rests"),
    [
        (
            "photometry:\n  main_aperture: 2\n",
            {"photometry", "lightcurves", "report"},
            {"stack", "calibrate", "master_flat"},
        ),
        ("report:\n  title: other\n", {"report"}, {"photometry", "stack", "plan"}),
        (
            "mask:\n  sigclip: 6.0\n",
            {"mask", "background", "sources", "photometry", "report"},
            {"calibrate", "master_bias"},
        ),
    ],
)
def test_a_changed_setting_reruns_what_depends_on_it(copy, setting, runs, rests):
    config = copy / "config" / "config.yaml"
    config.write_text(config.read_text() + setting)
    done = snakemake(copy, "-n")
    counts = planned(done.stdout + done.stderr)
    assert runs <= set(counts)
    assert not rests & set(counts)


def test_a_changed_row_of_the_sheet_reruns_its_block_only(copy):
    sheet = copy / "config" / "frames.csv"
    text = sheet.read_text()
    lines = text.splitlines()
    (index,) = [n for n, line in enumerate(lines) if line.startswith("light_V_001")]
    assert ",60," in lines[index]
    lines[index] = lines[index].replace("Sim Field 1", "Sim Field One", 1)
    sheet.write_text("\n".join(lines) + "\n")
    done = snakemake(copy, "-n")
    assert planned(done.stdout + done.stderr)["calibrate"] == 1


def test_a_typo_in_the_configuration_stops_before_any_job(copy):
    config = copy / "config" / "config.yaml"
    config.write_text(config.read_text() + "masc:\n  sigclip: 6\n")
    done = snakemake(copy, "-n")
    assert done.returncode != 0
    assert "masc is not a setting, did you mean 'mask'" in done.stdout + done.stderr


def test_lint_is_content(repository):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=repository, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_failed_job_took_with_it_is_made_by_the_next_run(copy):
    config = copy / "config" / "config.yaml"
    config.write_text(config.read_text() + "mask:\n  sigclip: 6.0\n")
    (path, *_) = sorted((copy / "results" / "calibrated").glob("*/light_V*.fits"))
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[:5000])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert snakemake(copy).returncode != 0
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = snakemake(copy)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    masks = copy / "results" / "mask" / path.parent.name
    assert (masks / path.name).is_file()
    assert nothing_to_do(copy)


def test_a_missing_reference_catalogue_stops_before_any_job(copy):
    config = copy / "config" / "config.yaml"
    text = re.sub(
        r"^reference:.*$", "reference: nofile.csv", config.read_text(), flags=re.MULTILINE
    )
    config.write_text(text)
    done = skymill("run", "-d", copy)
    assert done.returncode == 2
    assert "nofile.csv" in done.stderr
    direct = snakemake(copy, "-n")
    assert "is not a file" in direct.stdout + direct.stderr


def test_another_path_to_the_same_raw_files_reruns_nothing(copy, night):
    (copy / "raw").symlink_to(night / "raw")
    config = copy / "config" / "config.yaml"
    config.write_text(re.sub(r"^raw:.*$", "raw: raw", config.read_text(), flags=re.MULTILINE))
    assert nothing_to_do(copy)
