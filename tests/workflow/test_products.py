"""`skymill.open` assembles a frame again from what the steps wrote apart."""

from __future__ import annotations

import numpy as np
import pytest

import skymill
from skymill.errors import SkymillError


@pytest.fixture
def frame(project):
    (path, *_) = sorted((project / "results" / "calibrated").glob("*/light_V*.fits"))
    return skymill.open(path)


def test_planes_have_one_shape_and_the_final_mask(frame, project):
    shape = frame.data.shape
    assert frame.error.shape == frame.mask.shape == frame.background.shape == shape
    final = project / "results" / "mask" / frame.block / f"{frame.id}.fits"
    np.testing.assert_array_equal(skymill.open(final).mask, frame.mask)
    assert frame.masked("cosmic", "hot").sum() > 0


def test_background_and_rms_are_those_of_the_pixels(frame):
    sky = np.median(frame.data[frame.mask == 0])
    assert np.median(frame.background) == pytest.approx(sky, rel=0.02)
    assert np.median(frame.rms) == pytest.approx(np.median(frame.error), rel=0.05)


def test_position_of_a_star_is_that_of_the_truth(frame, night):
    from astropy.table import Table

    truth = Table.read(night / "truth" / "catalog.csv", format="ascii.csv")
    star = truth[np.argmin(truth["V"])]
    x, y = frame.wcs.all_world2pix(star["ra"], star["dec"], 0)
    near = np.hypot(frame.catalog["x"] - x, frame.catalog["y"] - y)
    assert near.min() < 1


def test_fluxes_are_calibrated(frame):
    assert 20 < frame.zero_point < 24
    assert 15 < frame.depth < 22
    assert 2 < frame.seeing < 4
    assert [outcome.step for outcome in frame.outcomes][:2] == ["calibrate", "mask"]


def test_stack_opens_too(project):
    (path, *_) = sorted((project / "results" / "stack").glob("Sim*V*.fits"))
    stack = skymill.open(path)
    assert stack.is_stack
    assert len(stack.catalog) > 10
    assert stack.background is None


def test_pictures_are_drawn_where_they_are_asked_for(frame):
    import matplotlib.pyplot as plt

    assert frame.show().get_title() == frame.id
    x0, x1 = frame.show_position(50, 60, radius_px=20).get_xlim()
    assert (x0, x1) == (29.5, 70.5)
    plt.close("all")
    with pytest.raises(SkymillError, match="outside"):
        frame.show_position(5000, 10)


def test_a_file_that_is_no_frame_is_said_so(project, tmp_path):
    with pytest.raises(SkymillError, match="does not exist"):
        skymill.open(tmp_path / "none.fits")
    with pytest.raises(SkymillError, match="is not a frame"):
        skymill.open(project / "config" / "frames.csv")
