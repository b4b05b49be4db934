"""The real SExtractor on an image of our own, where its definitions are ours.

Its published test image is not at hand without a network; the scene has stars and elongated
sources of known places.
"""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import ascii as tables
from astropy.io import fits

from skymill.kernels.shapes import windowed_shapes
from skymill.measure import (
    measure_apertures,
    measure_ellipses,
    measure_isophotal,
    measure_kron,
)
from tests.external.scenes import NOISE, scene

PROGRAM = next((p for p in ("source-extractor", "sex", "sextractor") if shutil.which(p)), None)

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(
        PROGRAM is None,
        reason="SExtractor is not installed (Debian and Ubuntu: package source-extractor)",
    ),
]

RADII = (2.0, 3.5, 6.0)
COLUMNS = (
    "NUMBER", "X_IMAGE", "Y_IMAGE", "XWIN_IMAGE", "YWIN_IMAGE", "A_IMAGE", "B_IMAGE",
    "THETA_IMAGE", "KRON_RADIUS", "FLUX_AUTO", "FLUX_ISO", "ISOAREA_IMAGE", "FLUX_RADIUS",
    f"FLUX_APER({len(RADII)})", "FLAGS",
)  # fmt: skip
SETTINGS = {
    "CATALOG_TYPE": "ASCII_HEAD",
    "CATALOG_NAME": "out.cat",
    "PARAMETERS_NAME": "columns.txt",
    "FILTER": "N",
    "CLEAN": "N",
    "BACK_TYPE": "MANUAL",
    "BACK_VALUE": "0.0",
    "WEIGHT_TYPE": "MAP_RMS",
    "WEIGHT_IMAGE": "rms.fits",
    "THRESH_TYPE": "RELATIVE",
    "DETECT_THRESH": "3.0",
    "ANALYSIS_THRESH": "3.0",
    "DETECT_MINAREA": "5",
    "MASK_TYPE": "NONE",
    "PHOT_APERTURES": ",".join(str(2 * r) for r in RADII),
    "PHOT_AUTOPARAMS": "2.5,0.1",
    "PHOT_FLUXFRAC": "0.5",
    "CHECKIMAGE_TYPE": "SEGMENTATION",
    "CHECKIMAGE_NAME": "segments.fits",
    "SATUR_LEVEL": "1e9",
    "GAIN": "0",
    "VERBOSE_TYPE": "QUIET",
}


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """The scene, SExtractor's catalogue of it, and its segments."""
    folder = tmp_path_factory.mktemp("sextractor")
    sci, err = scene(seed=21)
    fits.writeto(folder / "image.fits", sci)
    fits.writeto(folder / "rms.fits", err)
    (folder / "columns.txt").write_text("\n".join(COLUMNS) + "\n", encoding="utf-8")
    lines = "".join(f"{key} {value}\n" for key, value in SETTINGS.items())
    (folder / "settings.txt").write_text(lines, encoding="utf-8")
    subprocess.run(
        [PROGRAM, "image.fits", "-c", "settings.txt"], cwd=folder, check=True, capture_output=True
    )
    catalog = tables.read(folder / "out.cat", format="sextractor")
    segments = fits.getdata(folder / "segments.fits").astype(np.int32)
    clean = (np.asarray(catalog["FLAGS"]) == 0) & (np.asarray(catalog["FLUX_ISO"]) > 1500)
    assert clean.sum() > 60
    return sci, err, catalog, segments, clean


def places(catalog):
    return np.asarray(catalog["X_IMAGE"]) - 1, np.asarray(catalog["Y_IMAGE"]) - 1


def shapes(catalog):
    theta = np.radians(np.asarray(catalog["THETA_IMAGE"]))
    return np.asarray(catalog["A_IMAGE"]), np.asarray(catalog["B_IMAGE"]), theta


def test_isophotal_fluxes_are_the_same_sums(peer):
    sci, err, catalog, segments, clean = peer
    ours = measure_isophotal(sci, err, None, segments, np.asarray(catalog["NUMBER"]))
    np.testing.assert_array_equal(ours["area_iso"][clean], catalog["ISOAREA_IMAGE"][clean])
    # Seven digits are printed.
    np.testing.assert_allclose(ours["flux_iso"][clean], catalog["FLUX_ISO"][clean], rtol=1e-5)


def test_circles_agree_as_far_as_its_sub_pixels_go(peer):
    """S16: it divides pixels of the edge into 5 x 5; ours are exact overlaps."""
    sci, err, catalog, _, clean = peer
    ours = measure_apertures(sci, err, None, *places(catalog), RADII)
    for k, r in enumerate(RADII):
        name = "FLUX_APER" if k == 0 else f"FLUX_APER_{k}"
        off = np.asarray(ours[f"flux_{k}"] - catalog[name])[clean]
        light = np.asarray(catalog["FLUX_ISO"])[clean]
        # A part of a pixel is known to about 0.02: that of the brightness at the edge.
        assert np.max(np.abs(off) / (light + 10 * NOISE * r)) < 4e-3
        assert abs(np.mean(off / light)) < 5e-4


def test_e69_kron_radii_and_fluxes_follow_its_definition(peer):
    sci, err, catalog, _, clean = peer
    a, b, theta = shapes(catalog)
    ours = measure_kron(sci, err, None, *places(catalog), a, b, theta, minimum=0.1)
    # KRON_RADIUS is printed with two or three digits behind the point, the factor within.
    theirs = np.asarray(catalog["KRON_RADIUS"])
    np.testing.assert_allclose(ours["kron_radius"][clean], theirs[clean], rtol=0.02)
    same = measure_ellipses(sci, err, None, *places(catalog), theirs * a, theirs * b, theta)
    light = np.asarray(catalog["FLUX_AUTO"])
    # FLUX_AUTO sums the whole pixels whose centres are in the ellipse, ours are exact overlaps.
    edge = NOISE * np.sqrt(2 * np.pi * theirs * np.sqrt(a * b))
    for flux in (same["flux_0"], ours["flux_kron"]):
        off = (np.asarray(flux) - light)[clean]
        assert np.max(np.abs(off) / (3e-3 * light + edge)[clean]) < 1
        assert abs(np.mean(off / light[clean])) < 1e-3


def test_windowed_centres_are_its_own(peer):
    sci, err, catalog, _, clean = peer
    x, y = places(catalog)
    # Its window has the width of the half-light radius, a sigma for each source.
    sigma = np.asarray(catalog["FLUX_RADIUS"]) * 2 / 2.3548
    count = 0
    for k in np.flatnonzero(clean):
        found = windowed_shapes(
            sci, err, np.zeros(sci.shape, bool), np.zeros(sci.shape, np.int32),
            [1], [x[k]], [y[k]], float(sigma[k]), max_shift_px=3.0,
        )  # fmt: skip
        if found.converged[0]:
            count += 1
            assert found.x[0] == pytest.approx(float(catalog["XWIN_IMAGE"][k]) - 1, abs=6e-3)
            assert found.y[0] == pytest.approx(float(catalog["YWIN_IMAGE"][k]) - 1, abs=6e-3)
    assert count > 50
