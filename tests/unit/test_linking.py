"""Linking of detections to motions: planted objects are found, chance makes none."""

import numpy as np
import pytest

from skymill.linking import fit_motion, link, stationary

TIMES = np.arange(20) / 12.0  # five minutes
SIZE = 1500.0


def everywhere(frame, xy):
    return np.ones(len(xy), bool)


def noise(rng, per_frame):
    frame = np.repeat(np.arange(len(TIMES)), per_frame)
    return frame, rng.uniform(0, SIZE, (len(frame), 2))


def planted(rng, start, rate, sigma=0.1, found=1.0):
    seen = np.flatnonzero(rng.uniform(size=len(TIMES)) < found)
    at = np.asarray(start) + TIMES[seen, None] * np.asarray(rate)
    return seen, at + rng.normal(0, sigma, at.shape)


def joined(*parts):
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def find(frame, xy, **options):
    options = {"max_rate": 150, "tolerance": 1.2, "minimum_motion": 4.0} | options
    return link(frame, xy, TIMES, everywhere, **options)


def test_planted_objects_are_found_with_their_rates_among_noise():
    rng = np.random.default_rng(1)
    truth = [((300, 300), (30.0, -12.0)), ((900, 500), (-90.0, 60.0)), ((700, 1200), (6.0, 5.0))]
    frame, xy = joined(noise(rng, 80), *(planted(rng, *item) for item in truth))
    tracks = find(frame, xy)
    assert len(tracks) == 3
    for start, rate in truth:
        best = min(tracks, key=lambda t: np.hypot(*(np.array(t.rate) - rate)))
        # the error of a rate: sigma / sqrt(sum dt^2) = 0.1 / 2.15
        assert np.hypot(*(np.array(best.rate) - rate)) < 5 * 0.05
        assert np.allclose(best.at(0.0)[0], start, atol=0.3)
        assert len(best.detections) >= 19
        assert best.expected_false < 1e-10


def test_objects_that_are_often_missed_are_found():
    rng = np.random.default_rng(2)
    found = 0
    for trial in range(10):
        frame, xy = joined(
            noise(rng, 40), planted(rng, (200 + 100 * trial, 700), (40.0, 20.0), found=0.6)
        )
        tracks = find(frame, xy)
        found += len(tracks) == 1 and abs(tracks[0].rate[0] - 40) < 0.5
    assert found >= 9


def test_chance_makes_as_few_objects_as_is_said():
    rng = np.random.default_rng(3)
    made = sum(len(find(*noise(rng, 120))) for _ in range(15))
    assert made == 0  # 15 nights at 1e-3 each: 0.015 expected


def test_the_stated_number_of_chance_objects_is_an_upper_bound():
    rng = np.random.default_rng(4)
    options = {"max_false": 100.0, "minimum_detections": 4, "minimum_fraction": 0.0}
    counts = [len(find(*noise(rng, 250), **options)) for _ in range(5)]
    assert 0 < np.mean(counts) < 100


def test_crowds_at_an_edge_make_no_objects():
    rng = np.random.default_rng(5)
    frame = np.repeat(np.arange(len(TIMES)), 80)
    edge = np.stack([rng.uniform(0, SIZE, len(frame)), rng.uniform(0, 6, len(frame))], axis=1)
    assert find(frame, edge) == []


def test_one_frame_counts_once_for_a_star():
    frame = np.array([0, 0, 0, 1, 2, 3])
    xy = np.array([[5, 5], [5.1, 5], [5, 5.1], [50, 50], [50.1, 50], [50, 50.2]], float)
    assert stationary(frame, xy, 1.0).tolist() == [False, False, False, True, True, True]


def test_places_off_a_frame_do_not_count_against_an_object():
    rng = np.random.default_rng(6)
    seen, at = planted(rng, (1400, 700), (80.0, 0.0))
    inside = at[:, 0] < 1450  # leaves the common area after seven frames
    frame, xy = joined(noise(rng, 20), (seen[inside], at[inside]))

    def covers(k, places):
        return places[:, 0] < 1450

    (track,) = link(
        frame, xy, TIMES, covers, max_rate=150, tolerance=1.2, minimum_motion=4.0
    )  # fmt: skip
    assert track.n_frames == inside.sum()


def test_two_nights_of_one_object_are_not_two_objects():
    rng = np.random.default_rng(7)
    frame, xy = joined(planted(rng, (300, 300), (30.0, -12.0)))
    doubled = np.concatenate([frame, frame]), np.concatenate([xy, xy + 0.2])
    assert len(find(*doubled)) == 1


def test_too_many_pairs_are_refused_with_what_to_do():
    rng = np.random.default_rng(8)
    frame, xy = noise(rng, 200)
    with pytest.raises(ValueError, match="lower the limit of the rate"):
        find(frame, xy, max_rate=3000, max_seeds=10_000)


def test_nothing_to_link_is_no_object():
    assert find(np.zeros(0, int), np.zeros((0, 2))) == []
    assert find(np.array([0, 1]), np.zeros((2, 2))) == []


def test_errors_of_a_motion_are_those_of_least_squares():
    rng = np.random.default_rng(9)
    pulls = []
    for _ in range(500):
        _, at = planted(rng, (0, 0), (10, 5), sigma=0.2)
        _, rate, _, covariance, _ = fit_motion(TIMES, at)
        pulls.append((rate - [10, 5]) / np.sqrt(covariance[1, 1]))
    assert abs(np.std(pulls) - 1) < 4 / np.sqrt(2 * 1000) + 0.02
