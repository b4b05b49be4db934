"""The same raw files and settings give the same bytes."""

from __future__ import annotations

from bench import truth_run


def test_cores_and_folder_change_no_byte(tmp_path):
    (figure,) = truth_run.identical(tmp_path)
    assert figure.n > 50
    assert figure.value == 1, figure.note
