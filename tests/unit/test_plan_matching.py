"""The right master for each frame: policy, pooling, and masters named in the sheet.

Rows of the reference: A27 and E26 (matching), E27 to E29 (what is grouped), E30 and E31
(records of what was used).
"""

import time

import pytest

from skymill.errors import ConfigError
from skymill.plan import make_plan
from skymill.plan.match import holds
from skymill.settings import validate_settings

from .test_plan import night, only, plan, row


def match(rows, **policy):
    return plan(rows, plan={"match": policy})


def without(kind, rows):
    return [r for r in rows if r["kind"] != kind]


def darks(*exposures, n=3, **changes):
    return [row("dark", exptime_s=float(t), **changes) for t in exposures for _ in range(n)]


# --- what must be equal ---


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("instrument", "other"),
        ("detector", "N2"),
        ("channel", "R[0::2,0::2]"),
        ("mode", "fast"),
        ("binning", "2x2"),
        ("datasec", "[11:100,1:100]"),
        ("gain_setting", 120.0),
        ("offset_setting", 30.0),
        ("nx", 50),
    ],
)
def test_h132_h134_h218_masters_of_another_readout_are_not_used(column, value):
    """E26, E27."""
    todo = plan([*night(**{column: value}), row("light")])
    block = only(todo.blocks)
    assert (block.bias, block.dark, block.flat) == ("", "", "")
    assert f"{column} ({value}, not" in block.missing["bias"]


def test_h132_a_column_left_out_of_the_keys_is_not_compared():
    rows = [*night(gain_setting=120.0), row("light", gain_setting=100.0)]
    keys = ["instrument", "detector", "channel", "mode", "binning", "datasec", "offset_setting"]
    todo = match(rows, keys=keys)
    assert only(todo.blocks).missing == {}
    assert set(todo.masters) == set(plan(night(gain_setting=120.0)).masters)


def test_channels_of_a_mosaic_never_calibrate_each_other_but_share_a_field():
    """A19, A27."""
    rows = night(channel="R[0::2,0::2]") + night(channel="B[1::2,1::2]", filter="B")
    lights = [
        row("light", channel="R[0::2,0::2]"),
        row("light", channel="B[1::2,1::2]", filter="B"),
    ]
    todo = plan([*rows, *lights])
    assert len(todo.fields) == 1
    for block in todo.blocks.values():
        channel = todo.rows[block.frames[0]]["channel"]
        for name in (block.bias, block.dark, block.flat):
            assert todo.masters[name].key["channel"] == channel


def test_h135_a_window_takes_masters_that_hold_it():
    window = {"nx": 50, "ny": 40, "datasec": "[1:50,1:40]", "area": "[11:60,21:60]"}
    rows = [*night(area="[1:100,1:100]"), row("light", **window)]
    block = only(plan(rows).blocks)
    assert block.missing == {}
    assert block.choices["bias"].rule == "cropped"
    assert plan(rows).outcomes == ()
    strict = only(match(rows, area="equal").blocks)
    assert strict.bias == ""
    assert "nx (100, not 50)" in strict.missing["bias"]


def test_h135_masters_of_the_window_itself_come_first():
    window = {"nx": 50, "ny": 40, "datasec": "[1:50,1:40]", "area": "[11:60,21:60]"}
    rows = [*night(area="[1:100,1:100]"), *night("2026-01-12", **window)]
    block = only(plan([*rows, row("light", **window)]).blocks)
    assert "2026-01-12" in block.bias
    assert block.choices["bias"].rule == "nearest"


def test_h135_a_cropped_dark_that_is_shorter_says_that_it_is_scaled_up():
    """The rule `cropped` hid `shorter`, and the job then refused the dark that was planned."""
    window = {"nx": 50, "ny": 40, "datasec": "[1:50,1:40]", "area": "[11:60,21:60]"}
    rows = [*night(area="[1:100,1:100]"), row("light", **window, exptime_s=10_000.0)]
    block = only(match(rows, dark_exposure=["exact", "longer", "shorter"]).blocks)
    assert block.dark
    assert block.choices["dark"].rule == "shorter"


