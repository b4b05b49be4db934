"""Whole runs: the same bytes everywhere, every bad frame explained, no good frame lost."""

from __future__ import annotations

import csv
import json
import shutil
from typing import TYPE_CHECKING, Any

from bench.runs import Figure, project, read_truth, skymill, tree_digest
from skymill.simulate import BAD_FRAMES, NightConfig, simulate_night

if TYPE_CHECKING:
    from pathlib import Path


def figures(folder: Path) -> list[Figure]:
    """Run two small nights."""
    if folder.exists():
        shutil.rmtree(folder)
    return [*identical(folder / "identical"), *bad_frames(folder / "bad")]


def _small(**changes: Any) -> NightConfig:
    return NightConfig(
        **{
            "seed": 7,
            "shape": (256, 256),
            "n_stars": 120,
            "n_light": 6,
            "filters": ("V", "R"),
            "wcs": "offset",
            **changes,
        }
    )


def identical(folder: Path) -> list[Figure]:
    """Reduce one night twice, with 1 and 2 cores in two folders, and compare all bytes."""
    simulate_night(folder / "night", _small())
    reference = folder / "night" / "truth" / "reference.csv"
    trees = []
    for cores, name in ((1, "one"), (2, "elsewhere/two")):
        # Small blocks, so that there is something to be done at the same time.
        place = project(
            folder / name,
            folder / "night" / "raw",
            reference=reference,
            more="\nplan:\n  block_max_frames: 3\n",
        )
        skymill("run", "-d", place, "--cores", cores)
        trees.append(tree_digest(place / "results"))
    same = trees[0] == trees[1]
    different = sorted(k for k in trees[0].keys() | trees[1].keys()
                       if trees[0].get(k) != trees[1].get(k))  # fmt: skip
    note = "all files of results/ with 1 and 2 cores in two folders"
    if different:
        note += f"; differing: {', '.join(different[:3])} and {max(0, len(different) - 3)} more"
    return [Figure("identical_bytes_cores_1_2", float(same), "1", "", len(trees[0]), note)]


def bad_frames(folder: Path) -> list[Figure]:
    """Reduce a night with every kind of bad frame that the simulator can make."""
    simulate_night(folder / "night", _small(seed=8, bad=tuple(BAD_FRAMES)))
    truth = read_truth(folder / "night")
    place = project(
        folder / "project",
        folder / "night" / "raw",
        reference=folder / "night" / "truth" / "reference.csv",
    )
    skymill("run", "-d", place)
    said = outcomes_by_path(place)
    planted = [bad for bad in truth["bad"] if not bad["good"]]
    right = [bad for bad in planted if set(bad["expected"]["codes"]) & said[bad["path"]]["codes"]]
    missed = sorted(
        f"{bad['name']} ({'/'.join(sorted(said[bad['path']]['codes'])) or 'nothing said'})"
        for bad in planted
        if bad not in right
    )
    good = [f["path"] for f in truth["frames"]] + [b["path"] for b in truth["bad"] if b["good"]]
    lost = sorted(path for path in set(good) if not said[path]["used"])
    note = f"{len(planted)} kinds in one night"
    return [
        Figure("bad_frames_explained", len(right) / len(planted), "1", "", len(planted),
               note + (f"; missed: {', '.join(missed)}" if missed else "")),
        Figure("good_frames_lost", float(len(lost)), "0", "", len(set(good)),
               "sound frames of the same night that no product uses"
               + (f": {', '.join(lost)}" if lost else "")),
    ]  # fmt: skip


def outcomes_by_path(place: Path) -> dict[str, dict[str, Any]]:
    """Return for each raw path all codes that were said of it, and whether a product uses it."""
    from collections import defaultdict

    paths: dict[str, str] = {}
    said: dict[str, dict[str, Any]] = defaultdict(lambda: {"codes": set(), "used": False})
    with (place / "config" / "frames.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            paths[row["frame_id"]] = row["path"]
            said[row["path"]]["codes"] |= set(row["code"].split(";")) - {""}
            said[row["path"]]["codes"] |= {f.split()[0] for f in row["fixes"].split("; ") if f}
    for table in sorted((place / "results" / "outcomes").glob("*/*.csv")):
        with table.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                path = paths.get(row["frame_id"])
                if path is None:
                    continue
                codes = set(row["code"].split(";")) - {""}
                cause = json.loads(row["numbers"] or "{}").get("cause_code", "")
                said[path]["codes"] |= codes | set(cause.split(";")) - {""}
                ends = row["step"].startswith("master_") or row["step"] == "stack"
                if ends and row["status"] in ("ok", "degraded"):
                    said[path]["used"] = True
    return said
