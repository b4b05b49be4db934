"""The plan groups and matches as the settings say, and nothing falls out of it."""

import itertools
import random

import pytest

from skymill.errors import ConfigError
from skymill.plan import make_plan
from skymill.settings import validate_settings

_NUMBER = itertools.count()


def row(kind, *, night="2026-01-10", hour=20.0, **changes):
    number = next(_NUMBER)
    day = 61000 + int(night[-2:])
    base = {
        "frame_id": f"{kind}{number}-{number:08x}",
        "path": f"{kind}{number}.fits",
        "hdu": 0,
        "sha256": f"{number:064x}",
        "verdict": "ok",
        "code": "",
        "message": "",
        "kind": kind,
        "instrument": "cam",
        "detector": "",
        "mode": "",
        "target": "M31" if kind == "light" else "",
        "filter": "R" if kind in ("light", "flat") else "",
        "exptime_s": {"bias": 0.0, "dark": 60.0, "flat": 5.0}.get(kind, 60.0),
        "mjd_start": day + hour / 24 + number * 1e-4,
        "night": night,
        "binning": "1x1",
        "nx": 100,
        "ny": 100,
        "datasec": "[1:100,1:100]",
        "gain_setting": "",
        "offset_setting": "",
        "temperature_c": -10.0,
        "ra_deg": None,
        "dec_deg": None,
        "dark": "needed",
        "channel": "",
        "area": "",
        "use_bias": "",
        "use_dark": "",
        "use_flat": "",
    }
    return base | changes


def night(name="2026-01-10", n=3, **changes):
    return [row(kind, night=name, **changes) for kind in ("bias", "dark", "flat") for _ in range(n)]


def plan(rows, **tree):
    return make_plan(rows, validate_settings({"raw": "raw", **tree}))


def only(mapping):
    (value,) = mapping.values()
    return value


def test_a_simple_night_makes_one_of_everything():
    todo = plan([*night(), row("light"), row("light")])
    block = only(todo.blocks)
    assert len(block.frames) == 2
    assert {m.kind for m in todo.masters.values()} == {"bias", "dark", "flat"}
    assert all(name in todo.masters for name in (block.bias, block.dark, block.flat))
    assert block.missing == {}
    assert only(todo.stacks).blocks == (block.id,)
    assert only(todo.fields).stacks == tuple(todo.stacks)
    assert todo.outcomes == ()


def test_order_of_the_rows_does_not_matter():
    rows = [*night(), *night("2026-01-11"), *[row("light") for _ in range(5)]]
    shuffled = rows.copy()
    random.Random(3).shuffle(shuffled)
    one, two = plan(rows), plan(shuffled)
    assert one.blocks == two.blocks
    assert one.masters == two.masters
    assert one.stacks == two.stacks


def test_another_night_leaves_the_identifiers_of_the_first_alone():
    rows = [
        *night(),
        row("light"),
        row("light", filter="V"),
        *[row("flat", filter="V") for _ in range(3)],
    ]
    more = [*rows, *night("2026-01-12"), row("light", night="2026-01-12")]
    assert set(plan(rows).blocks) <= set(plan(more).blocks)
    assert set(plan(rows).masters) <= set(plan(more).masters)


def test_a_missing_flat_is_said_with_what_is_there():
    todo = plan([*night(), row("light", filter="V")])
    assert only(todo.blocks).flat == ""
    assert "no flat in filter V within 3 nights, only in ['R']" in only(todo.blocks).missing["flat"]


def test_masters_that_no_light_needs_are_made_unless_told_otherwise():
    rows = [*night(), *[row("flat", filter="V") for _ in range(3)], row("light")]
    assert len(plan(rows).masters) == 4
    needed = plan(rows, plan={"masters": "needed"})
    assert len(needed.masters) == 3
    assert {o.code for o in needed.outcomes} == {"UNUSED_CALIBRATION"}


def test_calibrations_alone_make_masters():
    todo = plan(night())
    assert len(todo.masters) == 3
    assert not todo.blocks


