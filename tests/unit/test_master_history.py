"""Masters compared with earlier ones: what changed is said, what did not is not.

Rows of the reference: E27 to E30 (masters and their registry).
"""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

from skymill import io
from skymill.errors import Outcome
from skymill.frame import MaskBit, Master
from skymill.jobs.master_history import compare_masters
from skymill.settings import MasterHistory
from skymill.steps.master_history import MasterSample, master_history, series

SHAPE = (64, 500)
NOISE = 2.0


def facts(name, night, kind="bias", **more):
    return {
        "id": name,
        "kind": kind,
        "night": night,
        "instrument": "cam",
        "nx": SHAPE[1],
        "ny": SHAPE[0],
        "filter": "R" if kind == "flat" else "",
    } | more


def sample(number, *, kind="bias", level=100.0, pattern=None, seed=None, hot=None, **cards):
    """Return a whole frame of pattern and noise as the sample of a master."""
    random = np.random.default_rng(number if seed is None else seed)
    flat = kind == "flat"
    sigma = 0.002 if flat else NOISE
    value = (1.0 if flat else level) + random.normal(0, sigma, SHAPE)
    value = value + (0.0 if pattern is None else pattern)
    header = {"NCOMBINE": 9, "GAIN": 1.5, "RDNOISE": 6.0} | cards
    return MasterSample(
        f"m{number}",
        facts(f"m{number}", f"2026-01-{number:02d}", kind),
        value.astype(np.float32),
        np.full(SHAPE, sigma, np.float32),
        np.zeros(SHAPE, np.uint16),
        np.arange(SHAPE[0]),
        SHAPE,
        header,
        hot,
    )


def codes(seen, name):
    return [code for code, _ in seen.flags[name]]


def history(*samples, **options):
    return master_history([("s", one) for one in samples], **options)


@pytest.mark.parametrize("kind", ["bias", "dark", "flat"])
def test_masters_that_differ_by_their_errors_have_not_changed(kind):
    fixed = np.random.default_rng(0).normal(0, 0.05, SHAPE)
    seen = history(*(sample(n, kind=kind, pattern=fixed) for n in (1, 2, 3)))
    assert not any(seen.flags.values())
    for row in seen.records[1:]:
        # 32 000 pixels: the robust scatter has a standard error of 0.7 %
        assert row["pattern_sigma"] == pytest.approx(1.0, abs=0.03)
        assert row["changed_fraction"] == 0
    assert seen.records[0]["previous"] == ""
    assert [row["previous"] for row in seen.records[1:]] == ["m1", "m2"]


def test_a_changed_pattern_is_said_and_measured():
    strong = np.random.default_rng(9).normal(0, 10.0, SHAPE)
    seen = history(sample(1), sample(2, pattern=strong), sample(3, pattern=strong))
    assert codes(seen, "m2") == ["MASTER_CHANGED"]
    assert codes(seen, "m3") == []
    assert "of m1" in seen.flags["m2"][0][1]
    row = seen.records[1]
    expected = np.hypot(10.0, NOISE * np.sqrt(2)) / (NOISE * np.sqrt(2))
    assert row["pattern_sigma"] == pytest.approx(expected, rel=0.03)
    assert row["pattern_excess"] == pytest.approx(10.0, rel=0.03)


def test_dust_on_a_small_part_of_a_flat_is_found():
    dust = np.zeros(SHAPE)
    dust[20:40, 100:140] = -0.03
    seen = history(sample(1, kind="flat"), sample(2, kind="flat", pattern=dust))
    assert codes(seen, "m2") == ["MASTER_CHANGED"]
    assert seen.records[1]["pattern_sigma"] < 1.2
    assert seen.records[1]["changed_fraction"] == pytest.approx(800 / 32000, rel=0.01)


def test_masked_pixels_are_not_compared():
    odd = sample(2, pattern=np.where(np.arange(SHAPE[1]) < 100, 1000.0, 0.0))
    odd.mask[:, :100] = np.uint16(MaskBit.HOT)
    assert codes(history(sample(1), odd), "m2") == []


def test_a_step_of_the_level_is_compared_with_the_read_noise():
    # read noise 6 electron at 1.5 electron/ADU: 4 ADU
    assert codes(history(sample(1), sample(2, level=103.0)), "m2") == []
    seen = history(sample(1), sample(2, level=105.0))
    assert codes(seen, "m2") == ["MASTER_CHANGED"]
    assert "+5.0" in seen.flags["m2"][0][1]
    assert codes(history(sample(1), sample(2, level=105.0), level_noise=2.0), "m2") == []


def test_gain_and_read_noise_are_compared_with_all_earlier_masters():
    steady = [sample(n, GAINMEAS=1.5, GAINERR=0.005, RNADU=4.0) for n in (1, 2, 3)]
    odd = sample(4, GAINMEAS=1.7, GAINERR=0.005, RNADU=5.0)
    seen = history(*steady, odd)
    assert codes(seen, "m3") == []
    assert codes(seen, "m4") == ["GAIN_DRIFT", "NOISE_DRIFT"]
    row = seen.records[-1]
    assert row["gain_ratio"] == pytest.approx(1.7 / 1.5)
    assert row["read_noise_e"] == pytest.approx(7.5)
    assert row["read_noise_ratio"] == pytest.approx(1.25)


def test_a_gain_that_is_poorly_known_has_not_drifted():
    seen = history(sample(1, GAINMEAS=1.5, GAINERR=0.1), sample(2, GAINMEAS=1.7, GAINERR=0.1))
    assert codes(seen, "m2") == []


