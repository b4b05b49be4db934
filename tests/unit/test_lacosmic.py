"""L.A.Cosmic against astroscrappy with full medians: the same mask, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from astroscrappy import detect_cosmics

from skymill.kernels.lacosmic import lacosmic

SIDE = 200


def field(
    seed: int,
    *,
    stars: int = 40,
    hits: int = 30,
    fwhm: float = 2.5,
    sky: float = 400.0,
    noise: float = 6.0,
    shape: tuple[int, int] = (SIDE, SIDE + 31),
) -> np.ndarray:
    """Stars and tracks of cosmic rays, also across the edges, in electron."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    y, x = np.mgrid[:ny, :nx]
    image = np.full(shape, sky)
    sigma = fwhm / 2.3548
    for _ in range(stars):
        cx, cy, flux = rng.uniform(-3, nx + 3), rng.uniform(-3, ny + 3), 10 ** rng.uniform(2.5, 6)
        part = (
            slice(max(0, int(cy) - 15), int(cy) + 16),
            slice(max(0, int(cx) - 15), int(cx) + 16),
        )
        r2 = (x[part] - cx) ** 2 + (y[part] - cy) ** 2
        image[part] += flux / (2 * np.pi * sigma**2) * np.exp(-r2 / (2 * sigma**2))
    image = rng.poisson(image) + rng.normal(0, noise, shape)
    for _ in range(hits):
        cx, cy, angle = rng.uniform(-2, nx + 2), rng.uniform(-2, ny + 2), rng.uniform(0, 2 * np.pi)
        charge = 10 ** rng.uniform(2, 4.5)
        for step in range(rng.integers(1, 15)):
            i, j = int(cx + step * np.cos(angle)), int(cy + step * np.sin(angle))
            if 0 <= i < nx and 0 <= j < ny:
                image[j, i] += charge * rng.uniform(0.3, 1)
    return image.astype(np.float32)


def peer(image: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    wanted = {"gain": 1.0, "satlevel": np.inf, "readnoise": 6.0, "sigclip": 4.5, "objlim": 5.0}
    return detect_cosmics(
        image, sepmed=False, fsmode="median", cleantype="meanmask", **(wanted | options)
    )


FIELDS = {
    "sparse": {},
    "crowded": {"stars": 500},
    "undersampled": {"fwhm": 1.3},
    "wide": {"fwhm": 6.0},
    "many hits": {"hits": 600},
    "dark sky": {"sky": 3.0, "noise": 3.0},
    "none": {"stars": 0, "hits": 0},
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_variance", [False, True])
def test_mask_and_replacements_equal_the_peer(name, with_mask, with_variance):
    image = field(7, **FIELDS[name])
    rng = np.random.default_rng(8)
    bad = rng.random(image.shape) < 0.02 if with_mask else None
    variance = (np.abs(image) * 1.1 + 40).astype(np.float32) if with_variance else None
    mask, clean = peer(image, inmask=bad, invar=variance, satlevel=50_000.0)
    found = lacosmic(image, variance=variance, mask=bad, read_noise=6.0, satlevel=50_000.0)
    # float32 throughout in the same order: no pixel at a threshold had to be excused
    assert np.count_nonzero(found.mask != mask) == 0
    np.testing.assert_allclose(found.clean, clean, rtol=1e-6)
    if name not in ("none",):
        assert mask.sum() > 50


def test_a_background_plane_is_taken_off_but_keeps_its_photons():
    image = field(3)
    x = np.arange(image.shape[1], dtype=np.float32)
    plane = np.broadcast_to(300 + 200 * np.exp(-(((x - 100) / 3) ** 2)), image.shape)
    plane = plane.astype(np.float32)
    mask, clean = peer(image + plane, inbkg=plane)
    found = lacosmic(image + plane, background=plane, read_noise=6.0)
    assert np.count_nonzero(found.mask != mask) == 0
    np.testing.assert_allclose(found.clean, clean, rtol=1e-5)


@pytest.mark.parametrize("niter", [1, 2, 4])
@pytest.mark.parametrize(("sigclip", "sigfrac", "objlim"), [(5.0, 0.3, 6.0), (3.0, 0.8, 2.0)])
def test_other_settings_equal_the_peer_too(niter, sigclip, sigfrac, objlim):
    image = field(11, hits=100)
    options = {"sigclip": sigclip, "sigfrac": sigfrac, "objlim": objlim, "niter": niter}
    mask, _ = peer(image, **options)
    assert np.count_nonzero(lacosmic(image, read_noise=6.0, **options).mask != mask) == 0


def test_a_hit_in_a_hole_takes_the_median_of_the_frame():
    image = field(5, stars=0, hits=0)
    image[100:101, 100:101] += 20_000
    bad = np.zeros(image.shape, bool)
    bad[95:106, 95:106] = True
    bad[99:102, 99:102] = False  # grows shut except for the hit's own pixel
    mask, clean = peer(image, inmask=bad)
    found = lacosmic(image, mask=bad, read_noise=6.0)
    assert mask[100, 100]
    assert np.count_nonzero(found.mask != mask) == 0
    np.testing.assert_allclose(found.clean, clean, rtol=1e-6)


def test_a_hit_in_a_hole_takes_the_value_it_is_given():
    image = field(5, stars=0, hits=0)
    image[100, 100] += 20_000
    bad = np.zeros(image.shape, bool)
    bad[95:106, 95:106] = True
    bad[99:102, 99:102] = False
    found = lacosmic(image, mask=bad, read_noise=6.0, fallback=(123.0, 400.0))
    assert found.mask[100, 100]
    assert found.clean[100, 100] == 123


def test_work_in_place_gives_the_same():
    image = field(6, hits=200)
    variance = (np.abs(image) + 36).astype(np.float32)
    copied = lacosmic(image, variance=variance)
    inside = lacosmic(image, variance=variance, overwrite=True)
    np.testing.assert_array_equal(inside.mask, copied.mask)
    np.testing.assert_array_equal(inside.clean, copied.clean)
    assert inside.clean is image


@pytest.mark.parametrize("shape", [(5, 5), (6, 40), (40, 7), (12, 12)])
def test_small_images_are_all_border(shape):
    image = field(2, stars=1, hits=4, shape=shape)
    mask, clean = peer(image)
    found = lacosmic(image, read_noise=6.0)
    assert np.count_nonzero(found.mask != mask) == 0
    np.testing.assert_allclose(found.clean, clean, rtol=1e-6)


def test_everything_masked_finds_nothing():
    image = field(2)
    found = lacosmic(image, mask=np.ones(image.shape, bool), read_noise=6.0)
    assert not found.mask.any()
    assert found.candidates == 0


def test_input_is_not_modified_and_must_be_finite():
    image = field(2)
    before = image.copy()
    lacosmic(image, read_noise=6.0)
    np.testing.assert_array_equal(image, before)
    image[3, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        lacosmic(image, read_noise=6.0)
    with pytest.raises(ValueError, match="5 x 5"):
        lacosmic(image[:4])
    with pytest.raises(ValueError, match="shape"):
        lacosmic(before, variance=before[1:])