def test_h135_a_window_elsewhere_on_the_detector_does_not_fit():
    there = night(area="[1:100,1:100]")
    block = only(plan([*there, row("light", area="[101:200,1:100]")]).blocks)
    assert block.bias == ""
    assert "area ([1:100,1:100], not [101:200,1:100])" in block.missing["bias"]


def test_an_unknown_area_is_like_any_of_its_size():
    assert only(plan([*night(area="[1:100,1:100]"), row("light")]).blocks).missing == {}


def test_holds_takes_areas_that_are_stored_backwards():
    assert holds("[100:1,1:100]", "[60:11,20:30]")
    assert not holds("[1:100,1:100]", "[60:101,20:30]")
    assert not holds("", "[1:2,1:2]")


def test_masters_are_not_corrected_with_cropped_masters():
    window = {"nx": 50, "ny": 40, "datasec": "[1:50,1:40]", "area": "[11:60,21:60]"}
    rows = [*without("flat", night(area="[1:100,1:100]"))]
    flats = [row("flat", **window) for _ in range(3)]
    todo = plan([*rows, *flats, row("light", **window)])
    assert todo.masters[only(todo.blocks).flat].bias == ""


# --- which of those that fit ---


@pytest.mark.parametrize(
    ("prefer", "nights", "chosen", "age"),
    [
        ("nearest", ("2026-01-08", "2026-01-11"), "2026-01-11", -1),
        ("before", ("2026-01-08", "2026-01-11"), "2026-01-08", 2),
        ("before", ("2026-01-12", "2026-01-11"), "2026-01-11", -1),
        ("after", ("2026-01-09", "2026-01-13"), "2026-01-13", -3),
        ("after", ("2026-01-09", "2026-01-10"), "2026-01-10", 0),
        ("nearest", ("2026-01-09", "2026-01-11"), "2026-01-09", 1),
    ],
)
def test_h221_nearest_before_or_after_and_the_age_is_told(prefer, nights, chosen, age):
    """A27, E26."""
    rows = [r for name in nights for r in night(name)]
    block = only(match([*rows, row("light")], prefer=prefer).blocks)
    assert chosen in block.bias
    assert block.choices["bias"].age == age
    assert len(block.choices["bias"].alternatives) == 1


def test_h221_of_two_nights_as_near_the_one_with_more_frames_if_told():
    rows = [*night("2026-01-09"), *night("2026-01-11", n=5), row("light")]
    assert "2026-01-09" in only(plan(rows).blocks).bias
    assert "2026-01-11" in only(match(rows, ties="more_frames").blocks).bias


def test_h221_each_kind_has_its_own_window():
    """A27, E26."""
    rows = [*night("2026-01-05"), row("light")]
    block = only(plan(rows).blocks)
    assert (bool(block.bias), bool(block.dark), bool(block.flat)) == (False, True, False)
    wide = only(match(rows, window_nights={"bias": 5, "flat": 5}).blocks)
    assert wide.missing == {}
    assert wide.choices["flat"].age == 5


def test_a_window_of_zero_is_the_same_night():
    rows = [*night("2026-01-11"), row("light")]
    block = only(match(rows, window_nights={"bias": 0}).blocks)
    assert "no bias of the same night" in block.missing["bias"]


def test_h222_another_filter_is_never_used():
    """E26, E29."""
    for name in ("V", ""):
        block = only(plan([*night(), row("light", filter=name)]).blocks)
        assert block.flat == ""
        assert "only in ['R']" in block.missing["flat"]


def test_h216_what_is_missing_and_what_is_there_is_said():
    lights = [row("light")]
    bare = only(plan(lights).blocks)
    for kind in ("bias", "dark", "flat"):
        assert f"no {kind} within" in bare.missing[kind]
        assert f"plan.match.window_nights.{kind}" in bare.missing[kind]


