"""E32: the search for a reference: who is asked, in which order, and what is relaxed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

import skymill
from skymill import io, references
from skymill.errors import Outcome, SkymillError
from skymill.frame import Frame
from skymill.jobs.tables import from_records
from skymill.reference_candidates import Candidate, candidate_of, footprint, project_candidates
from skymill.references import get_referenceframe, group_candidates
from skymill.sheet import empty_row, write_sheet
from skymill.wcsmath import linear_wcs, wcs_to_text

SHAPE = (60, 80)


def sky(ra, dec, scale=1.0, rotation=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [40.5, 30.5]
    c, s = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    wcs.wcs.set()
    return wcs


def candidate(name, *, shift=0.0, **changes):
    """A frame shifted by a part of its width."""
    outline = footprint(sky(150.0 + shift * 80 / 3600 / math.cos(math.radians(60)), 60.0), SHAPE)
    base = Candidate(
        name, "frame", Path(f"{name}.fits"), ("cam", "", "1x1"), "R", 60000.0, 60000.01, 2.0, 20.0,
        outline, frozenset((name,)),
    )  # fmt: skip
    return replace(base, **changes)


TARGET = candidate("target", mjd_begin=60010.0, mjd_end=60010.01)


@pytest.fixture
def search(monkeypatch):
    """The search on candidates alone: nothing is opened."""

    class Opened:
        def __init__(self, path):
            self.path, self.id, self.is_stack = Path(path), Path(path).stem, False

    monkeypatch.setattr(references, "OpenFrame", Opened)

    def run(*pool, target=TARGET, **options):
        found = get_referenceframe(Opened(target.path), [target, *pool], **options)
        return None if found is None else (found[0].id, found[1])

    return run


def test_only_the_same_filter_instrument_and_an_earlier_date(search):
    best, table = search(
        candidate("ok"),
        candidate("V", filter="V"),
        candidate("other", instrument=("other", "", "")),
        candidate("binned", instrument=("cam", "", "2x2")),
        candidate("later", mjd_begin=60011.0, mjd_end=60011.1),
        candidate("during", mjd_end=60010.005),
    )
    assert best == "ok" and list(table["id"]) == ["ok"]
    assert table.meta["target"] == "target"
    assert table.meta["left"] == {
        "candidates": 7,
        "filter and instrument": 3,
        "date": 1,
        "overlap": 1,
        "seeing and depth": 1,
    }


def test_nothing_left_is_none(search):
    assert search() is None
    assert search(candidate("far", shift=3.0)) is None
    assert search(candidate("blurred", seeing_arcsec=4.5)) is None


def test_dates_may_be_given_in_many_forms(search):
    late = candidate("late", mjd_begin=60020.0, mjd_end=60020.1)
    early = candidate("early", mjd_begin=59000.0, mjd_end=59000.1)
    for limit in (60021.0, "2023-03-20", Time(60021.0, format="mjd")):
        best, table = search(late, early, max_obsdate=limit, sort_key=["obsdate"])
        assert best == "late" and len(table) == 2
    _, table = search(late, early, max_obsdate=60021.0, min_obsdate="2023-01-01")
    assert list(table["id"]) == ["late"]
    with pytest.raises(SkymillError, match="no date"):
        search(late, max_obsdate="someday")


def test_overlap_is_the_part_of_the_target_that_is_covered(search):
    _, table = search(candidate("a", shift=0.3), candidate("b", shift=-0.45), candidate("c"))
    fractions = dict(zip(table["id"], table["fraction"], strict=True))
    assert fractions["a"] == pytest.approx(0.7, abs=2e-4)
    assert fractions["b"] == pytest.approx(0.55, abs=2e-4)
    assert fractions["c"] == pytest.approx(1.0)
    assert search(candidate("a", shift=0.6)) is None
    assert search(candidate("a", shift=0.6), overlap_threshold=0.3)[0] == "a"


def test_sort_keys_count_in_order_and_unknown_figures_come_last(search):
    pool = [
        candidate("deep", shift=0.2, depth_mag=22.0, seeing_arcsec=1.9),
        candidate("wide", depth_mag=20.5, seeing_arcsec=1.8),
        candidate("near", shift=0.003, depth_mag=21.0, seeing_arcsec=1.7),
    ]
    # 0.997 and 1.000 are the same fraction: depth decides.
    assert list(search(*pool)[1]["id"]) == ["near", "wide", "deep"]
    assert list(search(*pool, sort_key=["depth"])[1]["id"]) == ["deep", "near", "wide"]
    assert search(*pool, sort_key=["seeing", "depth"])[0] == "near"
    lost = candidate("lost", depth_mag=math.nan, seeing_arcsec=1.0)
    _, table = search(*pool, lost, sort_key=["depth"], relax=[(0.0, 0.0)])
    assert list(table["id"])[-1] == "lost"
    with pytest.raises(SkymillError, match="sort_key"):
        search(*pool, sort_key=["beauty"])


def test_conditions_are_relaxed_in_steps_and_the_step_is_recorded(search):
    sharp = candidate("sharp", seeing_arcsec=1.9, depth_mag=20.1)
    _, table = search(sharp, candidate("worse", seeing_arcsec=2.9))
    assert list(table["id"]) == ["sharp"]
    assert table["relaxed_seeing_arcsec"][0] == 0 and table["relaxed_depth_mag"][0] == 0
    _, table = search(candidate("worse", seeing_arcsec=2.9), candidate("shallow", depth_mag=18.5))
    assert list(table["id"]) == ["worse"]
    assert table["relaxed_seeing_arcsec"][0] == 1.0 and table["relaxed_depth_mag"][0] == 1.0
    _, table = search(candidate("shallow", depth_mag=18.5))
    assert table["relaxed_depth_mag"][0] == 2.0
    assert search(candidate("worse", seeing_arcsec=2.9), relax=[(0.0, 0.0)]) is None


def test_unknown_figures_count_in_the_last_step_only(search):
    lost = candidate("lost", depth_mag=math.nan)
    assert search(lost, candidate("poor", depth_mag=19.2))[0] == "poor"
    best, table = search(lost)
    assert best == "lost" and table["relaxed_depth_mag"][0] == 2.0
    blind = replace(TARGET, seeing_arcsec=math.nan, depth_mag=math.nan)
    _, table = search(candidate("any", seeing_arcsec=9.0, depth_mag=10.0), target=blind)
    assert table["relaxed_seeing_arcsec"][0] == 0


def test_members_of_a_group_cover_each_other():
    items = [candidate("a"), candidate("b", shift=0.1), candidate("c", shift=0.25)]
    assert group_candidates(items, 0.8) == [0, 0, 1]  # c covers b, but not a
    assert group_candidates(items, 0.7) == [0, 0, 0]
    small = replace(items[0], id="small", outline=footprint(sky(150.0, 60.0, scale=0.5), SHAPE))
    assert group_candidates([items[0], small], 0.8) == [0, 1]  # covered, but covers a quarter


def test_groups_may_be_left_out_and_own_light_is_told(search):
    stack = candidate("stack", kind="stack", frames=frozenset(("target", "x")))
    _, table = search(stack, candidate("ok"), return_groups=False)
    assert "group" not in table.colnames
    told = dict(zip(table["id"], table["contains_target"], strict=True))
    assert told == {"stack": True, "ok": False}
    assert "group" in search(stack)[1].colnames


def test_target_without_a_time_needs_a_date(search):
    timeless = replace(TARGET, mjd_begin=math.nan)
    with pytest.raises(SkymillError, match="max_obsdate"):
        search(candidate("a"), target=timeless)
    assert search(candidate("a"), target=timeless, max_obsdate=60001.0)[0] == "a"


# --- a project on the disk ------------------------------------------------------------


def pixels(wcs, **cards):
    header = fits.Header()
    for key, value in cards.items():
        header[key.replace("_", "-")] = value
    return Frame(np.ones(SHAPE), np.ones(SHAPE), np.zeros(SHAPE, np.uint16), header, wcs)


@pytest.fixture
def project(tmp_path):
    """Four frames of one target: three on the sky, one relative, and a stack of two."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("raw: raw\n")
    rows, results = [], tmp_path / "results"
    for n in range(4):
        rows.append(empty_row(
            frame_id=f"f{n}-0000000{n}", path=f"f{n}.fits", hdu=0, verdict="ok", kind="light",
            instrument="cam", target="T", filter="R", exptime_s=86.4, mjd_start=60000.0 + 0.01 * n,
            night="2023-02-24", nx=80, ny=60, binning="1x1", dark="not_needed",
        ))  # fmt: skip
    write_sheet(tmp_path / "config" / "frames.csv", rows)
    (block,) = skymill_plan(tmp_path).blocks.values()
    solved, fluxes = [], []
    for n, name in enumerate(block.frames):
        wcs = sky(10.0, 5.0 + 0.001 * n) if n < 3 else None
        io.write_frame(results / "calibrated" / block.id / f"{name}.fits", pixels(wcs), {})
        text = wcs_to_text(wcs) if wcs else wcs_to_text(linear_wcs(_identity()))
        how = "absolute" if wcs else "relative"
        solved.append({"frame_id": name, "solution": how, "wcs": text, "nx": 80, "ny": 60})
        fluxes.append({"frame_id": name, "fwhm_arcsec": 2.0 + 0.1 * n, "depth_mag": 20.0 - 0.1 * n})
    text, whole, real = ("U", None, ""), ("i8", None, ""), ("f8", None, "")
    columns = {"frame_id": text, "solution": text, "wcs": text, "nx": whole, "ny": whole}
    write(results / "astrometry" / f"{block.id}.parquet", solved, columns)
    columns = {"frame_id": text, "fwhm_arcsec": real, "depth_mag": real}
    write(results / "photcal" / f"{block.id}.parquet", fluxes, columns)
    (stack,) = skymill_plan(tmp_path).stacks.values()
    deep = pixels(sky(10.0, 5.0015), MJD_BEG=60000.0, MJD_END=60000.011, FWHM=2.05, INSTRUME="cam",
                  FILTER="R")  # fmt: skip
    io.write_frame(results / "stack" / f"{stack.id}.fits", deep, {})
    used = [Outcome(name, "stack", "ok") for name in block.frames[:2]]
    whole = Outcome(stack.id, "stack", "ok", numbers={"depth_mag": 20.4})
    io.write_outcomes(results / "outcomes" / "stack" / f"{stack.id}.csv", [*used, whole])
    return tmp_path, block, stack


