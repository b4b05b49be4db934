"""A real night from the raw files to numbers that others have measured."""

from __future__ import annotations

import pytest

from bench import truth_real
from bench.runs import SHARED


@pytest.fixture(scope="module")
def nickel(shared_data, tmp_path_factory):
    shared_data("nickel")
    shared_data("landolt")
    return {f.name: f for f in truth_real.nickel(tmp_path_factory.mktemp("real") / "nickel")}


def test_the_night_is_the_one_of_the_fixture(shared_data):
    assert shared_data("nickel").parent == SHARED


def test_nickel_gain_and_read_noise_come_from_its_frames(nickel):
    assert nickel["nickel_gain"].value == pytest.approx(1.80, abs=0.05)
    assert 9.0 < nickel["nickel_read_noise"].value < 11.0


def test_nickel_zero_point_agrees_with_the_known_one(nickel):
    # Known to about 0.04 mag between the stars, in a smaller aperture (0.03 mag of light).
    assert nickel["nickel_zp_v"].value == pytest.approx(22.81, abs=0.08)
    assert nickel["nickel_zp_v"].n == 2
    assert 0.01 < nickel["nickel_zp_scatter"].value < 0.06


def test_nickel_names_the_star_that_is_off(nickel):
    assert "PG1323-086A" in nickel["nickel_zp_scatter"].note
