"""Every hazard of the catalogue has a test, or a reason why it has none yet."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


REGISTRY = runpy.run_path(str(TESTS / "faults" / "registry.py"))
HAZARDS = REGISTRY["HAZARDS"]


def test_every_id_of_the_catalogue_is_there_once() -> None:
    assert list(HAZARDS) == [f"H{number:03d}" for number in range(1, 246)]


@pytest.mark.parametrize("name", [f"H{number:03d}" for number in range(1, 246)])
def test_tests_of_a_hazard_exist(name: str) -> None:
    entry = HAZARDS[name]
    if isinstance(entry, REGISTRY["Later"]):
        assert len(entry) > 10
        return
    assert entry
    for node in entry:
        file, _, rest = node.partition("::")
        function, _, case = rest.partition("[")
        text = (TESTS / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {function}\(", text, re.MULTILINE), node
        assert not case or f'"{case}' in text or f"{{{case}" in text, node
