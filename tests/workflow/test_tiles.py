"""Stacks on tiles of the sky and on given grids, through the workflow."""

from __future__ import annotations

import numpy as np

from skymill.io import read_frame, read_outcomes, read_table
from skymill.plan import make_plan
from skymill.settings import load_settings
from skymill.sheet import read_sheet
from skymill.tiles import TileScheme, tile_wcs

from .conftest import snakemake
from .test_workflow import planned

#: The frames of the night are 3 arcmin wide, tiles 8.
SCHEME = TileScheme.of(0.9, 512, 16)
TILES = """
plan:
  tiles: {enabled: true, scale_arcsec: 0.9, size_px: 512, overlap_px: 16}
"""
GRID = """
stack:
  grid: {fields: {%s: {file: grid.txt}}}
"""


def plan_of(folder):
    settings = load_settings(folder / "config" / "config.yaml")
    return make_plan(read_sheet(folder / "config" / "frames.csv"), settings)


def append(folder, text):
    config = folder / "config" / "config.yaml"
    config.write_text(config.read_text() + text)


def usable(folder, stack):
    told = read_outcomes(folder / f"results/outcomes/stack/{stack}.csv")
    return any(o.frame_id == stack and o.usable for o in told)


def test_tile_stacks_have_exactly_the_grid_of_their_tile(copy):
    fields = {s.id for s in plan_of(copy).stacks.values()}
    append(copy, TILES)
    stacks = {s.id: s for s in plan_of(copy).stacks.values() if s.tile}
    assert stacks and fields.isdisjoint(stacks)
    wanted = [f"results/outcomes/catalog/{name}.csv" for name in stacks]
    done = snakemake(copy, *wanted)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    counts = planned(done.stdout + done.stderr)
    assert counts["stack"] == counts["catalog"] == len(stacks)
    assert "calibrate" not in counts
    filled = 0
    for name, stack in stacks.items():
        told = {o.frame_id: o for o in read_outcomes(copy / f"results/outcomes/stack/{name}.csv")}
        if not told.pop(name).usable:
            # The header put its frames nearer than they are.
            assert {o.code for o in told.values()} <= {"NO_OVERLAP", "UPSTREAM_BLOCKED"}
            continue
        frame = read_frame(copy / f"results/stack/{name}.fits")
        wcs, shape = tile_wcs(stack.tile)
        assert frame.shape == shape
        corners = np.array([[0.0, 0.0], [511.0, 0.0], [511.0, 511.0], [0.0, 511.0]])
        np.testing.assert_allclose(
            frame.wcs.all_pix2world(corners, 0), wcs.all_pix2world(corners, 0), atol=1e-9
        )
        filled += int(np.isfinite(frame.sci).any())
        sources = read_table(copy / f"results/catalog/{name}.parquet")
        for source in sources[:5]:
            x, y = wcs.all_world2pix(float(source["ra"]), float(source["dec"]), 0)
            assert -1 < x < 512 and -1 < y < 512
    assert filled >= 1
    again = snakemake(copy, "-n", *wanted)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_given_grid_is_taken_and_a_changed_file_reruns_its_field_only(copy):
    plan = plan_of(copy)
    (stack, *_) = (s for s in plan.stacks.values() if usable(copy, s.id))
    target = plan.fields[stack.field].target
    centre = read_frame(copy / f"results/stack/{stack.id}.fits").wcs.wcs.crval
    tile = SCHEME.tile_of(*centre)
    wcs, _ = tile_wcs(tile.id)
    wcs.wcs.crval, wcs.wcs.crpix = centre, [75.5, 60.5]
    header = wcs.to_header()
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, 150, 120
    (copy / "grid.txt").write_text(header.tostring(sep="\n", padding=False) + "\n")
    append(copy, GRID % target)
    product = f"results/stack/{stack.id}.fits"
    done = snakemake(copy, product)
    assert done.returncode == 0, done.stderr[-3000:]
    frame = read_frame(copy / product)
    assert frame.shape == (120, 150)
    origins = [str(v) for k, v in frame.header.items() if k.startswith("SMI")]
    assert any(text.startswith("grid/grid.txt ") for text in origins)
    assert "Nothing to be done" in snakemake(copy, "-n", product).stdout
    header["NAXIS1"] = 140
    (copy / "grid.txt").write_text(header.tostring(sep="\n", padding=False) + "\n")
    dry = snakemake(copy, "-n", *(f"results/stack/{s}.fits" for s in plan.stacks))
    counts = planned(dry.stdout + dry.stderr)
    same_target = [s for s in plan.stacks.values() if plan.fields[s.field].target == target]
    assert counts == {"stack": len(same_target)}
