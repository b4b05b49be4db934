"""The table of what is tested where is complete and up to date."""

from __future__ import annotations

import pytest

from bench import coverage


@pytest.mark.parametrize("row", coverage.ROWS)
def test_every_capability_has_a_test(row):
    assert coverage.cited()[row]


def test_the_page_is_up_to_date():
    text = coverage.PAGE.read_text(encoding="utf-8")
    assert text == coverage.page(), "run `python -m bench.coverage`"