# --- darks: exposure and temperature ---


@pytest.mark.parametrize(
    ("rules", "there", "chosen", "rule"),
    [
        (["exact", "longer"], (30, 60, 300), 60, "exact"),
        (["exact", "longer"], (30, 120, 300), 120, "longer"),
        (["exact", "longer", "shorter"], (10, 30), 30, "shorter"),
        (["shorter", "longer"], (10, 30, 300), 30, "shorter"),
        (["exact", "longer", "bias_only"], (10, 30), None, "bias_only"),
        (["bias_only"], (60,), None, "bias_only"),
        (["exact"], (120,), None, ""),
    ],
)
def test_h219_darks_by_exposure_in_the_order_of_the_settings(rules, there, chosen, rule):
    """E26."""
    rows = [*without("dark", night()), *darks(*there), row("light")]
    todo = match(rows, dark_exposure=rules)
    choice = only(todo.blocks).choices["dark"]
    assert choice.rule == rule
    assert (todo.masters[choice.master].key["exptime_s"] if choice.master else None) == chosen


def test_h220_a_dark_too_warm_is_refused_or_flagged():
    rows = [*without("dark", night()), *darks(60, temperature_c=0.0), row("light")]
    block = only(plan(rows).blocks)
    assert block.dark == ""
    assert "no dark within 2 K of -10 C, only at [0.0]" in block.missing["dark"]
    choice = only(match(rows, temperature="degrade").blocks).choices["dark"]
    assert choice.master
    assert choice.flag[0] == "DARK_TEMP"
    assert "10 K away" in choice.flag[1]
    choice = only(match(rows, temperature="ignore").blocks).choices["dark"]
    assert choice.master
    assert choice.flag == ()


def test_h220_the_dark_nearest_in_temperature_wins_where_none_is_right():
    rows = without("dark", night())
    rows += darks(60, temperature_c=0.0) + darks(60, temperature_c=-5.0)
    todo = match([*rows, row("light")], temperature="degrade")
    assert todo.masters[only(todo.blocks).dark].key["temperature_c"] == -5.0


def test_h133_lights_of_two_temperatures_take_their_own_darks():
    rows = without("dark", night())
    rows += darks(60, temperature_c=-10.0) + darks(60, temperature_c=-20.0)
    lights = [row("light", temperature_c=t) for t in (-10.0, -9.7, -20.0, -20.3)]
    todo = plan([*rows, *lights])
    assert sorted(len(block.frames) for block in todo.blocks.values()) == [2, 2]
    for block in todo.blocks.values():
        there = todo.masters[block.dark].key["temperature_c"]
        assert all(abs(todo.rows[f]["temperature_c"] - there) < 1 for f in block.frames)


def test_e29_flats_take_darks_of_flats_first_then_darks_then_the_bias_alone():
    flat_darks = [row("flat_dark", exptime_s=5.0) for _ in range(3)]
    for extra, kind in ((flat_darks, "flat_dark"), ([], "dark")):
        todo = plan([*night(), *extra, row("light")])
        flat = todo.masters[only(todo.blocks).flat]
        assert todo.masters[flat.dark].kind == kind
    todo = plan([*without("dark", night()), row("light")])
    flat = todo.masters[only(todo.blocks).flat]
    assert (flat.dark, bool(flat.bias)) == ("", True)


def test_h225_no_master_is_corrected_with_one_of_its_own_frames():
    """E30."""
    flat_darks = [row("flat_dark", exptime_s=5.0) for _ in range(3)]
    todo = plan([*night(), *flat_darks, *night("2026-01-11"), row("light")])

    def frames(name):
        master = todo.masters[name]
        used = set(master.frames)
        for parent in (master.bias, master.dark):
            if parent:
                below = frames(parent)
                assert not below & set(master.frames)
                used |= below
        return used

    for name in todo.masters:
        assert frames(name)


