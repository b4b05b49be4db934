"""Master bias: combination, comparison of frames, odd pixels, measured read noise."""

from __future__ import annotations

import gc
import json
import os
from functools import partial

import numpy as np
import pytest
from astropy.io import fits

from skymill.errors import FrameRejected
from skymill.frame import MaskBit
from skymill.overscan import OverscanLevel
from skymill.pixel_store import PixelStore
from skymill.steps.master_bias import RawInput, master_bias
from skymill.steps.masters_common import MasterFailed, amplifier_figure, pair_noise, shortest_half

NY, NX = 120, 160
ROW = {
    "datasec": f"[1:{NX},1:{NY}]", "biassec": f"[{NX + 1}:{NX + 24},1:{NY}]", "gain_e_adu": 2.0,
    "read_noise_e": 10.0, "saturation_adu": 65_535.0, "nx": NX + 24, "ny": NY,
}  # fmt: skip


def pattern() -> np.ndarray:
    x = np.arange(NX)
    return np.broadcast_to(8 + 3 * np.sin(x / 7.0), (NY, NX))


def raw_bias(seed: int, *, noise: float = 5.0, level: float = 1000.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = level + rng.normal(0, noise, (NY, NX + 24))
    raw[:, :NX] += pattern()
    return raw.round().clip(0, 65_535).astype(np.uint16)


def given(name: str, raw: np.ndarray, **row) -> RawInput:
    return RawInput(name, ROW | row, lambda: (raw.copy(), fits.Header()))


@pytest.fixture
def arrays() -> list[np.ndarray]:
    """Ten frames; the level of the electronics drifts by 40 ADU over them."""
    return [raw_bias(seed, level=1000 + 4 * seed) for seed in range(10)]


def inputs(arrays) -> list[RawInput]:
    return [given(f"b{i}", raw) for i, raw in enumerate(arrays)]


def codes(outcomes) -> dict[str, str]:
    return {outcome.frame_id: outcome.code for outcome in outcomes if outcome.code}


def test_pattern_is_recovered_although_the_level_drifts(arrays):
    """E27, E57."""
    result = master_bias(inputs(arrays), master_id="bias-1")
    master, numbers = result.value.master, result.numbers
    residual = master.sci - pattern()
    # 5 ADU (with rounding 5.008) / sqrt(10), over 19 200 pixels: width to 0.5 %
    assert residual.std() == pytest.approx(5.008 / np.sqrt(10), rel=4 / np.sqrt(2 * NY * NX))
    assert abs(residual.mean()) < 4 * 5 / np.sqrt(24 * NY * 10)
    assert master.unit == "adu"
    assert (master.nused >= 9).all()
    assert not master.mask.any()
    assert result.flags == ()
    assert numbers["read_noise_adu"] == pytest.approx(5.008, rel=0.01)
    assert numbers["read_noise_e"] == pytest.approx(10.0, rel=0.02)
    assert numbers["level_adu"] == pytest.approx(8, abs=0.3)
    assert np.median(master.err) == pytest.approx(5.008 / np.sqrt(10), rel=0.01)
    assert master.header["MASTERID"] == "bias-1"
    assert master.header["NCOMBINE"] == 10
    assert master.header["RNADU"] == numbers["read_noise_adu"]
    assert [outcome.status for outcome in result.value.outcomes] == ["ok"] * 10
    assert result.value.outcomes[3].numbers["overscan_adu"] == pytest.approx(1012, abs=0.5)


def test_single_hits_are_removed_and_counted(arrays):
    arrays[4][20:40, 50] += 300
    master = master_bias(inputs(arrays)).value.master
    assert np.abs(master.sci - pattern())[20:40, 50].max() < 5 * 5 / np.sqrt(9)
    assert (master.nused[20:40, 50] == 9).all()


def test_frame_at_another_level_is_rejected_by_name(arrays):
    arrays[6][:, :NX] += 60  # the image, not the overscan
    result = master_bias(inputs(arrays))
    assert codes(result.value.outcomes) == {"b6": "BAD_LEVEL"}
    assert result.value.outcomes[6].numbers["level_offset_adu"] == pytest.approx(60, abs=0.5)
    assert "ADU from the group" in result.value.outcomes[6].message
    assert result.value.master.header["NCOMBINE"] == 9


def test_two_camps_are_a_jump_and_the_larger_one_wins(arrays):
    for i in (1, 5, 8, 9):
        arrays[i][:, :NX] += 50
    result = master_bias(inputs(arrays))
    assert codes(result.value.outcomes) == dict.fromkeys(("b1", "b5", "b8", "b9"), "BIAS_JUMP")
    assert abs(float((result.value.master.sci - pattern()).mean())) < 0.5


def test_step_within_a_frame_and_noisy_frame_are_rejected(arrays):
    arrays[2][NY // 2 :, :NX] += 40
    arrays[7] = raw_bias(77, noise=9.0, level=1028)
    result = master_bias(inputs(arrays))
    assert set(codes(result.value.outcomes)) == {"b2", "b7"}
    assert codes(result.value.outcomes)["b7"] == "BAD_LEVEL"
    assert result.numbers["n_used"] == 8


def test_unreadable_frame_does_not_stop_the_others(arrays):
    def broken():
        raise FrameRejected("TRUNCATED", "the file holds 3 of 5 blocks.")

    frames = inputs(arrays)
    frames[3] = RawInput("b3", ROW, broken)
    result = master_bias(frames)
    assert codes(result.value.outcomes) == {"b3": "TRUNCATED"}
    assert result.value.outcomes[3].status == "rejected"
    assert result.numbers["n_used"] == 9


def test_h202_every_file_is_opened_once_and_a_spill_needs_one_more(arrays, tmp_path, monkeypatch):
    opened = [0] * len(arrays)

    def read(i):
        opened[i] += 1
        return arrays[i].copy(), fits.Header()

    frames = [RawInput(f"b{i}", ROW, partial(read, i)) for i in range(len(arrays))]
    reads, plain = [0], PixelStore.read

    def counted(store, *args):
        reads[0] += 1
        return plain(store, *args)

    monkeypatch.setattr(PixelStore, "read", counted)
    before = len(os.listdir("/proc/self/fd"))
    master_bias(frames, memory_mb=0.05, scratch=tmp_path)
    assert opened == [1] * len(arrays)
    assert reads[0] >= len(arrays)  # the second pass did come from the scratch file
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before  # which is closed, and left no name
    assert list(tmp_path.iterdir()) == []


def test_little_memory_gives_the_same_bytes(arrays):
    whole = master_bias(inputs(arrays)).value.master
    small = master_bias(inputs(arrays), memory_mb=0.1).value.master
    assert whole.sci.tobytes() == small.sci.tobytes()
    assert whole.err.tobytes() == small.err.tobytes()
    assert whole.mask.tobytes() == small.mask.tobytes()


def test_h217_masters_of_one_or_two_frames_say_so(arrays):
    one = master_bias(inputs(arrays[:1]), minimum=1)
    two = master_bias(inputs(arrays[:2]), minimum=2)
    assert [code for code, _ in one.flags] == ["FEW_FRAMES"]
    assert [code for code, _ in two.flags] == ["FEW_FRAMES"]
    assert "one frame only" in one.flags[0][1]
    assert one.numbers["variance_ratio"] is None
    assert one.numbers["n_unstable"] == two.numbers["n_unstable"] == 0


def test_two_frames_that_contradict_each_other_degrade_the_master(arrays):
    arrays[1][:, :NX] += 30
    result = master_bias(inputs(arrays[:2]), minimum=2)
    assert "BIAS_JUMP" in [code for code, _ in result.flags]
    assert "differ by" in result.flags[0][1]


@pytest.mark.parametrize("method", ["clipped", "weighted", "median", "minmax"])
def test_h155_a_star_in_one_bias_leaves_no_trace(arrays, method):
    y, x = np.mgrid[:NY, :NX]
    star = 4000 * np.exp(-((x - 80) ** 2 + (y - 60) ** 2) / 18)
    arrays[5][:, :NX] += star.astype(np.uint16)
    result = master_bias(inputs(arrays), method=method)
    # the largest of 1000 pixels; minmax and median lose one value only
    residual = (result.value.master.sci - pattern())[40:80, 60:100]
    assert np.abs(residual).max() < 6 * 5 / np.sqrt(9)
    assert result.value.outcomes[5].status in ("ok", "degraded")


def test_weights_follow_the_noise_of_each_frame(arrays):
    """Within the tolerance of the scatter, noisier frames count less and the error knows."""
    noise = np.array([4.6, 4.6, 5.4, 5.4, 5.0, 5.0, 4.6, 5.4, 5.0, 4.6])
    frames = [raw_bias(i + 300, noise=s) for i, s in enumerate(noise)]
    weighted = master_bias(inputs(frames), method="weighted").value.master
    plain = master_bias(inputs(frames)).value.master
    best = np.sqrt(1 / (1 / (noise**2 + 1 / 12)).sum())
    error = 4 / np.sqrt(2 * NY * NX)
    assert (weighted.sci - pattern()).std() == pytest.approx(best, rel=error + 0.003)
    assert np.median(weighted.err) == pytest.approx(best, rel=0.01)
    assert np.median(weighted.err) < np.median(plain.err)


def test_variance_is_that_of_the_model_or_the_master_is_flagged(arrays):
    result = master_bias(inputs(arrays))
    # 19 200 pixels, 9 degrees of freedom each; rounding and the threshold make 0.5 %
    assert result.numbers["variance_ratio"] == pytest.approx(1, abs=0.005 + 3 * 0.0034)
    # a level that wanders along the rows from frame to frame cancels in no difference of
    # neighbours that follow each other slowly, but the pixels scatter by it
    x = np.arange(NX)
    drifting = []
    for i in range(12):
        raw = raw_bias(i + 700).astype(np.float64)
        raw[:, :NX] += 16 * np.sin(x / 4.0) * np.sin(np.pi * i / 24)
        drifting.append(raw.round().astype(np.uint16))
    noisy = master_bias(inputs(drifting), level_tolerance_sigma=50)
    assert "MODEL_NOISE" in [code for code, _ in noisy.flags]
    assert noisy.numbers["variance_ratio"] > 1.2


def test_amplifiers_are_measured_and_named_one_by_one():
    """A23, E27: two amplifiers side by side, mirrored, of different noise and gain."""
    rng = np.random.default_rng(7)
    noise, gain, width = (4.0, 9.0), (2.0, 1.3), NX // 2
    row = {
        "nx": NX, "ny": NY, "hdu": 1, "amplifiers": json.dumps([
            {"name": "A", "hdu": 1, "data": f"[1:{width},1:{NY}]", "place": f"[1:{width},1:{NY}]",
             "bias": [f"[{width + 1}:{width + 20},1:{NY}]"], "gain": gain[0], "noise": 8.0},
            {"name": "B", "hdu": 2, "data": f"[1:{width},1:{NY}]",
             "place": f"[{NX}:{width + 1},1:{NY}]",
             "bias": [f"[{width + 1}:{width + 20},1:{NY}]"], "gain": gain[1], "noise": 6.0},
        ]), "saturation_adu": 65_535.0, "gain_e_adu": 1.65, "read_noise_e": 7.0,
    }  # fmt: skip
    frames = []
    for i in range(8):
        images = {}
        for amp in (0, 1):
            raw = 1000 + 300 * amp + 5 * i + rng.normal(0, noise[amp], (NY, width + 20))
            own = pattern()[:, width * amp : width * (amp + 1)]
            raw[:, :width] += own[:, ::-1] if amp else own
            images[amp + 1] = raw.round().astype(np.uint16)
        frames.append(RawInput(f"b{i}", row, lambda images=images: (images, fits.Header())))
    result = master_bias(frames)
    master = result.value.master
    for amp, place in enumerate((np.s_[:, :width], np.s_[:, width:])):
        sigma = np.hypot(noise[amp], 12**-0.5) / np.sqrt(8)
        residual = (master.sci - pattern())[place]
        assert residual.std() == pytest.approx(sigma, rel=4 / np.sqrt(2 * residual.size))
        assert np.median(master.err[place]) == pytest.approx(sigma, rel=0.01)
    header = master.header
    assert (header["AMP1"], header["AMP2"]) == ("A", "B")
    assert header["AMPSEC2"] == f"[{width + 1}:{NX},1:{NY}]"
    assert header["GAIN2"] == gain[1]
    assert header["RNADU1"] == pytest.approx(4.0, rel=0.02)
    assert amplifier_figure(header, "RNADU", 1, 2) == pytest.approx(9.0, rel=0.02)
    assert "TRIMSEC" not in header
    # 9 ADU at 1.3 electron/ADU are 11.7 electron, but 6 are declared
    assert [code for code, _ in result.flags] == ["READ_NOISE_SUSPECT"]
    assert "amplifier B" in result.flags[0][1]
    small = master_bias(frames, memory_mb=0.01).value.master
    assert small.sci.tobytes() == master.sci.tobytes()


def test_jump_of_one_amplifier_rejects_the_frame():
    rng = np.random.default_rng(8)
    half = NX // 2
    row = {
        "nx": NX, "ny": NY, "hdu": 0, "saturation_adu": 65_535.0, "gain_e_adu": 2.0,
        "read_noise_e": 10.0, "amplifiers": json.dumps([
            {"name": n, "hdu": 0, "data": f"[{x0}:{x1},1:{NY}]", "place": f"[{x0}:{x1},1:{NY}]",
             "bias": [], "gain": 2.0, "noise": 10.0}
            for n, x0, x1 in (("A", 1, half), ("B", half + 1, NX))
        ]),
    }  # fmt: skip
    frames = []
    for i in range(9):
        raw = 1000 + rng.normal(0, 5, (NY, NX))
        raw[:, half:] += 25 * (i == 4)
        image = raw.round().astype(np.uint16)
        frames.append(RawInput(f"b{i}", row, lambda image=image: (image, fits.Header())))
    assert set(codes(master_bias(frames).value.outcomes)) == {"b4"}


def test_crosstalk_is_removed_and_saturation_stays_that_of_the_raw_pixels():
    half = NX // 2
    row = {
        "nx": NX, "ny": NY, "hdu": 0, "gain_e_adu": 2.0, "read_noise_e": 10.0,
        "amplifiers": json.dumps([
            {"name": n, "hdu": 0, "data": f"[{x0}:{x1},1:{NY}]", "place": f"[{x0}:{x1},1:{NY}]",
             "bias": [], "gain": 2.0, "noise": 10.0, "saturation": 60_000.0}
            for n, x0, x1 in (("A", 1, half), ("B", half + 1, NX))
        ]),
    }  # fmt: skip
    electronics = {"crosstalk": {"A": {"B": 0.01}}}
    frames = []
    for i in range(6):
        raw = np.random.default_rng(i).normal(1000, 5, (NY, NX))
        raw[:, half:] += 500
        raw[20, half + 10] = 61_000
        raw[:, :half] += 0.01 * raw[:, half:]
        image = raw.round().astype(np.uint16)
        frames.append(RawInput(f"b{i}", row, lambda image=image: (image, fits.Header())))
    master = master_bias(frames, electronics=electronics).value.master
    assert np.mean(master.sci[:, :half]) == pytest.approx(1000, abs=4 * 5 / np.sqrt(6 * NY * half))
    assert np.isnan(master.sci[20, half + 10])
    assert np.isfinite(np.delete(master.sci.ravel(), 20 * NX + half + 10)).all()


def test_columns_of_overscan_are_subtracted_before_the_second_pass(monkeypatch):
    """A level that changes along the columns, as parallel overscan gives it."""
    columns = 30 * np.cos(np.arange(NX) / 9.0)
    level = OverscanLevel(columns[None] + 1000, np.full((1, NX), 0.3), 5.0, 0.0, "test column")
    monkeypatch.setattr("skymill.assembly.fit_overscan", lambda *_, **__: level)
    frames = []
    for i in range(5):
        raw = np.random.default_rng(i).normal(1000, 5, (NY, NX)) + columns + pattern()
        row = {"biassec": "", "datasec": "", "nx": NX}
        frames.append(given(f"b{i}", raw.round().astype(np.uint16), **row))
    whole, small = (master_bias(frames, memory_mb=m).value.master for m in (250, 0.01))
    residual = whole.sci - pattern()
    assert residual.std() == pytest.approx(5.008 / np.sqrt(5), rel=4 / np.sqrt(2 * NY * NX))
    assert whole.header["OVSCAN"] == "test column"
    assert whole.sci.tobytes() == small.sci.tobytes()


def test_h224_one_truncated_file_among_twenty_costs_one_frame():
    arrays = [raw_bias(seed + 60) for seed in range(20)]

    def cut():
        raise FrameRejected("TRUNCATED", "the file holds 3 of 5 blocks.")

    frames = inputs(arrays)
    frames[7] = RawInput("b7", ROW, cut)
    result = master_bias(frames)
    assert result.numbers["n_used"] == 19
    assert codes(result.value.outcomes) == {"b7": "TRUNCATED"}
    assert result.flags == ()


def test_too_few_frames_fail_with_all_numbers(arrays):
    frames = inputs(arrays[:2])
    with pytest.raises(MasterFailed) as caught:
        master_bias(frames, master_id="bias-cam-2024", minimum=3)
    failure = caught.value
    assert failure.code == "TOO_FEW"
    assert failure.message == (
        "master_bias: group bias-cam-2024 has 2 usable of 2 frames, needs 3 "
        "(settings: master_bias.minimum). Rejected: none. Take more frames or lower the minimum."
    )
    assert failure.numbers == {"n_frames": 2, "n_used": 2, "minimum": 3}
    assert [outcome.status for outcome in failure.outcomes] == ["blocked"] * 2
    assert master_bias(frames, minimum=2).numbers["n_used"] == 2
    with pytest.raises(MasterFailed, match="0 usable of 0"):
        master_bias([])


def test_one_frame_uses_the_declared_noise(arrays):
    result = master_bias(inputs(arrays[:1]), minimum=1)
    master = result.value.master
    np.testing.assert_allclose(master.err, 5.0, rtol=0.01)
    assert result.numbers["read_noise_adu"] is None
    assert "RNADU" not in master.header


def test_contradicting_read_noise_is_flagged(arrays):
    frames = [given(f"b{i}", raw, read_noise_e=6.0) for i, raw in enumerate(arrays)]
    result = master_bias(frames)
    assert [flag for flag, _ in result.flags] == ["READ_NOISE_SUSPECT"]
    assert "6 electron" in result.flags[0][1]
    # the error is that of the frames, not the declared one
    assert np.median(result.value.master.err) == pytest.approx(5.008 / np.sqrt(10), rel=0.01)
    assert master_bias(frames, read_noise_tolerance=0.9).flags == ()


def test_odd_pixels_and_columns_get_bits(arrays):
    for raw in arrays:
        raw[30, 40] += 200
        raw[60, 70] -= 150
        raw[:, 100] += 300
        raw[:, 120] = 65_535
    master = master_bias(inputs(arrays)).value.master
    assert master.mask[30, 40] == MaskBit.HOT
    assert master.mask[60, 70] == MaskBit.COLD
    assert (master.mask[:, 100] == MaskBit.HOT).all()
    assert (master.mask[:, 120] == MaskBit.HOT | MaskBit.NO_DATA).all()
    assert np.isnan(master.sci[:, 120]).all()
    assert (master.mask[1:-1, [119, 121]] == MaskBit.HOT).all()  # charge leaks to neighbours
    rest = master.mask.copy()
    rest[30, 40] = rest[60, 70] = 0
    rest[:, 100] = rest[:, 119:122] = 0
    assert not rest.any()


def test_first_rows_that_settle_are_pattern_and_not_hot(arrays):
    ramp = (800 * np.exp(-np.arange(NY) / 3.0)).astype(np.uint16)
    for raw in arrays:
        np.subtract(raw, ramp[:, None], out=raw)
    master = master_bias(inputs(arrays)).value.master
    assert not master.mask.any()


def test_pixel_that_flips_between_two_levels_is_hot(arrays):
    for raw in arrays[::2]:
        raw[10, 10] += 60
    master = master_bias(inputs(arrays)).value.master
    assert master.mask[10, 10] & MaskBit.HOT


def test_telegraph_noise_within_the_threshold_is_unstable():
    frames = [raw_bias(seed + 500) for seed in range(20)]
    quiet = master_bias(inputs(frames))
    assert quiet.numbers["n_unstable"] == 0
    for raw in frames[::2]:
        raw[33, 44] += 24  # 12 ADU about its mean: 2.4 sigma, hardly ever an outlier
    result = master_bias(inputs(frames))
    assert result.value.master.nused[33, 44] >= 18
    assert result.numbers["n_unstable"] == 1
    assert result.value.master.mask[33, 44] == MaskBit.HOT


def test_frames_of_another_size_are_rejected(arrays):
    frames = inputs(arrays)
    small = np.full((50, 60), 1000, np.uint16)
    small[::2] += 3
    row = {"datasec": "", "biassec": "", "nx": 60, "ny": 50}
    frames[0] = given("b0", small, **row)
    result = master_bias(frames)
    assert codes(result.value.outcomes) == {"b0": "WRONG_SIZE"}


def test_constant_frame_is_rejected(arrays):
    frames = inputs(arrays)
    frames[1] = given("b1", np.full((NY, NX + 24), 1000, np.uint16))
    assert codes(master_bias(frames).value.outcomes) == {"b1": "CONSTANT"}


def test_iraf_convention_is_the_mean_without_the_highest(arrays):
    overscan = {"method": "mean", "fit": "spline3", "order": 9, "sigma_clip": 3.0, "iterations": 1}
    options = {"method": "minmax", "reject_low": 0, "reject_high": 1, "overscan": overscan}
    result = master_bias(inputs(arrays), **options)
    stack = np.stack([raw[:, :NX] - raw[:, NX:].mean(axis=1, keepdims=True) for raw in arrays])
    expected = np.sort(stack, axis=0)[:-1].mean(axis=0)
    # the spline takes the place of row means: 5 / sqrt(24 x 10) ADU per row, fewer degrees
    difference = result.value.master.sci - expected
    assert difference.std() < 1.1 * 5 / np.sqrt(24 * 10)
    assert abs(difference.mean()) < 4 * 5 / np.sqrt(24 * NY * 10)


def test_pair_noise_and_shortest_half():
    rng = np.random.default_rng(6)
    samples = (rng.normal(0, 3, (6, 40_000)) + 50).astype(np.float32)
    samples[2, :50] += 400
    # five pairs of 40 000: 0.35 % each
    assert pair_noise(samples) == pytest.approx(3, rel=0.012)
    assert np.isnan(pair_noise(samples[:1]))
    centre, sigma = shortest_half(np.array([0.0, 0.1, -0.1, 50, 50.4, 0.05, 49.3]))
    assert abs(centre) < 0.2
    assert sigma < 1


@pytest.mark.parametrize("noise", [0.12, 0.3])
def test_weights_of_frames_that_scatter_by_less_than_a_step(noise):
    """The noise of a frame came out as 0: weights without end, or good values rejected."""
    rng = np.random.default_rng(4)
    row = {"read_noise_e": 2.0 * noise, "datasec": "", "biassec": "", "nx": NX, "ny": NY}
    arrays = [(1000 + rng.normal(0, noise, (NY, NX))).round().astype(np.uint16) for _ in range(8)]
    for raw in arrays:
        raw[0, 0] = 1300  # a frame of one value would be refused
    frames = [given(f"b{i}", raw, **row) for i, raw in enumerate(arrays)]
    plain = master_bias(frames).value.master
    weighted = master_bias(frames, method="weighted").value.master
    assert np.isfinite(weighted.sci).all()
    # equal frames: the weights change next to nothing
    good = plain.mask == 0
    assert weighted.sci[good].std() == pytest.approx(plain.sci[good].std(), rel=0.02, abs=1e-3)
