"""TAN, TAN-SIP and TPV express the same coordinates, and say how well."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skymill.affine import Affine
from skymill.header_wcs import celestial_wcs
from skymill.tpv import composed, convert, to_tpv
from skymill.wcsmath import (
    Distortion,
    compose,
    kind_of,
    linear_wcs,
    pixel_to_sky,
    sky_to_pixel,
    wcs_from_text,
    wcs_to_text,
)

SHAPE = (900, 1000)
POINTS = np.random.default_rng(1).uniform([0, 0], [999, 899], (200, 2))


def _plane(projection="TAN", scale=0.5, ra=150.0, dec=2.0):
    t = np.radians(10.0)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, dec], [480.5, 470.5]
    wcs.wcs.cd = np.array([[-np.cos(t), np.sin(t)], [np.sin(t), np.cos(t)]]) * scale / 3600
    wcs.wcs.set()
    return wcs


def _bent(order=3, size=5.0):
    n = (order + 1) * (order + 2) // 2 - 3
    terms = np.random.default_rng(order).normal(0, size / n, (n, 2))
    return Distortion(order, np.array([499.5, 449.5]), 500.0, terms)


def _sip(order=3):
    return compose(_plane(), Affine(np.eye(2), np.zeros(2)), SHAPE, _bent(order))


def _apart(one, other):
    """Largest distance in pixels on the frame."""
    sky = pixel_to_sky(other, POINTS)
    return float(np.abs(sky_to_pixel(one, *sky.T) - POINTS).max())


@pytest.mark.parametrize("order", [2, 3, 5])
def test_s15_sip_becomes_tpv_and_back_exactly(order):
    """S15: SIP <-> PV conversion, exact because a linear map keeps the degree."""
    sip = _sip(order)
    tpv, error = convert(sip, SHAPE, "tpv")
    assert kind_of(tpv) == "tpv"
    assert error < 1e-6
    assert _apart(sip, wcs_from_text(wcs_to_text(tpv))) < 1e-4  # the inverse is iterated
    again, error = convert(tpv, SHAPE, "sip")
    assert (kind_of(again), again.sip.a_order, error < 1e-6) == ("sip", order, True)
    assert again.sip.a == pytest.approx(sip.sip.a, abs=1e-10)


def test_the_header_for_swarp_is_tpv_with_a_cd_matrix_and_its_error():
    header = to_tpv(_sip(), SHAPE)
    assert str(header["CTYPE1"]) == "RA---TPV"
    assert {"CD1_1", "CD1_2", "CD2_1", "CD2_2", "PV1_7", "PV2_10"} <= set(header)
    assert not {"PC1_1", "CDELT1", "A_ORDER"} & set(header)
    assert header["TPVERR"] < 1e-6
    assert _apart(_sip(), WCS(header)) < 1e-4
    assert str(to_tpv(_plane(), SHAPE)["CTYPE1"]) == "RA---TAN"


@pytest.mark.parametrize("projection", ["SIN", "ARC", "STG", "ZEA"])
def test_other_projections_are_fitted_and_the_error_is_stated(projection):
    wcs = _plane(projection, scale=10.0, ra=0.02, dec=-60.0)
    for kind in ("tpv", "sip"):
        new, error = convert(wcs, SHAPE, kind)
        assert _apart(wcs, new) < max(2 * error, 1e-4)
        assert error < 1e-3


def test_a_plane_projection_states_the_distortion_that_it_drops():
    """The middle is where a least-squares plane leaves it; the stated error bounds all."""
    sip = _sip()
    plane, error = convert(sip, SHAPE, "tan")
    assert kind_of(plane) == "tan"
    assert 0.3 < error < 5
    assert 0.5 * error < _apart(sip, plane) <= error * 1.1


def test_a_distortion_on_top_of_tpv_stays_tpv():
    tpv, _ = convert(_sip(), SHAPE, "tpv")
    step = Affine(np.array([[1.001, 0.002], [-0.002, 0.999]]), np.array([3.0, -2.0]))
    more = _bent(2, 1.0)
    both, error = composed(tpv, step, SHAPE, more)
    assert (kind_of(both), error < 1e-3) == ("tpv", True)
    truth = pixel_to_sky(tpv, step(more(POINTS)))
    off = sky_to_pixel(both, *truth.T) - POINTS
    assert np.abs(off).max() < 1e-3
    with pytest.raises(ValueError, match="SIP cannot be written"):
        compose(tpv, step, SHAPE, more)


def test_h088_scamp_cards_written_as_text_under_tan_survive_the_whole_way():
    """H088: a TAN header whose PV terms and reference values are strings is SCAMP's TPV."""
    tpv, _ = convert(_sip(), SHAPE, "tpv")
    cards = to_tpv(tpv, SHAPE)
    raw = fits.Header()
    for key, value in cards.items():
        if key in ("TPVERR", "LONPOLE", "LATPOLE", "RADESYS", "WCSAXES"):
            continue
        text = str(value).replace("TPV", "TAN") if key.startswith("CTYPE") else str(value)
        raw[key] = text
    wcs, codes, _ = celestial_wcs(raw, shape=SHAPE)
    assert {"WCS_STRINGS", "PV_ON_TAN"} <= set(codes.split(";"))
    assert kind_of(wcs) == "tpv"
    assert _apart(tpv, wcs) < 1e-3
    assert _apart(wcs, WCS(to_tpv(wcs, SHAPE))) < 1e-4


def test_only_the_sky_has_a_tangential_projection():
    with pytest.raises(ValueError, match="celestial"):
        convert(linear_wcs(Affine(np.eye(2), np.zeros(2))), SHAPE, "tpv")
    with pytest.raises(ValueError, match="hemisphere"):
        convert(_plane("CAR", scale=1200.0), SHAPE, "tpv")