def test_flats_of_a_filter_that_no_light_needs_are_not_made():
    decoy = row("flat", filter="V")
    todo = plan([*night(), decoy, row("light")])
    (outcome,) = todo.outcomes
    assert (outcome.frame_id, outcome.status, outcome.code) == (
        decoy["frame_id"],
        "off",
        "UNUSED_CALIBRATION",
    )


def test_calibration_of_another_size_is_rejected_with_both_sizes():
    small = row("flat", nx=32, ny=32)
    (outcome,) = plan([*night(), small, row("light")]).outcomes
    assert (outcome.status, outcome.code) == ("rejected", "WRONG_SIZE")
    assert "32x32" in outcome.message
    assert "100x100" in outcome.message


def test_too_few_frames_make_no_master_and_are_told():
    rows = [*night(), row("light", night="2026-01-10")]
    rows = [r for r in rows if r["kind"] != "flat"] + [row("flat")]
    todo = plan(rows)
    assert only(todo.blocks).flat == ""
    (outcome,) = todo.outcomes
    assert outcome.code == "TOO_FEW"
    assert "master_flat.minimum" in outcome.message


def test_nearest_night_wins_and_the_earlier_one_of_two():
    rows = [*night("2026-01-09"), *night("2026-01-11"), row("light")]
    assert "2026-01-09" in only(plan(rows).blocks).bias
    rows = [*night("2026-01-08"), *night("2026-01-11"), row("light")]
    assert "2026-01-11" in only(plan(rows).blocks).bias


def test_the_window_is_never_exceeded():
    block = only(plan([*night("2026-01-01"), row("light")]).blocks)
    assert block.bias == ""
    assert "no bias within 3 nights" in block.missing["bias"]
    assert "9 nights away, at most 3" in block.choices["bias"].note


@pytest.mark.parametrize(
    ("darks", "light", "chosen"),
    [([60, 120], 60, 60), ([60, 120], 90, 120), ([120, 300], 60, 120), ([30], 60, None)],
)
def test_darks_are_exact_or_scaled_down(darks, light, chosen):
    rows = [r for r in night() if r["kind"] != "dark"]
    rows += [row("dark", exptime_s=float(t)) for t in darks for _ in range(3)]
    todo = plan([*rows, row("light", exptime_s=float(light))])
    block = only(todo.blocks)
    if chosen is None:
        reason = "no dark of 60 s or longer than 60 s, only of [30.0] s"
        assert reason in block.missing["dark"]
    else:
        assert todo.masters[block.dark].key["exptime_s"] == chosen


def test_warm_darks_are_not_used():
    rows = [r | {"temperature_c": 0.0} if r["kind"] == "dark" else r for r in night()]
    block = only(plan([*rows, row("light")]).blocks)
    assert block.dark == ""
    assert "no dark within 2 K of -10 C" in block.missing["dark"]


def test_instrument_without_dark_current_says_so():
    block = only(plan([*night(), row("light", dark="not_needed")]).blocks)
    assert block.missing == {"dark": "this instrument needs no dark"}


def test_blocks_are_cut_to_size_and_hold_every_frame_once():
    lights = [row("light") for _ in range(25)]
    todo = plan([*night(), *lights], plan={"block_max_frames": 10})
    sizes = [len(block.frames) for block in todo.blocks.values()]
    assert sizes == [10, 10, 5]
    seen = [frame for block in todo.blocks.values() for frame in block.frames]
    assert sorted(seen) == sorted(r["frame_id"] for r in lights)


def test_blocks_of_small_frames_hold_more_of_them():
    def sizes(n, side):
        frame = {"nx": side, "ny": side, "datasec": f"[1:{side},1:{side}]"}
        lights = [row("light", **frame) for _ in range(n)]
        return [len(block.frames) for block in plan([*night(), *lights]).blocks.values()]

    assert sizes(90, 4096) == [40, 40, 10]
    assert sizes(90, 2048) == [40, 40, 10]
    assert sizes(170, 1024) == [160, 10]
    assert sizes(300, 500) == [250, 50]


def test_pointings_apart_are_fields_apart_across_zero_hours():
    lights = [row("light", ra_deg=ra, dec_deg=0.0) for ra in (359.95, 0.05, 1.0)]
    todo = plan([*night(), *lights])
    assert sorted(
        sum(len(todo.blocks[b].frames) for b in f.blocks) for f in todo.fields.values()
    ) == [1, 2]