def skymill_plan(folder):
    from skymill.plan import make_plan
    from skymill.settings import load_settings
    from skymill.sheet import read_sheet

    settings = load_settings(folder / "config" / "config.yaml")
    return make_plan(read_sheet(folder / "config" / "frames.csv"), settings)


def write(path, items, columns):
    io.write_table(path, from_records(items, columns, {}), {})


def _identity():
    from skymill.affine import Affine

    return Affine(np.eye(2), np.zeros(2))


def test_candidates_of_a_project_are_its_frames_and_stacks_on_the_sky(project):
    folder, block, stack = project
    found = {item.id: item for item in project_candidates(folder)}
    assert set(found) == {*block.frames[:3], stack.id}
    first, deep = found[block.frames[0]], found[stack.id]
    assert first.instrument == deep.instrument == ("cam", "", "1x1")
    assert first.filter == deep.filter == "R"
    assert first.mjd_end - first.mjd_begin == pytest.approx(0.001)
    assert deep.seeing_arcsec == pytest.approx(2.05, rel=1e-6) and deep.depth_mag == 20.4
    assert deep.frames == set(block.frames[:2])


def test_opened_frame_finds_its_reference_in_its_project(project):
    """E32 through `skymill.open(...)`: the earlier, deeper stack wins over single frames."""
    folder, block, stack = project
    path = folder / "results" / "calibrated" / block.id / f"{block.frames[2]}.fits"
    best, table = skymill.open(path).get_referenceframe()
    assert best.id == stack.id and best.is_stack
    # 1.8 arcsec of 60 apart: the stack covers 0.97, the second frame 0.94.
    assert list(table["id"]) == [stack.id, block.frames[1], block.frames[0]]
    assert list(table["contains_target"]) == [False] * 3
    assert skymill.open(path).get_referenceframe(max_obsdate=59000.0) is None
    only = [folder / "results" / "stack" / f"{stack.id}.fits"]
    assert skymill.open(path).get_referenceframe(only)[0].id == stack.id


def test_frame_without_sky_positions_has_no_overlap_to_tell(project):
    folder, block, _ = project
    path = folder / "results" / "calibrated" / block.id / f"{block.frames[3]}.fits"
    with pytest.raises(SkymillError, match="outline on the sky"):
        skymill.open(path).get_referenceframe()
    with pytest.raises(SkymillError):
        candidate_of(skymill.open(path))


def test_no_project_is_said():
    with pytest.raises(SkymillError, match="holds no project"):
        project_candidates("nowhere")
