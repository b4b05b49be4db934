"""The errors of a stack against planted truth: pulls, fluxes, weights, outliers."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skymill.frame import Background, Frame, MaskBit
from skymill.grid import field_grid
from skymill.kernels.apertures import aperture_sum
from skymill.resample import local_factor
from skymill.steps.stack import StackFrame, StackInput, stack

SKY, READ_NOISE = 200.0, 5.0


def sky_wcs(shape, *, rotation=0.0, shift=(0.0, 0.0), scale=0.5):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 20.0]
    wcs.wcs.crpix = [(shape[1] + 1) / 2 + shift[0], (shape[0] + 1) / 2 + shift[1]]
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    wcs.wcs.set()
    return wcs


def stars_image(shape, x, y, flux, sigma):
    """Sampled Gaussians of sum ``flux``; sigma >= 1.2 px, so the sum is exact to 1e-6."""
    image = np.zeros(shape)
    half = int(np.ceil(7 * sigma))
    for xs, ys, f in zip(x, y, flux, strict=True):
        i0, j0 = int(round(xs)), int(round(ys))
        i = np.arange(max(i0 - half, 0), min(i0 + half + 1, shape[1]))
        j = np.arange(max(j0 - half, 0), min(j0 + half + 1, shape[0]))
        if not i.size or not j.size:
            continue
        gx, gy = np.exp(-((i - xs) ** 2) / 2 / sigma**2), np.exp(-((j - ys) ** 2) / 2 / sigma**2)
        image[np.ix_(j, i)] += f * np.outer(gy, gx) / (2 * np.pi * sigma**2)
    return image


def observe(
    name,
    wcs,
    shape,
    stars,
    rng,
    *,
    throughput=1.0,
    exptime=60.0,
    sigma=1.6,
    noise=True,
    sky=SKY,
    extra=None,
):
    """One frame of the stars (ra, dec, rate) with Poisson and read noise."""
    image = np.full(shape, float(sky))
    if stars is not None:
        x, y = wcs.all_world2pix(stars.ra, stars.dec, 0)
        image += stars_image(shape, x, y, stars.rate * throughput * exptime, sigma)
    data = rng.poisson(image) + rng.normal(0, READ_NOISE, shape) if noise else image
    mask = np.zeros(shape, np.uint16)
    if extra is not None:
        data = data + extra
    frame = Frame(data, np.sqrt(image + READ_NOISE**2), mask, fits.Header(), wcs)
    cells = tuple(-(-n // 64) for n in shape)
    level = np.full(cells, sky, np.float32)
    rms = np.full(cells, np.sqrt(sky + READ_NOISE**2), np.float32)
    pixels = StackFrame(frame, Background(level, rms, shape, 64, 0.0))
    known = {"throughput": throughput, "fwhm_px": 2.3548 * sigma}
    row = {"exptime_s": exptime, "mjd_mid": 60000.0}
    return StackInput(name, row, wcs, shape, known, lambda: pixels)


def combined(inputs, **settings):
    grid = field_grid([(item.frame_id, item.wcs, item.shape) for item in inputs])
    return stack(inputs, grid, **settings).value


def lattice(shape, spacing=18, margin=40):
    y, x = np.mgrid[margin : shape[0] - margin : spacing, margin : shape[1] - margin : spacing]
    return x.ravel().astype(float), y.ravel().astype(float)


@pytest.mark.parametrize(
    ("frames", "kernel", "wrong"),
    [(1, "bilinear", 1.2), (4, "bilinear", 1.2), (1, "lanczos3", 1.04), (4, "lanczos3", 1.04)],
)
def test_empty_apertures_have_pulls_of_width_one_with_the_factor(frames, kernel, wrong):
    shape, radius = (620, 620), 4.0
    pulls, naive = [], []
    for seed in (1, 2, 3):
        rng = np.random.default_rng([77, frames, seed])
        inputs = [
            observe(
                f"f{i}",
                sky_wcs(shape, rotation=r, shift=rng.uniform(-9, 9, 2)),
                shape,
                None,
                rng,
                throughput=t,
                exptime=e,
            )
            for i, (r, t, e) in enumerate(
                [(0.0, 1.0, 60.0), (12.0, 0.8, 60.0), (-3.0, 0.6, 90.0), (0.05, 1.1, 30.0)]
            )
        ]
        # One frame alone on the grid of all: rotated against it.
        grid = field_grid([(i.frame_id, i.wcs, i.shape) for i in inputs], reference="f0")
        product = stack(inputs[1:2] if frames == 1 else inputs, grid, kernel=kernel).value
        x, y = lattice(grid.shape)
        full = product.coverage[y.astype(int), x.astype(int)] == frames
        sums = aperture_sum(product.frame.sci, product.frame.err, product.frame.mask, x, y, radius)
        use = full & (sums.masked_area == 0)
        factor = local_factor(product.noise_correlation, product.correlation_map, x, y, radius)
        naive.append((sums.flux / sums.flux_err)[use])
        pulls.append((sums.flux / sums.flux_err / factor)[use])
    pulls, naive = np.concatenate(pulls), np.concatenate(naive)
    assert pulls.size > 2000
    # Standard errors 0.016 (width) and 0.022 (mean) at 2000.
    assert abs(pulls.std() - 1) < 0.065
    assert abs(pulls.mean()) < 0.09
    # The same pulls without the factor: no noise between the two widths.
    assert naive.std() > wrong * pulls.std()


def test_stars_have_pulls_of_width_one_and_no_bias():
    shape, radius = (700, 700), 6.0
    rng = np.random.default_rng(5)
    n = 28
    gx, gy = np.meshgrid(np.linspace(60, 640, n), np.linspace(60, 640, n))
    where = sky_wcs(shape)
    ra, dec = where.all_pix2world(
        gx.ravel() + rng.uniform(-0.5, 0.5, n * n), gy.ravel() + rng.uniform(-0.5, 0.5, n * n), 0
    )
    stars = SimpleNamespace(ra=ra, dec=dec, rate=10 ** rng.uniform(1.5, 4, n * n))
    inputs = [
        observe(
            f"f{i}",
            sky_wcs(shape, rotation=2.5 * i, shift=rng.uniform(-4, 4, 2)),
            shape,
            stars,
            rng,
            throughput=t,
        )
        for i, t in enumerate((1.0, 0.7, 0.85))
    ]
    product = combined(inputs, reference="f0")
    x, y = product.frame.wcs.all_world2pix(ra, dec, 0)
    sums = aperture_sum(product.frame.sci, product.frame.err, product.frame.mask, x, y, radius)
    # Lanczos3 keeps the second moment.
    inside = 1 - np.exp(-(radius**2) / 2 / 1.6**2)
    truth = stars.rate * 60 * inside
    use = (sums.masked_area == 0) & (product.coverage[y.astype(int), x.astype(int)] == 3)
    factor = local_factor(product.noise_correlation, product.correlation_map, x, y, radius)
    pull = ((sums.flux - truth) / sums.flux_err / factor)[use]
    assert use.sum() > 500
    # Standard error of the width 0.032 at 500; of the mean 0.045.
    assert abs(pull.std() - 1) < 0.13
    assert abs(pull.mean()) < 0.18


def planted(shape, n, rng, margin=45.0):
    grid = np.linspace(margin, shape[0] - margin, n)
    gx, gy = (g.ravel() + rng.uniform(-0.5, 0.5, n * n) for g in np.meshgrid(grid, grid))
    ra, dec = sky_wcs(shape).all_pix2world(gx, gy, 0)
    return SimpleNamespace(ra=ra, dec=dec, rate=np.full(n * n, 1000.0))


def test_flux_is_conserved_to_half_a_millimagnitude():
    shape = (260, 260)
    rng = np.random.default_rng(8)
    stars = planted(shape, 5, rng)
    cases = [(0.0, 0.0), (20.0, 0.3), (-3.0, 0.5)]
    inputs = [
        observe(f"f{i}", sky_wcs(shape, rotation=r, shift=(d, -d)), shape, stars, rng, noise=False)
        for i, (r, d) in enumerate(cases)
    ]
    product = combined(inputs, reference="f0")
    x, y = product.frame.wcs.all_world2pix(stars.ra, stars.dec, 0)
    sums = aperture_sum(product.frame.sci, product.frame.err, product.frame.mask, x, y, 11.0)
    assert (product.coverage[y.astype(int), x.astype(int)] == 3).all()
    ratio = sums.flux / 60000.0
    assert np.abs(ratio - 1).max() < 0.5e-3 / 1.0857


@pytest.mark.parametrize("convention", ["flux", "surface_brightness"])
def test_pixel_area_is_right_in_both_conventions(convention):
    shape = (560, 560)
    rng = np.random.default_rng(9)
    stars = planted(shape, 14, rng)
    inputs = [observe("a", sky_wcs(shape, rotation=20), shape, stars, rng, noise=False, sigma=2.0)]
    grid = field_grid([(i.frame_id, i.wcs, i.shape) for i in inputs], pixel_scale_arcsec=0.6)
    product = stack(inputs, grid, convention=convention).value
    x, y = grid.wcs.all_world2pix(stars.ra, stars.dec, 0)
    sums = aperture_sum(product.frame.sci, product.frame.err, product.frame.mask, x, y, 12.0)
    area = 1.0 if convention == "flux" else (0.6 / 0.5) ** 2
    ratio = (sums.flux * area / 60000.0)[sums.masked_area == 0]
    assert ratio.size > 120
    assert np.abs(ratio - 1).max() < 0.5e-3 / 1.0857


@pytest.mark.parametrize(("clip", "limit"), [(1000.0, 1.01), (4.5, 1.02)])
def test_variance_is_that_of_inverse_variance_weights(clip, limit):
    shape = (400, 400)
    rng = np.random.default_rng(21)
    # Whole pixels, so resampling does nothing: the optimum is known exactly.
    cases = [(1.0, 60.0, 100.0), (0.7, 60.0, 900.0), (0.9, 30.0, 100.0), (0.5, 120.0, 2500.0)]
    inputs = [
        observe(f"f{i}", sky_wcs(shape), shape, None, rng, throughput=t, exptime=e, sky=sky)
        for i, (t, e, sky) in enumerate(cases)
    ]
    product = combined(inputs, reference="f0", clip_sigma=clip, grow_sigma=min(clip, 2.5))
    scale = np.array([60.0 / e / t for t, e, _ in cases])
    variance = scale**2 * (np.array([sky for _, _, sky in cases]) + READ_NOISE**2)
    best = 1 / (1 / variance).sum()
    good = product.coverage > 0
    measured = product.frame.sci[good].astype(float).var()
    # Standard error of a variance of 160 000 pixels: 0.35 %.
    assert measured < (limit + 4 * 0.0036) * best
    assert measured > (1 - 4 * 0.0036) * best
    equal = variance.mean() / 4
    assert equal > 1.5 * best
    pull = product.frame.sci[good] / product.frame.err[good]
    assert abs(pull.std() - 1) < 0.01


def test_eight_sigma_outliers_are_rejected_from_three_frames():
    """Row E66: a threshold on the scatter of three values rejects nothing."""
    shape = (420, 420)
    rng = np.random.default_rng(31)
    sigma = np.sqrt(SKY + READ_NOISE**2)
    hits = np.zeros(shape)
    hits[10:-10:7, 10:-10:7] = 8 * sigma
    inputs = [
        observe(f"f{i}", sky_wcs(shape), shape, None, rng, extra=hits if i == 1 else None)
        for i in range(3)
    ]
    product = combined(inputs, clip_sigma=4.0, grow_sigma=4.0)
    planted = hits > 0
    rejected = product.coverage == 2
    # 3249 planted: 99 % has a standard error of 0.17 %; 100 % is expected.
    assert rejected[planted].mean() >= 0.99
    # Per value, not per pixel: three values each; 4 sigma against the median of 3.
    assert rejected[~planted].mean() / 3 < 0.0005
    bias = product.frame.sci[planted].mean() / (sigma / np.sqrt(2))
    assert abs(bias) < 4 / np.sqrt(planted.sum()) + 0.03


def test_cores_survive_seeing_that_doubles():
    """Row E65: no frame is smoothed, and none loses its stars."""
    shape = (300, 300)
    rng = np.random.default_rng(41)
    gx, gy = np.meshgrid(np.linspace(40, 260, 6), np.linspace(40, 260, 6))
    ra, dec = sky_wcs(shape).all_pix2world(gx.ravel(), gy.ravel(), 0)
    stars = SimpleNamespace(ra=ra, dec=dec, rate=np.full(36, 20000.0))
    inputs = [
        observe(f"f{i}", sky_wcs(shape, shift=(0.3 * i, 0.2 * i)), shape, stars, rng, sigma=s)
        for i, s in enumerate((1.2, 1.5, 2.4, 1.3, 2.0))
    ]
    product = combined(inputs, reference="f0")
    free = combined(inputs, reference="f0", clip_sigma=1e6, grow_sigma=1e6)
    x, y = product.frame.wcs.all_world2pix(ra, dec, 0)
    flux = [
        aperture_sum(p.frame.sci, p.frame.err, p.frame.mask, x, y, 14.0).flux
        for p in (product, free)
    ]
    # S/N about 1000 per star: clipping must not cost a millimagnitude.
    assert abs((flux[0] / flux[1]).mean() - 1) < 1e-3 / 1.0857


def test_bright_trail_in_one_of_many_frames_leaves_nothing():
    shape = (300, 300)
    rng = np.random.default_rng(51)
    trail = np.zeros(shape)
    trail[140:144, :] = 3000.0
    inputs = [
        observe(
            f"f{i}",
            sky_wcs(shape, shift=(0.37 * i, 0.21 * i)),
            shape,
            None,
            rng,
            extra=trail if i == 2 else None,
        )
        for i in range(6)
    ]
    product = combined(inputs)
    flagged = {o.frame_id: o.code for o in product.outcomes}
    assert flagged["f2"] == "CLIPPED_MUCH" and flagged["f1"] == ""
    band = product.frame.sci[136:150, 20:-20]
    sigma = np.median(product.frame.err[136:150, 20:-20])
    # 14 x 260 correlated pixels, about 1500 independent: standard error 0.026 sigma; wings of the
    # trail below the threshold may leak a tenth of a sigma.
    assert abs(band.mean()) < 0.2 * sigma
    assert band.max() < 6 * sigma
    # Of two frames that contradict each other, beside the edge, it is said.
    several = product.coverage.astype(int) + product.rejected > 2
    assert not (product.frame.mask[several] & int(MaskBit.COSMIC)).any()
