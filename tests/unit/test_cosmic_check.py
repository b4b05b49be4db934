"""The check against the next exposure: odd frames, and the window over a block."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits

from bench.cosmics import stars
from skymill import io
from skymill.errors import Outcome, StepFailed
from skymill.frame import Frame, MaskBit
from skymill.jobs.mask import mask_block
from skymill.jobs.neighbours import Window
from skymill.kernels.cosmic_check import groups, pairs_near
from skymill.settings import Settings
from skymill.steps.cosmic_check import check_cosmics, link, sight

COSMIC = np.uint16(int(MaskBit.COSMIC))


def frame(shape=(64, 64), value=100.0, bits=0):
    rng = np.random.default_rng(1)
    sci = value + 10 * rng.standard_normal(shape)
    mask = np.full(shape, bits, np.uint16)
    return Frame(sci.astype(np.float32), np.full(shape, 10, np.float32), mask, fits.Header())


def starry(shift=(0, 0), shape=(128, 128)):
    """Ten stars of 3 x 3 px, the first one flagged."""
    rng = np.random.default_rng(2)
    sci = 100 + 10 * rng.standard_normal(shape)
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    places = np.random.default_rng(3).integers(20, 100, (10, 2))
    for j, i in places + shift:
        sci[j - 1 : j + 2, i - 1 : i + 2] += 4e4 * kernel
    j, i = places[0] + shift
    bits = np.zeros(shape, np.uint16)
    bits[j, i] = COSMIC
    return Frame(sci.astype(np.float32), np.full(shape, 10, np.float32), bits, fits.Header()), (
        j,
        i,
    )


def test_groups_are_connected_over_corners():
    hits = np.zeros((5, 6), bool)
    hits[0, 0] = hits[1, 1] = hits[4, 5] = True
    members, starts = groups(hits)
    assert starts.tolist() == [0, 2, 3]
    assert members.tolist() == [0, 7, 29]


def test_no_hits_are_none():
    one = sight(frame(), frame().mask)
    found = check_cosmics(one, np.zeros((64, 64), bool), [(one, link(one, one))])
    assert found[1:] == (0, 0, 0)
    assert not found.refuted.any()


@pytest.mark.parametrize(
    "other",
    [frame(), frame((32, 40)), frame(value=np.nan), frame(bits=int(MaskBit.DEAD)), frame((3, 3))],
    ids=["starless", "size", "nan", "dead", "tiny"],
)
def test_without_common_stars_nothing_is_decided(other):
    first, (j, i) = starry()
    one, two = sight(first, first.mask), sight(other, other.mask)
    assert link(one, two) is None
    found = check_cosmics(one, first.mask == COSMIC, [(two, None)])
    assert found[1:] == (0, 0, 1)


def test_a_star_that_moved_with_the_field_is_refuted_and_a_hit_confirmed():
    (first, (j, i)), (second, _) = starry(), starry((7, -5))
    sci, bits = first.sci.copy(), first.mask.copy()
    sci[110, 12:16] += 3000
    bits[110, 12:16] = COSMIC
    one, two = sight(first.replace(sci=sci), bits), sight(second, second.mask)
    found = check_cosmics(one, bits == COSMIC, [(two, link(one, two))])
    assert found[1:] == (1, 1, 0)
    assert np.argwhere(found.refuted).tolist() == [[j, i]]


def test_what_one_neighbour_shows_and_the_other_lacks_stays_a_hit():
    (first, _), (second, at) = starry(), starry((7, -5))
    sci = second.sci.copy()
    sci[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2] = 100
    one, two = sight(first, first.mask), sight(second, second.mask)
    gone = sight(second.replace(sci=sci), np.zeros_like(second.mask))
    found = check_cosmics(
        one, first.mask == COSMIC, [(two, link(one, two)), (gone, link(one, gone))]
    )
    assert found[1:] == (0, 0, 1)


def test_a_masked_counterpart_decides_nothing():
    (first, _), (second, (j, i)) = starry(), starry((7, -5))
    bits = second.mask.copy()
    bits[j, i] |= np.uint16(int(MaskBit.SATURATED))
    one, two = sight(first, first.mask), sight(second, bits)
    assert check_cosmics(one, first.mask == COSMIC, [(two, link(one, two))])[1:] == (0, 0, 1)


def test_the_window_makes_each_value_once_and_keeps_few():
    made, held = [], []

    def make(place):
        made.append(place)
        if place == 5:
            raise StepFailed("ALL_MASKED", "none")
        return place

    window = Window(make, 40)

    def work(place):
        held.append(window.held)
        try:
            return window.around(place)
        finally:
            window.done(place)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, range(40)))
    assert sorted(made) == list(range(40))
    assert found[0] == [1] and found[4] == [3] and found[39] == [38] and found[20] == [19, 21]
    assert window.held == 0
    assert max(held) <= 6


def test_the_window_hands_on_what_went_wrong():
    def make(place):
        raise OSError("disk")

    window = Window(make, 3)
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            window.get(1)
    with pytest.raises(OSError, match="disk"):
        window.around(0)


def masked(folder, *, threads=1, **settings):
    """Mask a block of four frames of sharp stars with an engine that takes them for hits."""
    folder.mkdir()
    rng = np.random.default_rng(8)
    x, y = rng.uniform(20, 230, (2, 60))
    flux = 10 ** rng.uniform(3.5, 4.5, 60)
    rows = []
    for n, (dx, dy) in enumerate([(0, 0), (8.3, -4.6), (8.3, -4.6), (3.1, 2.2)]):
        light = stars((256, 256), x + dx, y + dy, flux, 1.2, None)
        sci = rng.poisson(200 + light) + rng.normal(0, 5, light.shape)
        sci[100 + 10 * n, 60:66] += 1500
        err = np.sqrt(np.maximum(sci, 0) + 25)
        header = fits.Header()
        header["FRAMEID"] = f"f{n}"
        one = Frame(sci.astype("f4"), err.astype("f4"), np.zeros(sci.shape, np.uint16), header)
        io.write_frame(folder / "calibrated" / f"f{n}.fits", one, {})
        rows.append({"frame_id": f"f{n}"})
    stopped = Outcome("f2", "calibrate", "rejected", "BIAS_JUMP", "by construction")
    io.write_outcomes(folder / "upstream.csv", [stopped])
    given = {"engine": "astroscrappy", "sharp_sigma": 0, "trails": False} | settings
    mask_block(
        rows=rows, calibrated=folder / "calibrated", upstream=folder / "upstream.csv",
        masks=folder / "masks", outcomes=folder / "outcomes.csv",
        settings=Settings(raw="raw", mask=given).mask.model_dump(mode="json"), code="0",
        threads=threads,
    )  # fmt: skip
    told = {o.frame_id: o for o in io.read_outcomes(folder / "outcomes.csv")}
    masks = {n: io.read_mask(folder / "masks" / f"f{n}.fits") for n in (0, 1, 3)}
    return told, masks, sorted(path.read_bytes() for path in (folder / "masks").glob("*"))


def test_a_block_takes_back_what_the_next_frame_shows_again(tmp_path):
    told, masks, files = masked(tmp_path / "on")
    _, alone, _ = masked(tmp_path / "off", check="off")
    assert told["f2"].status == "blocked"
    for n, mask in masks.items():
        numbers = told[f"f{n}"].numbers
        before, after = (np.count_nonzero(m & COSMIC) for m in (alone[n], mask))
        assert numbers["n_cosmics_refuted"] > 10
        assert after < 0.5 * before
        assert numbers["n_cosmic_px"] == after
        assert (mask[100 + 10 * n, 60:66] & COSMIC).all()
        assert numbers["n_bad_px"] == np.count_nonzero(mask)
    header = fits.getheader(tmp_path / "on" / "masks" / "f1.fits")
    inputs = [v for k, v in header.items() if k.startswith("SMI") and k[3:].isdigit()]
    # the frame that was stopped is no neighbour
    assert [v.split()[0] for v in inputs] == [f"on/f{n}" for n in (0, 1, 3)]
    shutil.rmtree(tmp_path / "on")
    assert masked(tmp_path / "on", threads=2)[2] == files


def test_a_frame_alone_is_not_compared(tmp_path):
    told, _, _ = masked(tmp_path / "off", check="off")
    assert "n_cosmics_refuted" not in told["f0"].numbers


def test_pairs_close_to_an_offset_are_those_of_plain_distances():
    rng = np.random.default_rng(8)
    first = rng.uniform(0, 200, (60, 2))
    second = np.concatenate([first[:40] + (7.3, -4.1) + rng.normal(0, 0.3, (40, 2)),
                             rng.uniform(0, 200, (30, 2))])  # fmt: skip
    offset = second[None] - first[:, None]
    distance = np.hypot(offset[..., 0] - 7.0, offset[..., 1] + 4.0)
    near, partner, ring = pairs_near(first, second, 7.0, -4.0, 1.5, (5.0, 25.0))
    assert near.shape[0] > 35
    np.testing.assert_array_equal(near, offset[distance < 1.5])
    np.testing.assert_array_equal(partner, (distance < 1.5).any(axis=1))
    assert ring == np.count_nonzero((distance > 5) & (distance < 25))
