"""A small simulated night, reduced once for all workflow tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skymill.simulate import NightConfig, simulate_night

ROOT = Path(__file__).resolve().parents[2]

BAD = ("truncated", "no_stars", "wrong_size_flat", "saturated_flat", "missing_flat")


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake directly on a project folder."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(folder),
         "--cores", "2", "--scheduler", "greedy", *arguments],
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def skymill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "skymill", *map(str, arguments)],
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night of two filters with a few bad frames."""
    folder = tmp_path_factory.mktemp("night")
    config = NightConfig(
        seed=11,
        shape=(200, 220),
        n_bias=4,
        n_dark=3,
        n_flat=4,
        n_light=4,
        n_stars=70,
        filters=("V", "R"),
        wcs="offset",
        bad=BAD,
    )
    simulate_night(folder, config)
    return folder


@pytest.fixture(scope="session")
def project(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The night, reduced by Snakemake from the raw tree with no sheet."""
    folder = tmp_path_factory.mktemp("reduction") / "project"
    made = skymill(
        "init", folder, "--raw", night / "raw", "--reference", night / "truth" / "reference.csv"
    )
    assert made.returncode == 0, made.stderr
    dry = snakemake(folder, "-n")
    assert dry.returncode == 0, dry.stderr
    assert "ingest" in dry.stdout + dry.stderr
    assert not (folder / "config" / "frames.csv").exists()
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A copy of the reduced project that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(project, folder, symlinks=True)
    return folder
