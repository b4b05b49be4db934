"""What is there: detection, centres, widths, fluxes, flags."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from astropy.io import fits

from skymill.errors import StepFailed
from skymill.frame import Background, Frame, MaskBit
from skymill.kernels.detect import crowded_kernel, gaussian_kernel
from skymill.kernels.shapes import windowed_shapes
from skymill.steps.sources import FLAG_MEANINGS, SourceFlag, empty_sources_table, sources

SKY, READ_NOISE, SIDE = 300.0, 5.0, 600
NUMBERS = {
    "n_sources", "fwhm_px", "ellipticity", "sky_e", "sky_rms_e", "r_main_px", "r_total_px",
}  # fmt: skip


def profile(shape, x, y, flux, fwhm, *, beta=None, axis_ratio=1.0):
    """Stars integrated over the pixels on 5 x 5 sub-pixels; Gaussian or Moffat."""
    image, half = np.zeros(shape), int(max(12, 6 * fwhm))
    sub = (np.arange(5) - 2) / 5
    for cx, cy, f in zip(x, y, flux, strict=True):
        x0, x1 = max(0, round(cx) - half), min(shape[1], round(cx) + half + 1)
        y0, y1 = max(0, round(cy) - half), min(shape[0], round(cy) + half + 1)
        dx = (np.arange(x0, x1)[:, None] + sub).ravel() - cx
        dy = (np.arange(y0, y1)[:, None] + sub).ravel() - cy
        r2 = dx[None, :] ** 2 * axis_ratio + dy[:, None] ** 2 / axis_ratio
        if beta is None:
            sigma = fwhm / 2.3548
            fine = np.exp(-0.5 * r2 / sigma**2) / (2 * np.pi * sigma**2)
        else:
            alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
            fine = (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
        image[y0:y1, x0:x1] += f * fine.reshape(y1 - y0, 5, x1 - x0, 5).mean((1, 3))
    return image


def observe(mean, seed, bits=None):
    rng = np.random.default_rng(seed)
    raw = rng.poisson(mean) + rng.normal(0, READ_NOISE, mean.shape)
    err = np.sqrt(np.maximum(raw, 0) + READ_NOISE**2)
    bits = np.zeros(mean.shape, np.uint16) if bits is None else bits
    return Frame(raw, err, bits, fits.Header())


def sky_of(shape, level=SKY):
    mesh = np.full((-(-shape[0] // 64), -(-shape[1] // 64)), level, np.float32)
    rms = np.full(mesh.shape, np.sqrt(level + READ_NOISE**2), np.float32)
    return Background(mesh, rms, shape, 64, 0.02)


def grid(step=50, side=SIDE, seed=3):
    rng = np.random.default_rng(seed)
    g = np.arange(step // 2 + 5, side - 25, step)
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in np.meshgrid(g, g))
    return x, y


def match(table, x, y):
    """Index of the source nearest to each position, and the distances."""
    distance = np.hypot(table["x"][None, :] - x[:, None], table["y"][None, :] - y[:, None])
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.fixture(scope="module")
def stars():
    x, y = grid()
    flux = 10 ** np.random.default_rng(4).uniform(3.5, 5.5, x.size)
    mean = SKY + profile((SIDE, SIDE), x, y, flux, 3.0, beta=3.5)
    frame = observe(mean, seed=5)
    return frame, x, y, flux, sources(frame, sky_of(frame.shape))


def test_all_stars_and_nothing_else_is_found(stars):
    _, x, y, _, result = stars
    index, distance = match(result.value, x, y)
    assert distance.max() < 0.5
    assert len(set(index)) == len(x)
    assert len(result.value) <= len(x) + 2
    assert not result.flags


def test_table_has_the_promised_columns_units_and_order(stars):
    table, numbers = stars[4].value, stars[4].numbers
    assert table.colnames == empty_sources_table().colnames
    assert set(numbers) >= NUMBERS
    assert numbers["n_sources"] == len(table)
    assert list(table["source"]) == list(range(1, len(table) + 1))
    assert (np.diff(table["flux"]) <= 0).all()
    assert str(table["flux"].unit) == "electron"
    assert str(table["x"].unit) == "pix"
    assert all(table[name].description for name in table.colnames)
    assert all(table[name].dtype.kind in "if" for name in table.colnames)


def test_centres_have_true_errors(stars):
    _, x, y, _, result = stars
    index, _ = match(result.value, x, y)
    table = result.value[index]
    pulls = np.concatenate([(table["x"] - x) / table["x_err"], (table["y"] - y) / table["y_err"]])
    n = len(pulls)
    # The pixels are left out of the model: 5 % for the phase of the pixel grid.
    assert np.std(pulls) == pytest.approx(1, abs=4 / np.sqrt(2 * n) + 0.05)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(n)


def test_centres_of_undersampled_stars_have_true_errors():
    x, y = grid(30)
    flux = 10 ** np.random.default_rng(24).uniform(3.5, 5.5, x.size)
    frame = observe(SKY + profile((SIDE, SIDE), x, y, flux, 1.6), seed=25)
    table = sources(frame, sky_of(frame.shape)).value
    index, distance = match(table, x, y)
    table, x, y = table[index][distance < 1], x[distance < 1], y[distance < 1]
    pulls = np.concatenate([(table["x"] - x) / table["x_err"], (table["y"] - y) / table["y_err"]])
    assert len(pulls) > 500
    assert np.std(pulls) == pytest.approx(1, abs=4 / np.sqrt(2 * len(pulls)) + 0.1)


@pytest.mark.parametrize("beta", [None, 3.0])
@pytest.mark.parametrize("fwhm", [2.0, 3.0, 6.0])
def test_seeing_is_the_width_of_the_profile_on_the_pixels(fwhm, beta):
    x, y = grid(60)
    flux = np.full(x.size, 3e4 * fwhm)
    image = profile((SIDE, SIDE), x, y, flux, fwhm, beta=beta)
    frame = observe(SKY + image, seed=6)
    result = sources(frame, sky_of(frame.shape))
    # Width at half maximum of the pixel-integrated profile, found on a fine grid.
    offsets = np.linspace(0, 2 * fwhm, 2001)
    line = np.zeros(len(offsets))
    for shift in (np.arange(21) - 10) / 21:
        for across in (np.arange(21) - 10) / 21:
            r2 = (offsets + shift) ** 2 + across**2
            if beta is None:
                line += np.exp(-0.5 * r2 / (fwhm / 2.3548) ** 2)
            else:
                line += (1 + 4 * r2 * (2 ** (1 / beta) - 1) / fwhm**2) ** -beta
    true = 2 * offsets[np.argmin(np.abs(line / line[0] - 0.5))]
    assert result.numbers["fwhm_px"] == pytest.approx(true, rel=0.015)
    clean = result.value["flags"] == 0
    assert np.median(result.value["fwhm"][clean]) == pytest.approx(true, rel=0.03)
    assert result.numbers["r_main_px"] == pytest.approx(1.25 * result.numbers["fwhm_px"])


def test_elongation_and_angle_are_measured():
    x, y = grid(60)
    image = profile((SIDE, SIDE), x, y, np.full(x.size, 1e5), 4.0, axis_ratio=0.7)
    frame = observe(SKY + image, seed=7)
    result = sources(frame, sky_of(frame.shape))
    # Axes 4 / sqrt(0.7) and 4 sqrt(0.7), each with the pixel's 1/12 px^2 in quadrature.
    pixel = 2.3548**2 / 12
    expected = 1 - np.sqrt((16 * 0.7 + pixel) / (16 / 0.7 + pixel))
    assert result.numbers["ellipticity"] == pytest.approx(expected, abs=0.02)
    assert np.abs(np.median(result.value["theta"])) < 0.03
    assert not result.flags


def test_trailed_stars_are_flagged():
    x, y = grid(60)
    image = profile((SIDE, SIDE), x, y, np.full(x.size, 5e4), 3.0)
    trailed = sum(np.roll(image, shift, axis=1) for shift in range(-4, 5)) / 9
    frame = observe(SKY + trailed, seed=8)
    result = sources(frame, sky_of(frame.shape))
    assert [code for code, _ in result.flags] == ["TRAILED"]


def test_total_flux_is_the_light_of_the_star(stars):
    frame, x, y, flux, result = stars
    index, _ = match(result.value, x, y)
    table = result.value[index]
    alone = table["flags"] == 0
    r = result.numbers["r_total_px"]
    alpha = 3.0 / 2 / np.sqrt(2 ** (1 / 3.5) - 1)

    def inside(radius):
        return 1 - (1 + radius**2 / alpha**2) ** (1 - 3.5)

    fwhm = result.numbers["fwhm_px"]
    ring = (inside(r + 4 * fwhm) - inside(r + fwhm)) / (
        np.pi * ((r + 4 * fwhm) ** 2 - (r + fwhm) ** 2)
    )
    fraction = inside(r) - np.pi * r**2 * ring
    pulls = ((table["flux_total"] - fraction * flux) / table["flux_total_err"])[alone]
    n = alone.sum()
    assert n > 80
    assert np.std(pulls) == pytest.approx(1, abs=4 / np.sqrt(2 * n))
    assert abs(np.mean(pulls)) < 4 / np.sqrt(n)
    assert frame.sci.flags.writeable is False


def test_error_of_the_background_is_in_the_flux_error(stars):
    frame = stars[0]
    sky = sky_of(frame.shape)
    worse = Background(sky.level, sky.rms, sky.shape, 64, 2.0)
    one, two = sources(frame, sky).value, sources(frame, worse).value
    area = np.pi * (1.25 * stars[4].numbers["fwhm_px"]) ** 2
    added = np.sqrt(two["flux_err"] ** 2 - one["flux_err"] ** 2)
    np.testing.assert_allclose(added, area * np.sqrt(2.0**2 - 0.02**2), rtol=1e-6)


def test_empty_sky_gives_an_empty_table_and_a_code():
    frame = observe(np.full((400, 400), SKY), seed=9)
    result = sources(frame, sky_of(frame.shape), {"frame_id": "dark-12345678"})
    assert len(result.value) == 0
    assert result.value.colnames == empty_sources_table().colnames
    assert [code for code, _ in result.flags] == ["NO_STARS"]
    assert "dark-12345678" in result.flags[0][1]
    assert result.numbers["fwhm_px"] is None


def test_noise_is_not_taken_for_stars():
    found = 0
    for seed in range(4):
        frame = observe(np.full((SIDE, SIDE), (30.0, SKY)[seed % 2]), seed=10 + seed)
        found += len(sources(frame, sky_of(frame.shape, (30.0, SKY)[seed % 2])).value)
    # 1.4 megapixels; about 0.1 per megapixel are expected.
    assert found <= 3


def test_single_star_is_few_stars():
    image = profile((200, 200), [100.3], [90.2], [5e4], 3.0)
    frame = observe(SKY + image, seed=14)
    result = sources(frame, sky_of(frame.shape))
    assert len(result.value) == 1
    assert [code for code, _ in result.flags] == ["FEW_STARS"]
    assert result.numbers["fwhm_px"] == pytest.approx(3.08, abs=0.1)


def test_frame_without_a_good_pixel_fails():
    bits = np.full((100, 100), MaskBit.DEAD, np.uint16)
    with pytest.raises(StepFailed, match="no pixel"):
        sources(observe(np.full((100, 100), SKY), 15, bits), sky_of((100, 100)))


def flags_at(result, x, y):
    index, distance = match(result.value, np.array([x]), np.array([y]))
    assert distance[0] < 3
    return SourceFlag(int(result.value["flags"][index[0]])), result.value[index[0]]


def test_flags_tell_what_is_wrong_with_a_source():
    x, y = grid(60)
    flux = np.full(x.size, 5e4)
    x[0], y[0] = 2.0, 85.0
    mean = SKY + profile((SIDE, SIDE), x, y, flux, 3.0)
    bits = np.zeros(mean.shape, np.uint16)

    def pixel(k, dx=0, dy=0):
        return round(y[k]) + dy, round(x[k]) + dx

    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            bits[pixel(20, dx, dy)] = MaskBit.SATURATED
    bits[pixel(30, 2)] = MaskBit.COSMIC
    bits[pixel(40, 2)] = bits[pixel(40, -2)] = MaskBit.DEAD
    bits[round(y[40]) - 2 : round(y[40]) + 3, round(x[40]) + 2] = MaskBit.DEAD
    bits[round(y[40]) - 2 : round(y[40]) + 3, round(x[40]) - 2] = MaskBit.DEAD
    bits[pixel(50, 9)] = MaskBit.HOT
    close = profile(mean.shape, [x[60] + 8], [y[60]], [4e4], 3.0)
    frame = observe(mean + close, seed=16, bits=bits)
    result = sources(frame, sky_of(frame.shape))

    assert flags_at(result, x[10], y[10])[0] == 0
    assert SourceFlag.EDGE in flags_at(result, x[0], y[0])[0]
    flag, row = flags_at(result, x[20], y[20])
    assert SourceFlag.SATURATED | SourceFlag.CENTRE_MASKED in flag
    assert np.isnan(row["flux"])
    assert row["source"] == len(result.value)
    flag, row = flags_at(result, x[30], y[30])
    assert SourceFlag.COSMIC | SourceFlag.MASKED_APERTURE in flag
    assert SourceFlag.INCOMPLETE_APERTURE not in flag
    assert row["mask_or"] == MaskBit.COSMIC
    flag, row = flags_at(result, x[40], y[40])
    assert SourceFlag.INCOMPLETE_APERTURE in flag
    flag, _ = flags_at(result, x[50], y[50])
    assert flag == SourceFlag.MASKED_TOTAL
    flag, row = flags_at(result, x[60], y[60])
    assert SourceFlag.NEIGHBOUR in flag
    assert row["flux_total"] == pytest.approx(5e4, rel=0.03)


def test_every_flag_has_a_meaning_and_unusable_is_a_selection():
    assert set(FLAG_MEANINGS) == set(SourceFlag)
    assert SourceFlag.SATURATED in SourceFlag.unusable()
    assert SourceFlag.BLENDED not in SourceFlag.unusable()
    # a standard star with a hit in its wing is still a standard star
    assert SourceFlag.COSMIC not in SourceFlag.unusable()
    assert SourceFlag.CENTRE_MASKED in SourceFlag.unusable()


def test_sharp_and_extended_sources_are_told_from_stars():
    x, y = grid(60)
    mean = SKY + profile((SIDE, SIDE), x, y, np.full(x.size, 3e4), 4.0)
    mean += profile(mean.shape, [55.0], [58.0], [3e4], 10.0)
    mean[118, 116] += 3000
    mean[118, 117] += 2500
    mean[119, 116] += 2500
    mean[119, 117] += 2000
    frame = observe(mean, seed=17)
    result = sources(frame, sky_of(frame.shape), aperture_fwhm=1.0)
    assert SourceFlag.SHARP in flags_at(result, 116.5, 118.5)[0]
    assert SourceFlag.EXTENDED in flags_at(result, 55, 58)[0]


def test_dense_cluster_is_resolved_against_its_own_light():
    rng = np.random.default_rng(18)
    x, y = rng.uniform(10, 390, 3000), rng.uniform(10, 390, 3000)
    flux = 10 ** rng.uniform(3.5, 5, 3000)
    frame = observe(SKY + profile((400, 400), x, y, flux, 3.0), seed=19)
    result = sources(frame, sky_of(frame.shape))
    assert result.numbers["crowded"] == 1
    assert len(result.value) > 600


def test_only_the_brightest_are_kept(stars):
    frame, _, _, _, result = stars
    few = sources(frame, sky_of(frame.shape), max_sources=10)
    assert len(few.value) == 10
    assert few.value["flux"].min() > np.sort(result.value["flux"])[-20]


def test_result_repeats_and_the_frame_is_untouched(stars):
    frame, _, _, _, result = stars
    before = frame.sci.copy()
    again = sources(frame, sky_of(frame.shape)).value
    for name in again.colnames:
        np.testing.assert_array_equal(again[name], result.value[name])
    np.testing.assert_array_equal(frame.sci, before)


def test_windowed_centres_equal_those_of_sep(stars):
    frame, x, y, _, _ = stars
    sci = (frame.sci - np.float32(SKY)).astype(np.float32)
    sigma = 3.1 / 2.3548
    nothing = np.zeros(sci.shape, np.int32)
    ours = windowed_shapes(
        sci, frame.err, np.zeros(sci.shape, bool), nothing, np.ones(len(x)), x, y, sigma,
        max_shift_px=2.0,
    )  # fmt: skip
    theirs_x, theirs_y, _ = sep.winpos(sci, x, y, sigma)
    # The window is sampled at pixel centres here and on sub-pixels at its rim there.
    np.testing.assert_allclose(ours.x, theirs_x, atol=3e-3)
    np.testing.assert_allclose(ours.y, theirs_y, atol=3e-3)


def test_kernels_are_odd_and_the_crowded_one_sums_to_zero():
    for fwhm in (0.5, 2.0, 3.0, 8.0, 40.0):
        kernel = gaussian_kernel(fwhm)
        assert kernel.shape[0] % 2 == 1
        assert kernel.shape[0] <= 9
        assert abs(crowded_kernel(fwhm).sum()) < 1e-5


def test_page_lists_every_flag_as_the_code_has_it(repository):
    page = (repository / "docs" / "sources.md").read_text(encoding="utf-8")
    for flag in SourceFlag:
        assert f"| {flag.name} | {int(flag)} | {FLAG_MEANINGS[flag]} |" in page


@pytest.mark.parametrize("frames", [4, 16])
def test_noise_of_an_averaged_image_makes_no_sources(frames):
    """A28: the error of a mean of frames follows the pixel less than that of one frame does."""
    rng = np.random.default_rng(frames)
    mean = np.full((SIDE, SIDE), SKY)
    raw = rng.poisson(mean * frames) / frames
    raw += rng.normal(0, READ_NOISE / np.sqrt(frames), mean.shape)
    err = np.sqrt((np.maximum(raw, 0) + READ_NOISE**2) / frames)
    frame = Frame(raw, err, np.zeros(mean.shape, np.uint16), fits.Header())
    rms = np.full((10, 10), np.sqrt((SKY + READ_NOISE**2) / frames), np.float32)
    sky = Background(np.full((10, 10), SKY, np.float32), rms, mean.shape, 64, 0.02)
    # Beyond 4.5 sigma chance makes one detection of four pixels in a million pixels at most.
    assert len(sources(frame, sky, threshold_sigma=4.5).value) <= 1
