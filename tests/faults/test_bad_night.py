"""A night with every kind of bad frame: each is explained, no good one is lost."""

from __future__ import annotations

from bench import truth_run


def test_bad_frames_are_explained_and_no_good_one_is_lost(tmp_path):
    explained, lost = truth_run.bad_frames(tmp_path)
    assert explained.n > 50
    assert explained.value == 1, explained.note
    assert lost.value == 0, lost.note
