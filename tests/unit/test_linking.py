"""Linking of detections to motions: planted objects are found, chance makes none."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from skymill import linking
from skymill.linking import fit_motion, link, stationary

TIMES = np.arange(20) / 12.0  # five minutes
SIZE = 1500.0


def square(low, high, number=len(TIMES)):
    """Border of frames that cover a square."""
    corners = np.array([[low, low], [high, low], [high, high], [low, high]], float)
    return np.repeat(corners[None], number, axis=0)


EVERYWHERE = square(-1e5, 1e5)


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
    return link(frame, xy, TIMES, EVERYWHERE, **options)


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

    (track,) = link(
        frame, xy, TIMES, square(-3000, 1450), max_rate=150, tolerance=1.2, minimum_motion=4.0
    )
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


def test_stars_are_those_with_enough_other_frames_near():
    rng = np.random.default_rng(10)
    frame = np.repeat(np.arange(40), 30)
    xy = rng.uniform(0, 60, (len(frame), 2))
    xy[0] = 1e9, -1e9  # a stray position
    pairs = cKDTree(xy).query_pairs(2.0, output_type="ndarray")
    near = [set() for _ in xy]
    for i, j in pairs:
        near[i].add(frame[j])
        near[j].add(frame[i])
    count = np.array([len(others | {frame[i]}) for i, others in enumerate(near)])
    for least in (2, 4, 6):
        found = stationary(frame, xy, 2.0, minimum_frames=least)
        assert (found == (count >= least)).all()
        assert found.any() and not found.all()


def follow_plainly(seed, frame, xy, times, inside, tolerance):
    """Follow one seed, the frames one after the other, by a fit of the motion for each."""
    rank = np.argsort(np.argsort(times, kind="stable"), kind="stable")
    middle = (rank[frame[seed[0]]] + rank[frame[seed[1]]]) / 2
    mine = {int(frame[s]): int(s) for s in seed}
    looked, expected = 0, 0.0
    for step, k in enumerate(np.argsort(np.abs(rank - middle), kind="stable")):
        if k not in mine:
            have = np.array(list(mine.values()))
            position, rate, mean, _, _ = fit_motion(times[frame[have]], xy[have])
            ahead = times[k] - mean
            place = position + rate * ahead
            if inside(place):
                looked += 1
                spread = ((times[frame[have]] - mean) ** 2).sum()
                error = tolerance / 3 * np.sqrt(1 / len(have) + ahead**2 / spread)
                reach = min(tolerance + error, 3 * tolerance)
                here = np.flatnonzero(frame == k)
                if len(here):
                    wide = 20 * tolerance
                    near = (np.hypot(*(xy - place).T) <= wide).sum() / len(times) / wide**2
                    expected += min(near * reach**2, 0.9)
                    gap = np.hypot(*(xy[here] - place).T)
                    if gap.min() <= reach:
                        mine[int(k)] = int(here[gap.argmin()])
        if step == 6 and len(mine) <= 2:
            break
    return mine, looked, expected


def test_seeds_are_followed_as_by_one_fit_after_the_other():
    rng = np.random.default_rng(11)
    times = rng.permutation(TIMES) + 0.3
    frame, xy = noise(rng, 25)
    frame, xy = frame[frame != 4], xy[frame != 4]  # a frame without detections
    xy = xy / 5
    moving, at = np.arange(20), np.array([20.0, 250.0]) + (times - 0.3)[:, None] * [140.0, -30.0]
    frame = np.concatenate([frame, moving[moving != 4]])
    xy = np.concatenate([xy, (at + rng.normal(0, 0.2, at.shape))[moving != 4]])
    follow = linking._Follower(frame, xy, times, square(30, 220), 1.2)
    seeds = linking._seeds(frame, xy, times, 60.0, 1.2, 10**6)
    assert len(seeds) > 300
    gap = np.hypot(*(xy[seeds[:, 0]] - xy[seeds[:, 1]]).T)
    dt = times[frame[seeds[:, 1]]] - times[frame[seeds[:, 0]]]
    assert (dt > 0).all() and (gap <= 60 * dt + 1.2).all()
    members, looked, expected = follow(seeds)
    for s in range(0, len(seeds), 3):
        mine, steps, chance = follow_plainly(
            seeds[s], frame, xy, times, lambda p: bool(((p > 30) & (p < 220)).all()), 1.2
        )
        assert {k: m for k, m in enumerate(members[s].tolist()) if m >= 0} == mine
        assert looked[s] == steps
        assert expected[s] == pytest.approx(chance, rel=1e-9)


def test_pairs_are_all_those_of_near_frames_that_the_rate_allows():
    rng = np.random.default_rng(12)
    times = rng.permutation(TIMES)
    frame, xy = noise(rng, 12)
    rank = np.argsort(np.argsort(times))[frame]
    wanted = [
        (i, j)
        for i in range(len(frame))
        for j in range(len(frame))
        if 0 < rank[j] - rank[i] <= 4
        and np.hypot(*(xy[i] - xy[j])) <= 200 * (times[frame[j]] - times[frame[i]]) + 1.2
    ]
    found = linking._seeds(frame, xy, times, 200.0, 1.2, 10**6)
    assert {tuple(pair) for pair in found.tolist()} == set(wanted)
    assert len(found) == len(wanted) > 20


def test_a_long_series_gives_what_following_every_pair_gives(monkeypatch):
    rng = np.random.default_rng(13)
    times = np.arange(240) / 60.0
    parts = [
        (np.arange(240), np.array(start) + times[:, None] * rate + rng.normal(0, 0.2, (240, 2)))
        for start, rate in (((50, 60), (60, 40)), ((400, 300), (-70, 15)), ((100, 400), (30, -70)))
    ]
    keep = [rng.uniform(size=240) < 0.9 for _ in parts]
    parts = [(f[k], at[k]) for (f, at), k in zip(parts, keep, strict=True)]
    junk = np.repeat(np.arange(240), 3)
    frame, xy = joined((junk, rng.uniform(0, 500, (len(junk), 2))), *parts)
    options = {"max_rate": 150, "tolerance": 1.2, "minimum_motion": 4.0}
    border = square(0, 500, 240)
    quick = link(frame, xy, times, border, **options)
    assert len(quick) == 3
    monkeypatch.setattr(linking, "_ALIKE", 10**9)
    every = link(frame, xy, times, border, **options)
    for one, other in zip(quick, every, strict=True):
        assert len(set(one.detections) ^ set(other.detections)) <= 2
        assert one.rate == pytest.approx(other.rate, abs=0.01)
        assert one.expected_false < 1e-10