def test_hot_pixels_that_multiply_are_said():
    seen = history(*(sample(n, hot=h) for n, h in ((1, 1000), (2, 1200), (3, 2500))))
    assert codes(seen, "m2") == []
    assert codes(seen, "m3") == ["HOT_PIXELS"]
    few = history(sample(1, hot=1), sample(2, hot=4))
    assert codes(few, "m2") == []


def test_each_amplifier_is_judged_by_itself():
    cards = {
        "AMP1": "A", "AMPSEC1": "[1:250,1:64]", "GAIN1": 1.5, "RDN1": 6.0, "GAINM1": 1.5,
        "AMP2": "B", "AMPSEC2": "[251:500,1:64]", "GAIN2": 2.0, "RDN2": 6.0, "GAINM2": 2.0,
    }  # fmt: skip
    shift = np.where(np.arange(SHAPE[1]) < 250, 0.0, 20.0) * np.ones(SHAPE)
    drifted = cards | {"GAINM2": 2.4}
    seen = history(sample(1, **cards), sample(2, pattern=shift, **drifted))
    texts = [text for _, text in seen.flags["m2"]]
    assert len(texts) == 2
    assert all("amplifier B" in text for text in texts)
    assert [row["amplifier"] for row in seen.records] == ["A", "B", "A", "B"]
    # two parts with levels of their own: no change of the pattern
    assert all(row["pattern_sigma"] < 1.1 for row in seen.records[2:])


def test_one_master_has_nothing_to_be_compared_with():
    seen = history(sample(1, hot=3, GAINMEAS=1.4))
    assert codes(seen, "m1") == []
    assert seen.records[0]["previous"] == ""


def test_series_part_what_cannot_be_compared_and_follow_time():
    masters = [
        facts("b", "2026-01-02"),
        facts("a", "2026-01-01"),
        facts("f", "2026-01-01", "flat"),
        facts("g", "2026-01-01", "flat", filter="V"),
        facts("d1", "2026-01-01", "dark", exptime_s=60.0, temperature_c=-10.0),
        facts("d2", "2026-01-02", "dark", exptime_s=60.02, temperature_c=-10.6),
        facts("d3", "2026-01-02", "dark", exptime_s=60.0, temperature_c=-20.0),
        facts("d4", "2026-01-02", "dark", exptime_s=30.0, temperature_c=-10.0),
    ]
    found = [[one["id"] for one in members] for _, members in series(masters, 2.0)]
    assert sorted(found) == [["a", "b"], ["d1", "d2"], ["d3"], ["d4"], ["f"], ["g"]]
    assert found == [[o["id"] for o in m] for _, m in series(masters[::-1], 2.0)]


def test_the_table_and_the_outcomes_of_masters_on_disk(tmp_path):
    """E30."""
    random = np.random.default_rng(5)
    paths, tables, known = [], [], []
    for number, name in enumerate(("bias-a", "bias-b", "bias-c"), 1):
        sci = random.normal(0, NOISE, (200, 300)).astype(np.float32)
        err = np.full(sci.shape, NOISE, np.float32)
        mask = np.zeros(sci.shape, np.uint16)
        header = fits.Header({"GAIN": 1.5, "RDNOISE": 6.0, "RNADU": 4.0, "NCOMBINE": 5})
        master = Master(sci, err, mask, header, unit="adu", nused=mask + np.uint16(5))
        path = tmp_path / f"{name}.fits"
        outcome = Outcome(name, "master_bias", "ok", numbers={"n_hot": 7})
        if name == "bias-c":
            outcome = Outcome(name, "master_bias", "failed", "TOO_FEW", "one frame")
            io.write_placeholder(path, {}, outcome)
        else:
            io.write_master(path, master, {})
        io.write_outcomes(tmp_path / f"{name}.csv", [outcome])
        paths.append(path)
        tables.append(tmp_path / f"{name}.csv")
        known.append(facts(name, f"2026-01-{number:02d}", nx=300, ny=200))
    out = SimpleNamespace(table=tmp_path / "t.parquet", outcomes=tmp_path / "o.csv")
    settings = MasterHistory().model_dump(mode="json")
    compare_masters(
        facts=known, masters=paths, upstream=tables, table=out.table, outcomes=out.outcomes,
        settings=settings, code="c",
    )  # fmt: skip
    table = io.read_table(out.table)
    assert table["master"].tolist() == ["bias-a", "bias-b"]
    assert table["n_hot"].tolist() == [7, 7]
    # 64 rows of 300 pixels: standard error 1 %
    assert float(table["pattern_sigma"][1]) == pytest.approx(1.0, abs=0.05)
    assert table.meta["step"] == "master_history"
    assert [o.status for o in io.read_outcomes(out.outcomes)] == ["ok", "ok", "blocked"]
    first = out.table.read_bytes()
    compare_masters(
        facts=known, masters=paths, upstream=tables, table=out.table, outcomes=out.outcomes,
        settings=settings, code="c",
    )  # fmt: skip
    assert out.table.read_bytes() == first


def test_bands_are_the_rows_they_say(tmp_path):
    sci = np.arange(200 * 30, dtype=np.float32).reshape(200, 30)
    err = np.ones_like(sci)
    mask = (np.arange(200 * 30) % 7).astype(np.uint16).reshape(200, 30)
    master = Master(sci, err, mask, fits.Header(), unit="adu", nused=np.ones_like(mask))
    io.write_master(tmp_path / "m.fits", master, {})
    for bands, rows in ((16, 4), (500, 4)):
        planes, where, _ = io.read_bands(tmp_path / "m.fits", ("SCI", "MASK"), bands, rows)
        assert len(where) == min(bands * rows, 200)
        assert len(set(where.tolist())) == len(where)
        np.testing.assert_array_equal(planes["SCI"], sci[where])
        np.testing.assert_array_equal(planes["MASK"], mask[where])
        assert planes["SCI"].dtype.isnative