# --- pooling ---


def test_h217_a_night_with_too_few_frames_is_pooled_with_its_neighbours():
    rows = [row("bias", night=f"2026-01-{day}") for day in ("08", "09", "10", "10")]
    todo = plan([*without("bias", night()), *rows, row("light")])
    master = todo.masters[only(todo.blocks).bias]
    assert master.nights == ("2026-01-09", "2026-01-10")
    assert set(master.frames) == {r["frame_id"] for r in rows[1:]}
    assert "2nights" in master.id
    assert only(todo.blocks).choices["bias"].age == 0


def test_h217_pooling_can_be_switched_off():
    rows = [row("bias", night=f"2026-01-{day}") for day in ("09", "10", "10")]
    rows = [*without("bias", night()), *rows, row("light")]
    todo = match(rows, pool_nights={"bias": 0})
    assert only(todo.blocks).bias == ""
    assert {o.code for o in todo.outcomes} == {"TOO_FEW"}
    assert all("plan.match.pool_nights.bias" in o.message for o in todo.outcomes)


def test_a_neighbour_with_enough_frames_is_taken_instead_of_pooling():
    rows = [*without("bias", night()), row("bias")]
    rows += [row("bias", night="2026-01-11") for _ in range(3)]
    todo = plan([*rows, row("light")])
    assert todo.masters[only(todo.blocks).bias].nights == ("2026-01-11",)


def test_nights_that_need_each_other_share_one_master():
    rows = [row("bias", night=f"2026-01-{day}") for day in ("10", "10", "11", "11")]
    lights = [row("light"), row("light", night="2026-01-11")]
    todo = plan([*rows, *lights])
    (master,) = todo.masters.values()
    assert {block.bias for block in todo.blocks.values()} == {master.id}


def test_a_frame_may_serve_several_pooled_masters():
    rows = [row("bias", night=f"2026-01-{day}") for day in ("10", "10", "12", "14", "14")]
    lights = [row("light"), row("light", night="2026-01-14")]
    todo = plan([*rows, *lights])
    middle = rows[2]["frame_id"]
    assert sum(middle in master.frames for master in todo.masters.values()) == 2


@pytest.mark.parametrize("column", ["mode", "gain_setting", "nx"])
def test_h217_other_modes_are_never_pooled(column):
    values = {"mode": "fast", "gain_setting": 5.0, "nx": 50}
    rows = [row("bias"), row("bias")]
    rows += [row("bias", night="2026-01-11", **{column: values[column]}) for _ in range(2)]
    assert only(plan([*rows, row("light")]).blocks).bias == ""


def test_darks_of_another_exposure_or_temperature_are_not_pooled():
    rows = [*without("dark", night()), *darks(60, n=2)]
    odd = darks(61, n=2, night="2026-01-11") + darks(60, n=2, night="2026-01-11", temperature_c=0.0)
    assert only(plan([*rows, *odd, row("light")]).blocks).dark == ""
    good = darks(60, n=1, night="2026-01-12", temperature_c=-9.5)
    todo = plan([*rows, *odd, *good, row("light")])
    assert todo.masters[only(todo.blocks).dark].nights == ("2026-01-10", "2026-01-12")


def test_h243_another_night_changes_only_what_it_serves():
    rows = [*without("bias", night()), row("light")]
    rows += [row("bias", night=f"2026-01-{day}") for day in ("09", "10", "10")]
    before = plan(rows)
    more = [row("bias", night="2026-01-11") for _ in range(2)]
    after = plan([*rows, *more, *night("2026-01-20"), row("light", night="2026-01-20")])
    assert set(before.masters) <= set(after.masters)
    for name, block in before.blocks.items():
        mine, its = after.blocks[name], block
        assert (mine.bias, mine.missing) == (its.bias, its.missing)
        for kind in mine.choices:
            assert mine.choices[kind].for_job() == its.choices[kind].for_job()


