"""Stacks of fields, epochs and tiles: which blocks go into which."""

from skymill.plan.stacks import window_of
from skymill.tiles import TileScheme, parse_tile

from .test_plan import night, only, plan, row

TILES = {"tiles": {"enabled": True, "scale_arcsec": 1.0, "size_px": 2048, "overlap_px": 64}}
SCHEME = TileScheme.of(1.0, 2048, 64)


def corners(ra, dec, half=0.05):
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return ";".join(f"{(ra + a * half) % 360:.5f} {dec + b * half:.5f}" for a, b in signs)


def light(ra, dec, **changes):
    return row("light", ra_deg=ra, dec_deg=dec, corners=corners(ra, dec), **changes)


#: A tile, and what lies in its middle touches no other.
TILE = SCHEME.tile(177, 300)


def tiles_of(todo):
    return {s.tile: s for s in todo.stacks.values() if s.tile}


def test_windows_begin_at_fixed_dates():
    # 2026-01-08 is MJD 61048 = 7 * 8721 + 1; its window of 7 nights began the day before.
    assert window_of("2026-01-08", 7) == "2026-01-07+7d"
    assert window_of("2026-01-07", 7) == "2026-01-07+7d"
    assert window_of("2026-01-06", 7) == "2025-12-31+7d"
    assert window_of("2026-01-08", 1) == "2026-01-08+1d"


def test_epoch_window_groups_nights_and_later_nights_change_no_name():
    rows = [*night(), row("light"), row("light", night="2026-01-12")]
    settings = {"epoch": "window", "window_days": 7}
    before = plan(rows, plan=settings).stacks
    assert sorted(s.epoch for s in before.values()) == ["2026-01-07+7d", "all"]
    later = plan([*rows, row("light", night="2026-01-14")], plan=settings).stacks
    assert set(before) < set(later)
    assert sorted(s.epoch for s in later.values()) == ["2026-01-07+7d", "2026-01-14+7d", "all"]
    windows = [s for s in later.values() if s.epoch != "all"]
    assert not set(windows[0].blocks) & set(windows[1].blocks)


def test_tiles_are_off_unless_asked_for():
    rows = [*night(), light(150.0, 20.0)]
    assert not tiles_of(plan(rows))
    assert tiles_of(plan(rows, plan=TILES))


def test_tile_stacks_come_beside_those_of_fields_and_leave_them_alone():
    rows = [*night(), light(TILE.ra, TILE.dec)]
    without, with_ = plan(rows), plan(rows, plan=TILES)
    assert without.fields == with_.fields
    assert set(without.stacks) < set(with_.stacks)
    stack = only(tiles_of(with_))
    assert stack.tile == TILE.id and stack.field == ""
    assert stack.id.startswith(stack.tile.partition("-")[2] + "-R-all-")


def test_block_goes_into_every_tile_that_its_frames_touch():
    tile = SCHEME.tile(100, 40)
    middle = tile.dec + SCHEME.height_deg / 2
    frames = [light(tile.ra, middle), light(tile.ra, middle - 0.15)]
    todo = plan([*night(), *frames], plan=TILES)
    stacks = tiles_of(todo)
    assert {parse_tile(name)[1].ring for name in stacks} == {100, 101}
    assert {s.blocks for s in stacks.values()} == {tuple(todo.blocks)}


def test_fields_of_one_tile_share_its_stack_but_instruments_do_not():
    tile = SCHEME.tile(100, 40)
    one = light(tile.ra, tile.dec, target="A")
    two = light(tile.ra + 0.05, tile.dec, target="B")
    stack = only(tiles_of(plan([*night(), one, two], plan=TILES)))
    assert len(stack.blocks) == 2
    other = light(tile.ra, tile.dec, target="A", instrument="other")
    found = [s for s in plan([*night(), one, other], plan=TILES).stacks.values() if s.tile]
    assert len(found) == 2 and {s.tile for s in found} == {tile.id}


def test_names_of_tile_stacks_do_not_depend_on_other_frames():
    tile = SCHEME.tile(100, 40)
    frames = [light(tile.ra + 0.01 * n, tile.dec, target=f"T{n}") for n in range(4)]
    few, many = plan([*night(), *frames[:1]], plan=TILES), plan([*night(), *frames], plan=TILES)
    assert {s.id for s in tiles_of(few).values()} <= {s.id for s in tiles_of(many).values()}


def test_pointing_counts_where_corners_are_not_known():
    tile = SCHEME.tile(100, 40)
    dec = tile.dec + SCHEME.side_deg / 2 + 0.2
    far = row("light", ra_deg=tile.ra, dec_deg=dec, corners="")
    wide = {"tiles": TILES["tiles"] | {"radius_deg": 0.3}}
    close = {"tiles": TILES["tiles"] | {"radius_deg": 0.1}}
    assert tile.id in tiles_of(plan([*night(), far], plan=wide))
    assert tile.id not in tiles_of(plan([*night(), far], plan=close))


def test_frame_without_a_position_is_in_no_tile_but_in_its_field():
    todo = plan([*night(), row("light")], plan=TILES)
    assert not tiles_of(todo) and len(todo.stacks) == 1


def test_frames_at_zero_hours_and_at_the_pole_find_their_tiles():
    assert {parse_tile(t)[1].index for t in tiles_of(
        plan([*night(), light(0.0, 0.0)], plan=TILES))} >= {0, SCHEME.count(177) - 1}  # fmt: skip
    pole = row("light", ra_deg=77.0, dec_deg=89.95, corners="")
    tiles = tiles_of(plan([*night(), pole], plan={"tiles": TILES["tiles"] | {"radius_deg": 0.1}}))
    assert SCHEME.tile_of(0, 90).id in tiles


def test_epochs_hold_for_tiles_too():
    where = (TILE.ra, TILE.dec)
    rows = [*night(), light(*where), light(*where, night="2026-01-11")]
    todo = plan(rows, plan=TILES | {"epoch": "night"})
    found = sorted(s.epoch for s in todo.stacks.values() if s.tile)
    assert found == ["2026-01-10", "2026-01-11", "all"]
