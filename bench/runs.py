"""Running whole reductions and collecting figures: what truth and bench share."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.simulate import simulate_night

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skymill.simulate import NightConfig

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SHARED = Path(os.environ.get("SKYMILL_SHARED", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Figure:
    """One row of a table.

    Parameters
    ----------
    name : str
        Stable name.
    value : float
        What was measured.
    goal : str
        What is asked of it; empty if nothing is.
    unit : str
        Unit.
    n : int
        Number of measurements behind it.
    note : str
        How it was measured.
    """

    name: str
    value: float
    goal: str = ""
    unit: str = ""
    n: int = 0
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """CPU (user and system, children included) and wall-clock time of a run in seconds."""

    cpu_s: float
    wall_s: float


def publish(figures: Iterable[Figure], path: Path) -> None:
    """Print a table and write it as JSON."""
    rows = [asdict(figure) for figure in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        unit = f" {row['unit']}" if row["unit"] else ""
        goal = f"  (goal {row['goal']})" if row["goal"] else ""
        print(
            f"{row['name']:<{width}}  {row['value']:.5g}{unit}  n={row['n']}{goal}  {row['note']}"
        )
    print(f"written: {os.path.relpath(path, ROOT)}")


def skymill(*arguments: str | Path, allowed: tuple[int, ...] = (0, 10)) -> Cost:
    """Run the command line in a process of its own and return what it cost.

    Raises
    ------
    RuntimeError
        If the exit code is not among those allowed; the last lines of the output are told.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "skymill", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in allowed:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise RuntimeError(f"skymill {' '.join(map(str, arguments))}: {done.returncode}\n{tail}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, time.perf_counter() - start)


def project(
    folder: Path,
    raw: Path,
    *,
    instrument: str = "",
    reference: Path | None = None,
    more: str = "",
    recipe: str = "",
) -> Path:
    """Make a project folder anew, with further lines for its settings."""
    if folder.exists():
        shutil.rmtree(folder)
    extra: list[str | Path] = []
    if instrument:
        extra += ["--instrument", instrument]
    if reference is not None:
        extra += ["--reference", reference]
    if recipe:
        extra += ["--recipe", recipe]
    skymill("init", folder, "--raw", raw, *extra, allowed=(0,))
    if more:
        config = folder / "config" / "config.yaml"
        config.write_text(config.read_text(encoding="utf-8") + more, encoding="utf-8")
    return folder


def simulated(place: Path, config: NightConfig) -> Path:
    """Return the folder of a simulated night, which is made anew only if it is another."""
    stamp, wanted = place / "night.json", config.model_dump_json()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(place, ignore_errors=True)
        simulate_night(place, config)
        stamp.write_text(wanted, encoding="utf-8")
    return place


def tree_digest(folder: Path) -> dict[str, str]:
    """Return the checksum of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".snakemake")
    }


def read_truth(folder: Path) -> dict[str, Any]:
    """Return truth.json of a simulated night."""
    return json.loads((folder / "truth" / "truth.json").read_text(encoding="utf-8"))