def test_epoch_night_makes_a_stack_a_night_beside_that_of_all():
    rows = [*night(), *night("2026-01-11"), row("light"), row("light", night="2026-01-11")]
    assert len(plan(rows).stacks) == 1
    stacks = plan(rows, plan={"epoch": "night"}).stacks.values()
    assert sorted(s.epoch for s in stacks) == ["2026-01-10", "2026-01-11", "all"]


def test_rejected_rows_are_left_out():
    bad = row("light", verdict="rejected")
    todo = plan([*night(), row("light"), bad])
    assert bad["frame_id"] not in only(todo.blocks).frames


def test_a_group_for_every_frame_is_taken_for_a_mistake():
    lights = [row("light", target=f"t{n}") for n in range(20)]
    with pytest.raises(ConfigError, match="TOO_MANY_GROUPS: 20 blocks, at most 10"):
        plan([*night(), *lights], plan={"max_groups": 10})


def test_every_calibration_frame_is_used_or_explained():
    rows = [
        *night(),
        *night("2026-01-20"),
        row("flat", filter="V"),
        row("dark", nx=50),
        row("light"),
    ]
    todo = plan(rows)
    used = {frame for master in todo.masters.values() for frame in master.frames}
    explained = {outcome.frame_id for outcome in todo.outcomes}
    calibrations = {r["frame_id"] for r in rows if r["kind"] != "light"}
    assert used | explained == calibrations
    assert not used & explained


def test_identifiers_are_safe_in_paths():
    rows = [*night(), row("light", target="x" * 200)]
    todo = plan(rows)
    for name in [*todo.masters, *todo.blocks, *todo.stacks, *todo.fields]:
        assert len(name) < 120
        assert not set(name) - set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-"
        )


def test_darks_that_scatter_about_a_round_temperature_are_one_group():
    rows = [r for r in night() if r["kind"] != "dark"]
    rows += [row("dark", temperature_c=t) for t in (-10.1, -10.0, -9.9, -10.1, -10.0)]
    lights = [row("light", temperature_c=t) for t in (-9.9, -10.1)]
    todo = plan([*rows, *lights])
    assert len(only(todo.blocks).frames) == 2
    assert len(todo.masters[only(todo.blocks).dark].frames) == 5


def test_an_exact_dark_of_another_month_does_not_hide_a_longer_one_of_the_night():
    rows = [r for r in night() if r["kind"] != "dark"]
    rows += [row("dark", exptime_s=60.0, night="2026-01-29") for _ in range(3)]
    rows += [row("dark", exptime_s=120.0) for _ in range(3)]
    todo = plan([*rows, row("light")])
    assert todo.masters[only(todo.blocks).dark].key["exptime_s"] == 120.0


def test_flats_of_a_ramp_take_the_dark_of_the_longest():
    rows = [r for r in night() if r["kind"] == "bias"]
    rows += [row("dark", exptime_s=t) for t in (1.0, 60.0) for _ in range(3)]
    rows += [row("flat", exptime_s=t) for t in (1.0, 5.0, 40.0)]
    todo = plan([*rows, row("light")])
    flat = todo.masters[only(todo.blocks).flat]
    assert todo.masters[flat.dark].key["exptime_s"] == 60.0


def test_an_earlier_night_of_another_pointing_leaves_field_names_alone():
    def light(ra, name):
        return row("light", ra_deg=ra, dec_deg=10.0, night=name)

    rows = [*night("2026-01-12"), light(50.0, "2026-01-12"), light(55.0, "2026-01-12")]
    more = [*rows, *night("2026-01-10"), light(55.0, "2026-01-10")]
    before, after = plan(rows), plan(more)
    assert set(before.fields) == set(after.fields)
    assert set(before.blocks) <= set(after.blocks)


def test_a_frame_without_pointing_does_not_join_two_fields():
    lights = [row("light", ra_deg=ra, dec_deg=0.0) for ra in (20.0, 30.0)]
    todo = plan([*night(), row("light", hour=1.0), *lights])
    assert len(todo.fields) == 2
