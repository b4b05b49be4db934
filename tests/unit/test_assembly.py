"""Amplifiers side by side: every pixel at its place, crosstalk removed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from skymill.assembly import assemble

NY, NX = 12, 10  # pixels of one amplifier
CORNERS = ("ll", "lr", "ul", "ur")
FLIPS = list(itertools.product((False, True), repeat=2))


def stored(part, flip_x, flip_y):
    """A part of the detector as an amplifier with these flips stores it."""
    part = part[::-1] if flip_y else part
    return part[:, ::-1] if flip_x else part


def place(x0, y0, flip_x, flip_y):
    x, y = [x0 + 1, x0 + NX], [y0 + 1, y0 + NY]
    x, y = x[::-1] if flip_x else x, y[::-1] if flip_y else y
    return f"[{x[0]}:{x[1]},{y[0]}:{y[1]}]"


def entry(name, **change):
    return {"name": name, "gain": 1.0, "noise": 1.0, "saturation": 60_000.0} | change


def index_image(ny, nx):
    return np.arange(ny * nx, dtype=np.float32).reshape(ny, nx) + 1


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize(("left", "right"), list(itertools.product(FLIPS, FLIPS)))
def test_h137_index_image_of_two_extensions_assembles_exactly(left, right, dtype):
    """Overscans lie on different sides, with a level of their own."""
    truth = index_image(NY, 2 * NX)
    images, entries = {}, []
    for n, (flips, level, right_side) in enumerate(((left, 100, True), (right, 300, False))):
        part = stored(truth[:, n * NX : (n + 1) * NX], *flips)
        raw = np.full((NY, NX + 4), level, dtype)
        start = 0 if right_side else 4
        raw[:, start : start + NX] = part + level
        images[n + 1] = raw
        strip = f"[{NX + 1}:{NX + 4},1:{NY}]" if right_side else f"[1:4,1:{NY}]"
        entries.append(
            entry(
                "ab"[n], hdu=n + 1, data=f"[{start + 1}:{start + NX},1:{NY}]", bias=[strip],
                place=place(n * NX, 0, *flips),
            )
        )  # fmt: skip
    row = {"hdu": 1, "nx": 2 * NX, "ny": NY, "amplifiers": json.dumps(entries)}
    for fit in ("frame", "row", "polynomial"):
        exposure = assemble(images, row, overscan={"method": "mean", "fit": fit})
        assert exposure.pixels.dtype == dtype
        np.testing.assert_allclose(exposure.subtracted(), truth, atol=1e-4)
        assert [round(one.mean_adu) for one in exposure.levels] == [100, 300]


@pytest.mark.parametrize(("left", "right"), list(itertools.product(FLIPS, FLIPS)))
def test_h137_two_amplifiers_in_one_image(left, right):
    """Data, data, overscan, overscan: as many controllers with two amplifiers write it."""
    truth = index_image(NY, 2 * NX)
    raw = np.zeros((NY, 2 * NX + 6), np.uint16)
    entries = []
    for n, (flips, level) in enumerate(((left, 100), (right, 300))):
        raw[:, n * NX : (n + 1) * NX] = stored(truth[:, n * NX : (n + 1) * NX], *flips) + level
        raw[:, 2 * NX + 3 * n : 2 * NX + 3 * n + 3] = level
        entries.append(
            entry(
                "ab"[n], hdu=0, data=f"[{n * NX + 1}:{(n + 1) * NX},1:{NY}]",
                bias=[f"[{2 * NX + 3 * n + 1}:{2 * NX + 3 * n + 3},1:{NY}]"],
                place=place(n * NX, 0, *flips),
            )
        )  # fmt: skip
    row = {"nx": 2 * NX, "ny": NY, "amplifiers": json.dumps(entries)}
    np.testing.assert_array_equal(assemble(raw, row).subtracted(), truth)


@pytest.mark.parametrize(("flip_x", "flip_y"), FLIPS)
def test_h137_level_that_changes_along_rows_and_columns_is_turned_with_the_pixels(flip_x, flip_y):
    """The level is a ramp in the order of storage; both axes, so that each flip matters."""
    truth = index_image(NY, NX)
    y, x = np.mgrid[: NY + 3, : NX + 4].astype(np.float32)
    raw = 50 + 2 * y + 3 * x
    raw[:NY, :NX] += stored(truth, flip_x, flip_y)
    amplifier = entry(
        "a", hdu=0, data=f"[1:{NX},1:{NY}]", place=place(0, 0, flip_x, flip_y),
        bias=[f"[{NX + 1}:{NX + 4},1:{NY + 3}]", f"[1:{NX},{NY + 1}:{NY + 3}]"],
    )  # fmt: skip
    row = {"nx": NX, "ny": NY, "amplifiers": json.dumps([amplifier])}
    for fit in ("polynomial", "row"):
        overscan = {"method": "mean", "fit": fit, "axis": "both"}
        exposure = assemble(raw, row, overscan=overscan)
        assert exposure.levels[0].level.shape == (NY, NX)
        np.testing.assert_allclose(exposure.subtracted(), truth, atol=1e-3)


def test_frame_of_one_amplifier_is_a_view_of_the_raw_image():
    raw = index_image(NY, NX).astype(np.uint16)
    row = {"gain_e_adu": 1.0, "read_noise_e": 1.0, "saturation_adu": 60_000.0}
    exposure = assemble(raw, row)
    assert np.shares_memory(exposure.pixels, raw)
    np.testing.assert_array_equal(exposure.subtracted(), raw)
    assert exposure.levels[0].method == "none"


def test_different_types_of_pixels_become_float():
    entries = [
        entry(n, hdu=h, data=f"[1:{NX},1:{NY}]", place=place(h * NX, 0, False, False))
        for h, n in enumerate("ab")
    ]
    images = {0: index_image(NY, NX).astype(np.uint16), 1: index_image(NY, NX)}
    row = {"nx": 2 * NX, "ny": NY, "amplifiers": json.dumps(entries)}
    assert assemble(images, row).pixels.dtype == np.float32


def from_corner(part, corner):
    """A part of the detector in the order in which it is read; the same turns it back."""
    part = part[::-1] if corner[0] == "u" else part
    return part[:, ::-1] if corner[1] == "r" else part


def mosaic(truth, corners, crosstalk, flips=((False, False),) * 2):
    """Two amplifiers read at the same time from any corners, stored in any orientation."""
    parts = [from_corner(truth[:, n * NX : (n + 1) * NX], c) for n, c in enumerate(corners)]
    a, b = parts
    mixed = [a + crosstalk["a"]["b"] * b, b + crosstalk["b"]["a"] * a]
    images, entries = {}, []
    for n, (signal, corner, flip) in enumerate(zip(mixed, corners, flips, strict=True)):
        images[n] = stored(from_corner(signal, corner), *flip).astype(np.float32)
        entries.append(
            entry("ab"[n], hdu=n, data=f"[1:{NX},1:{NY}]", corner=corner,
                  place=place(n * NX, 0, *flip))
        )  # fmt: skip
    return images, {"nx": 2 * NX, "ny": NY, "amplifiers": json.dumps(entries)}


CROSSTALK = {"a": {"b": 2e-3}, "b": {"a": -5e-4}}


@pytest.mark.parametrize("corners", list(itertools.product(CORNERS, CORNERS)))
def test_crosstalk_is_removed_to_rounding_for_all_read_out_corners(corners):
    """Delta sources on an index image; without the correction the ghosts have 80 ADU."""
    truth = index_image(NY, 2 * NX)
    truth[2, 3] += 40_000
    truth[7, NX + 8] += 30_000
    for flips in (((False, False), (False, False)), ((True, False), (False, True))):
        images, row = mosaic(truth, corners, CROSSTALK, flips)
        dirty = assemble(images, row).subtracted()
        assert np.abs(dirty - truth).max() > 50
        clean = assemble(images, row, electronics={"crosstalk": CROSSTALK}).subtracted()
        # float32 of 40000 has steps of 0.004
        np.testing.assert_allclose(clean, truth, atol=0.01)


def test_corner_follows_from_the_flips_where_it_is_not_given():
    """An amplifier is usually stored in the order in which it is read."""
    truth = index_image(NY, 2 * NX)
    truth[2, 3] += 40_000
    flips = ((False, False), (True, False))
    images, row = mosaic(truth, ("ll", "lr"), CROSSTALK, flips)
    entries = [{k: v for k, v in e.items() if k != "corner"} for e in json.loads(row["amplifiers"])]
    row["amplifiers"] = json.dumps(entries)
    clean = assemble(images, row, electronics={"crosstalk": CROSSTALK}).subtracted()
    np.testing.assert_allclose(clean, truth, atol=0.01)


def test_crosstalk_acts_on_the_signal_above_the_level_only():
    truth = index_image(NY, 2 * NX)
    images, row = mosaic(truth, ("ll", "lr"), CROSSTALK)
    entries = json.loads(row["amplifiers"])
    for n, one in enumerate(entries):
        one["bias"] = [f"[{NX + 1}:{NX + 4},1:{NY}]"]
        images[n] = np.pad(images[n], ((0, 0), (0, 4))) + np.float32(1000 + 500 * n)
    row["amplifiers"] = json.dumps(entries)
    clean = assemble(images, row, electronics={"crosstalk": CROSSTALK}).subtracted()
    np.testing.assert_allclose(clean, truth, atol=0.01)


def test_pixels_without_a_value_and_saturated_ones_spoil_no_other_amplifier():
    truth = index_image(NY, 2 * NX)
    images, row = mosaic(truth, ("ll", "ll"), CROSSTALK)
    images[0][4, 4] = np.nan
    images[0][5, 5] = np.inf
    images[1][4, 6] = 65_000  # saturated: judged on the raw value, which must stay
    clean = assemble(images, row, electronics={"crosstalk": CROSSTALK}).pixels
    assert np.isnan(clean[4, 4])
    assert np.isinf(clean[5, 5])
    assert clean[4, NX + 6] == 65_000
    victim = clean[:, NX:]
    assert np.isfinite(victim).all()
    # the partner of the pixel without a value keeps its crosstalk, nothing else
    assert abs(victim[4, 4] - truth[4, NX + 4]) < 0.1
    # what the saturated pixel was measured at is taken from its partner
    assert clean[4, 6] == pytest.approx(images[0][4, 6] - 2e-3 * 65_000, abs=0.02)


def test_crosstalk_with_an_amplifier_that_is_not_read_is_ignored():
    truth = index_image(NY, 2 * NX)
    images, row = mosaic(truth, ("ll", "ll"), {"a": {"b": 0.0}, "b": {"a": 0.0}})
    crosstalk = {"crosstalk": {"a": {"z": 0.1}, "z": {"b": 0.2}}}
    np.testing.assert_array_equal(assemble(images, row, electronics=crosstalk).subtracted(), truth)
