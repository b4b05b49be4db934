"""How many hazards of the catalogue are covered by tests, and how many of these tests pass.

The registry tests/faults/registry.py names the tests of each hazard. They are run here, in a
process of their own; a hazard passes if at least one of its tests ran and none failed.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.runs import ROOT, Figure

__all__ = ["covered", "figures", "outcomes"]

TESTS = ROOT / "tests"


def covered() -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return hazards with their tests, and those of later with their reasons."""
    registry = runpy.run_path(str(TESTS / "faults" / "registry.py"))
    hazards, later = registry["HAZARDS"], registry["Later"]
    tests = {name: entry for name, entry in hazards.items() if not isinstance(entry, later)}
    reasons = {name: str(entry) for name, entry in hazards.items() if isinstance(entry, later)}
    return tests, reasons


def outcomes(nodes: list[str]) -> dict[str, str]:
    """Run tests and return the outcome of each: node relative to tests/ to its worst outcome."""
    with tempfile.TemporaryDirectory() as temporary:
        wanted, answer = Path(temporary) / "nodes.json", Path(temporary) / "outcomes.json"
        wanted.write_text(json.dumps(nodes), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "bench.hazards", str(wanted), str(answer)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if not answer.is_file():
            said = (done.stdout + done.stderr)[-3000:]
            raise RuntimeError(f"the tests did not run:\n{said}")
        found: dict[str, str] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def _run(wanted: Path, answer: Path) -> None:
    """Run the tests in this process and write what became of them."""
    import pytest

    found: dict[str, str] = {}

    nodes = set(json.loads(wanted.read_text(encoding="utf-8")))

    class Recorder:
        """Selects the tests and keeps the worst outcome of set-up, call and tear-down."""

        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            # Whole files are collected: one that cannot be imported then costs its own tests only.
            items[:] = [
                item
                for item in items
                if item.nodeid.removeprefix("tests/").partition("[")[0] in nodes
            ]

        def pytest_runtest_logreport(self, report: Any) -> None:
            node = report.nodeid.removeprefix("tests/")
            told = report.when == "call" or report.outcome != "passed"
            if told and found.get(node) != "failed":
                found[node] = report.outcome

    files = sorted({f"tests/{node.partition('::')[0]}" for node in nodes})
    options = ["-q", "-p", "no:cacheprovider", "--tb=no", "--continue-on-collection-errors"]
    pytest.main([*options, *files], plugins=[Recorder()])
    answer.write_text(json.dumps(found), encoding="utf-8")


def _verdict(tests: tuple[str, ...], found: dict[str, str]) -> bool:
    """Return True if every test ran, none failed and one passed; others may be skipped."""
    said: set[str] = set()
    for test in tests:
        begin = test if "[" in test else f"{test}["
        mine = {what for node, what in found.items() if node == test or node.startswith(begin)}
        if not mine:
            return False
        said |= mine
    return "passed" in said and "failed" not in said


def _quick(entry: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out tests that run Snakemake or a Monte Carlo where others judge the same row."""
    quick = tuple(test for test in entry if not test.startswith(("workflow/", "truth/")))
    return quick or entry


def figures() -> list[Figure]:
    """Run the tests of the registry and count hazards."""
    tests, later = covered()
    tests = {name: _quick(entry) for name, entry in tests.items()}
    functions = sorted({test.partition("[")[0] for entry in tests.values() for test in entry})
    found = outcomes(functions)
    failing = sorted(name for name, entry in tests.items() if not _verdict(entry, found))
    note = (
        f"{len(found)} tests of {len(functions)} functions; those that run the whole workflow "
        "are left to make test"
    )
    if failing:
        note += f"; not passing: {', '.join(failing)}"
    waiting = ", ".join(f"{name} ({reason})" for name, reason in later.items())
    return [
        Figure("hazards_total", len(tests), "", "rows", len(tests) + len(later),
               f"rows of the catalogue H001 to H245 with a test; later: {waiting}"),
        Figure("hazards_passing", len(tests) - len(failing), str(len(tests)), "rows", len(tests),
               note),
    ]  # fmt: skip


if __name__ == "__main__":
    _run(Path(sys.argv[1]), Path(sys.argv[2]))
