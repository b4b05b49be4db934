"""What the wings of a bright star explain, and what they do not."""

import numpy as np
from astropy.io import fits

from skymill.completeness import moffat_stamp
from skymill.frame import Background, Frame
from skymill.steps._wings import on_wings
from skymill.steps.sources import sources


def scene(rng, stars, shape=(400, 400), sky=300.0):
    image = np.zeros(shape)
    for x, y, flux in stars:
        light = flux * moffat_stamp(4.0, 2.5)
        half = light.shape[0] // 2
        image[y - half : y + half + 1, x - half : x + half + 1] += light
    image = rng.poisson(image + sky) - sky
    err = np.sqrt(np.maximum(image, 0) + sky)
    mesh = np.ones((8, 8), np.float32)
    frame = Frame(
        image.astype(np.float32), err.astype(np.float32), np.zeros(shape, np.uint16), fits.Header()
    )
    return frame, Background(0 * mesh, np.float32(np.sqrt(sky)) * mesh, shape, 50, 0.0)


def test_isolated_stars_above_the_limit_are_all_found():
    # The cleaning of the detection library dropped a fifth of such stars.
    rng = np.random.default_rng(1)
    stars = [(x, y, 2500.0) for x in range(30, 380, 34) for y in range(30, 380, 34)]
    stars[60] = (*stars[60][:2], 60_000.0)
    frame, sky = scene(rng, stars)
    found = sources(frame, sky).value
    places = np.column_stack([found["x"], found["y"]])
    gaps = [np.hypot(*(places - [x, y]).T).min() for x, y, _ in stars]
    assert np.mean(np.array(gaps) < 2) > 0.98
    assert len(found) <= len(stars) + 1


def test_noise_on_the_wings_of_a_bright_star_is_no_source():
    rng = np.random.default_rng(2)
    extra = []
    for trial in range(6):
        frame, sky = scene(rng, [(200, 200, 3e6), (60, 60, 2e4)])
        found = sources(frame, sky).value
        near = np.hypot(np.asarray(found["x"]) - 200, np.asarray(found["y"]) - 200) < 48
        extra.append(near.sum() - 1)
    assert np.mean(extra) < 1


def test_a_wing_explains_faint_neighbours_and_not_equal_ones():
    x, y = np.array([100.0, 108.0, 100.0]), np.array([100.0, 100.0, 150.0])
    assert on_wings(x, y, np.array([1e5, 300.0, 300.0]), 4.0).tolist() == [False, True, False]
    assert not on_wings(x, y, np.array([1e5, 5e4, 300.0]), 4.0).any()
    assert on_wings(x[:1], y[:1], np.array([5.0]), 4.0).tolist() == [False]