def test_h243_the_reason_of_a_block_does_not_know_nights_beyond_its_window():
    rows = [*night(), row("light", filter="V")]
    far = [*night("2026-01-29"), *[row("flat", night="2026-01-20", filter="B") for _ in range(3)]]
    assert only(plan(rows).blocks).missing == only(plan([*rows, *far]).blocks).missing


# --- masters named in the sheet ---


def test_use_none_means_that_none_is_missing():
    todo = plan([*night(), row("light", use_flat="none", use_dark="none")])
    block = only(todo.blocks)
    assert (block.dark, block.flat) == ("", "")
    assert block.choices["flat"].rule == "none"
    assert block.bias


def test_use_of_a_planned_master_overrides_the_policy():
    rows = [*night(), *night("2026-01-20"), row("light")]
    far = next(m.id for m in plan(rows).masters.values() if m.id.startswith("bias-cam-2026-01-20"))
    rows[-1] = rows[-1] | {"use_bias": far}
    todo = plan(rows)
    block = only(todo.blocks)
    assert block.bias == far
    assert (block.choices["bias"].age, block.choices["bias"].rule) == (-10, "assigned")


def test_frames_with_other_masters_are_other_blocks():
    lights = [row("light"), row("light"), row("light", use_flat="none")]
    alone = set(plan([*night(), *lights[:2]]).blocks)
    todo = plan([*night(), *lights])
    assert sorted(len(block.frames) for block in todo.blocks.values()) == [1, 2]
    assert alone < set(todo.blocks)


def test_use_of_a_file(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "flat.fits").write_bytes(b"x")
    rows = [*night(), row("light", use_flat="mine/flat.fits")]
    todo = make_plan(rows, validate_settings({"raw": "raw"}), tmp_path)
    block = only(todo.blocks)
    assert block.flat == "mine/flat.fits"
    assert block.choices["flat"].age is None
    assert "mine/flat.fits" not in todo.masters


@pytest.mark.parametrize("use", ["mine/gone.fits", "bias-cam-2026-01-10-00000000"])
def test_h245_use_of_what_does_not_exist_names_the_frame(use, tmp_path):
    light = row("light", use_bias=use)
    with pytest.raises(ConfigError, match=f"{light['frame_id']}.*use_bias = '{use}'") as error:
        make_plan([*night(), light], validate_settings({"raw": "raw"}), tmp_path)
    assert "did you mean bias-cam-2026-01-10-" in str(error.value) or "gone" in use


def test_use_of_a_master_of_another_kind_is_an_error(tmp_path):
    rows = night()
    bias = next(m.id for m in plan(rows).masters.values() if m.kind == "bias")
    with pytest.raises(ConfigError, match="nor a master flat of the plan"):
        make_plan([*rows, row("light", use_flat=bias)], validate_settings({"raw": "r"}), tmp_path)


def test_flats_without_dark_by_the_sheet_are_a_master_of_their_own():
    rows = [*night(), *[row("flat", use_dark="none", night="2026-01-11") for _ in range(3)]]
    todo = plan([*rows, row("light")])
    flats = sorted((m for m in todo.masters.values() if m.kind == "flat"), key=lambda m: m.id)
    assert [bool(m.dark) for m in flats] == [True, False]
    assert flats[1].choices["dark"].rule == "none"


# --- large ---


def test_a_plan_of_many_nights_is_quick():
    rows = []
    for day in range(1, 29):
        name = f"2026-01-{day:02d}"
        rows += night(name, n=5)
        rows += [row("light", night=name, filter="R") for _ in range(60)]
        rows += [row("light", night=name, filter="V") for _ in range(60)]
    start = time.process_time()
    todo = plan(rows)
    # 0.9 s for 10^5 frames on a slow core: 4000 frames in a tenth of what is allowed here.
    assert time.process_time() - start < 1.0
    assert len(todo.blocks) == 28 * 2  # sixty small frames are one block
