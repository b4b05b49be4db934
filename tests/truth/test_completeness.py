"""The magnitude of half completeness: injected stars against theory, in independent noise."""

import numpy as np
import pytest
from astropy.io import fits

from skymill.completeness import completeness, expected_half, moffat_stamp
from skymill.frame import Background, Frame
from skymill.steps.sources import sources

SKY, READ_NOISE = 300.0, 6.0


def empty_frame(rng, shape=(700, 700)):
    sigma = np.sqrt(SKY + READ_NOISE**2)
    image = rng.poisson(SKY, shape) + rng.normal(0, READ_NOISE, shape) - SKY
    return (
        Frame(
            image.astype(np.float32), np.full(shape, sigma, np.float32),
            np.zeros(shape, np.uint16), fits.Header(),
        ),
        sigma,
    )  # fmt: skip


def flat_background(shape, sigma):
    mesh = np.ones((shape[0] // 50, shape[1] // 50), np.float32)
    return Background(0 * mesh, np.float32(sigma) * mesh, shape, 50, 0.0)


@pytest.mark.parametrize(("fwhm", "beta"), [(2.5, 3.0), (4.0, np.inf)])
def test_half_of_the_stars_are_found_where_theory_says(fwhm, beta):
    rng = np.random.default_rng(int(10 * fwhm))
    frame, sigma = empty_frame(rng)
    sky = flat_background(frame.shape, sigma)

    def detect(planted):
        table = sources(planted, sky, threshold_sigma=4.5, minimum_area_px=4).value
        return np.column_stack([table["x"], table["y"]]).astype(float)

    # The seeing is measured from bright stars, as on a real frame.
    stars = [(x, y) for x in (60, 350, 640) for y in (60, 350, 640)]
    bright = frame.sci.copy()
    for x, y in stars:
        light = 40_000 * moffat_stamp(fwhm, beta)
        half = light.shape[0] // 2
        bright[y - half : y + half + 1, x - half : x + half + 1] += rng.poisson(light)
    frame = frame.replace(sci=bright.astype(np.float32))
    result = completeness(
        frame, np.array(stars, float), detect, noise_e=sigma, fwhm_px=fwhm, beta=beta,
        threshold_sigma=4.5, minimum_area_px=4, number=500, seed=1,
    )  # fmt: skip
    assert result.half_err_mag < 0.06
    assert abs(result.offset_mag) < 0.1 + 2 * result.half_err_mag
    assert result.fraction[-1] > 0.97
    assert result.fraction[0] < 0.1


def test_the_expected_limit_follows_noise_and_threshold():
    one = expected_half(10.0, 3.0, 4.0, 4.5, 4)
    assert expected_half(20.0, 3.0, 4.0, 4.5, 4) == pytest.approx(2 * one)
    assert expected_half(10.0, 3.0, 4.0, 9.0, 4) == pytest.approx(2 * one)
    assert expected_half(10.0, 3.0, 4.0, 4.5, 8) > one


def test_planted_stars_have_the_light_and_width_that_were_asked_for():
    for beta in (3.0, np.inf):
        stamp = moffat_stamp(4.0, beta, (0.3, -0.2))
        assert stamp.sum() == pytest.approx(1.0)
        y, x = np.indices(stamp.shape) - stamp.shape[0] // 2
        assert ((stamp * x).sum(), (stamp * y).sum()) == pytest.approx((0.3, -0.2), abs=0.02)


def test_a_crowded_frame_has_no_room_and_says_so():
    rng = np.random.default_rng(1)
    frame, sigma = empty_frame(rng, (120, 120))
    everywhere = rng.uniform(0, 120, (400, 2))
    with pytest.raises(ValueError, match="room for"):
        completeness(
            frame, everywhere, lambda _: everywhere, noise_e=sigma, fwhm_px=3.0, beta=3.0,
            threshold_sigma=4.5, minimum_area_px=4,
        )  # fmt: skip
