"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ.setdefault("MPLBACKEND", "Agg")  # no windows

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function that gives a folder of real nights or skips the test."""

    def folder(name: str) -> Path:
        base = Path(os.environ.get("SKYMILL_SHARED", ROOT.parent / "shared" / "data"))
        path = base / name
        if not path.exists():
            pytest.skip(f"no real data: {name} is not at hand (set SKYMILL_SHARED to their folder)")
        return path

    return folder
