"""Measurements side by side with sep and photutils, where definitions agree.

S16, E69, A31, O36. The tests against SExtractor itself are in tests/external.
"""

from __future__ import annotations

import numpy as np
import pytest

from skymill.kernels.shapes import windowed_shapes
from skymill.measure import (
    measure_apertures,
    measure_ellipses,
    measure_isophotal,
    measure_kron,
)
from tests.external.scenes import detected, scene

sep = pytest.importorskip("sep")


@pytest.fixture(scope="module")
def field():
    """Stars of many shapes and fluxes on noise; detections and segments by sep."""
    return detected(*scene(seed=11))


def test_circles_of_every_radius_are_those_of_sep_and_photutils(field):
    from photutils.aperture import CircularAperture, aperture_photometry

    radii = [1.3, 3.0, 4.7, 9.5]
    ours = measure_apertures(field.sci, field.err, None, field.x, field.y, radii)
    circles = [CircularAperture(np.stack([field.x, field.y], 1), r) for r in radii]
    peer = aperture_photometry(field.sci.astype(float), circles, method="exact")
    for k, r in enumerate(radii):
        theirs, _, _ = sep.sum_circle(field.sci, field.x, field.y, r, subpix=0)
        np.testing.assert_allclose(ours[f"flux_{k}"], theirs, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(ours[f"flux_{k}"], peer[f"aperture_sum_{k}"], rtol=1e-5)


def test_their_errors_are_larger_by_the_known_factor(field):
    """They add ``w V`` where the variance of a sum is ``w**2 V``."""
    for r, factor in ((2.0, 0.916), (3.0, 0.942), (5.0, 0.966)):
        ours = measure_apertures(field.sci, field.err, None, field.x, field.y, [r])
        _, theirs, _ = sep.sum_circle(field.sci, field.x, field.y, r, err=field.err, subpix=0)
        assert np.mean(ours["flux_err_0"] / theirs) == pytest.approx(factor, abs=0.004)


def test_ellipses_are_those_of_sep_and_photutils(field):
    from photutils.aperture import EllipticalAperture

    shape = (field.a, field.b, field.theta)
    ours = measure_ellipses(field.sci, field.err, None, field.x, field.y, *shape, scales=[3.0])
    theirs, _, _ = sep.sum_ellipse(field.sci, field.x, field.y, *shape, 3.0, subpix=0)
    np.testing.assert_allclose(ours["flux_0"], theirs, rtol=1e-5, atol=1e-2)
    for k in range(0, field.x.size, 7):
        peer = EllipticalAperture(
            (field.x[k], field.y[k]), 3 * field.a[k], 3 * field.b[k], theta=field.theta[k]
        )
        total, _ = peer.do_photometry(field.sci.astype(float), method="exact")
        assert ours["flux_0"][k] == pytest.approx(total[0], rel=1e-5)


def test_e69_kron_ellipses_and_fluxes_are_those_of_sep(field):
    shape = (field.a, field.b, field.theta)
    radius, _ = sep.kron_radius(field.sci, field.x, field.y, *shape, 6.0)
    ours = measure_kron(field.sci, field.err, None, field.x, field.y, *shape, minimum=0.1)
    good = radius > 0.1
    assert good.sum() > 80
    theirs, _, _ = sep.sum_ellipse(
        field.sci, field.x, field.y, *shape, 2.5 * np.maximum(radius, 0.1), subpix=0
    )
    for mine, other in ((ours["kron_radius"], 2.5 * radius), (ours["flux_kron"], theirs)):
        off = np.abs(np.asarray(mine) / other - 1)[good]
        # The radius is a sum over whole pixels: one on the very edge may be in or out.
        assert np.mean(off < 1e-5) > 0.97
        assert off.max() < 2e-3


def test_isophotal_fluxes_are_those_of_sep_on_its_own_segments(field):
    ours = measure_isophotal(
        field.sci, field.err, None, field.segments, np.arange(1, field.x.size + 1)
    )
    # sep counts the pixels of an object before it writes the map: its cleaning merges some.
    same = np.asarray(ours["area_iso"]) == field.npix
    assert same.mean() > 0.95
    np.testing.assert_allclose(ours["flux_iso"][same], field.flux_iso[same], rtol=1e-5)


def test_windowed_centres_are_those_of_sep(field):
    sigma = 2.2
    found = windowed_shapes(
        field.sci, field.err, np.zeros(field.sci.shape, bool),
        np.zeros(field.sci.shape, np.int32), np.arange(1, field.x.size + 1),
        field.x, field.y, sigma, max_shift_px=3.0,
    )  # fmt: skip
    x, y, _ = sep.winpos(field.sci, field.x, field.y, np.full(field.x.size, sigma), subpix=11)
    settled = found.converged & (field.flux_iso > 3000)
    assert settled.sum() > 60
    # sep sums parts of pixels within 4 sigma, we whole ones.
    np.testing.assert_allclose(found.x[settled], x[settled], atol=5e-3)
    np.testing.assert_allclose(found.y[settled], y[settled], atol=5e-3)
