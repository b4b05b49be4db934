"""Fuzz of ingest: spoilt files by the thousand, and what must hold for every one of them.

Each batch of mutants is a raw folder. The whole of ingest runs over it, then the sheet is
written and read back, the plan is made, every accepted frame is read and put together as a
job would do it, and some are calibrated and written. No exception may escape, every file must be
told exactly once, every name that becomes part of a path must be harmless.

``python -m bench.fuzz --n 100000 --seed 1`` runs a long series; interrupted, it goes on where it
was. ``--show 1234`` writes one mutant to a file.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.fuzz_files import mutant, seeds
from bench.runs import BUILD, Figure
from skymill import io_raw
from skymill.assembly import assemble
from skymill.errors import CODES, ConfigError, FrameRejected
from skymill.headers import clean_header
from skymill.ingest import ingest
from skymill.settings import Settings
from skymill.sheet import read_sheet, write_sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from skymill.sheet import Row

__all__ = ["Tally", "figures", "fuzz"]

BATCH = 250
#: Seconds that a batch may take on a busy machine, and the memory that a run may add.
PATIENCE_S, MEMORY_MB = 120, 600
#: One accepted frame of so many is calibrated and written as well.
CALIBRATED = 25
_SAFE = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,200}$")
_NAMES = ("target", "filter", "detector", "mode", "instrument", "channel")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VERDICTS = ("ok", "degraded", "rejected")


class Violation(Exception):
    """Something that must hold for every file does not hold."""


@dataclass
class Tally:
    """What a run found.

    Parameters
    ----------
    done : int
        Files that were tried.
    uncaught : int
        Files after which an exception escaped or a rule was broken.
    findings : list of dict
        Number of the mutant, stage and error of each.
    verdicts : dict
        Rows by verdict.
    """

    done: int = 0
    uncaught: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)


def fuzz(n: int, seed: int, folder: Path, *, start: int = 0, tally: Tally | None = None) -> Tally:
    """Try ``n`` mutants.

    Parameters
    ----------
    n, seed : int
        How many, of which series.
    folder : Path
        Working folder; emptied.
    start : int
        Number of the first mutant.
    tally : Tally, optional
        Counts to add to.
    """
    tally = tally or Tally()
    library = seeds()
    for first in range(start, start + n, BATCH):
        numbers = range(first, min(first + BATCH, start + n))
        files = {number: mutant(library, seed, number) for number in numbers}
        _judge(files, folder, tally)
    return tally


def _judge(files: dict[int, tuple[str, bytes]], folder: Path, tally: Tally) -> None:
    """Try a batch; if it fails, find the files that make it fail, one by one."""
    problem = _attempt(files, folder, tally)
    if problem is not None:
        found = 0
        for number, file in files.items():
            alone = _attempt({number: file}, folder, None)
            if alone is not None:
                found += 1
                tally.findings.append({"number": number, "file": file[0], **alone})
        if not found:  # only the combination fails
            tally.findings.append({"number": min(files), "batch": len(files), **problem})
        tally.uncaught += max(found, 1)
    tally.done += len(files)


def _attempt(
    files: dict[int, tuple[str, bytes]], folder: Path, tally: Tally | None
) -> dict[str, str] | None:
    """Run everything on some files; return what went wrong, or None."""
    stage = ["write"]
    before = _peak_mb()
    try:
        with _patience(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("error")
            rows = _pipeline(files, folder, stage)
        if _peak_mb() - before > MEMORY_MB:
            raise Violation(f"memory grew by {_peak_mb() - before:.0f} MB")
    except Exception as error:  # whatever escapes is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno} {where.name}"
        return {"stage": stage[0], "error": f"{type(error).__name__}: {error} ({place})"[:500]}
    if tally is not None:
        for verdict, count in Counter(str(row["verdict"]) for row in rows).items():
            tally.verdicts[verdict] = tally.verdicts.get(verdict, 0) + count
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what jobs print to themselves."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _patience() -> Iterator[None]:
    """Turn a hang into an exception."""

    def stop(*_: Any) -> None:
        raise Violation(f"no end after {PATIENCE_S} s")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


def _pipeline(files: dict[int, tuple[str, bytes]], folder: Path, stage: list[str]) -> Sequence[Row]:
    shutil.rmtree(folder, ignore_errors=True)
    raw = folder / "raw"
    raw.mkdir(parents=True)
    paths = set()
    for number, (suffix, content) in files.items():
        path = raw / f"{number:07d}{suffix}"
        path.write_bytes(content)
        paths.add(path.name)
    stage[0] = "ingest"
    rows = ingest(raw, min_side_px=8, max_file_mb=64, cache=folder / "cache.json").rows
    check_rows(rows, paths)
    stage[0] = "sheet"
    write_sheet(folder / "frames.csv", rows)
    if read_sheet(folder / "frames.csv") != rows:
        raise Violation("the sheet does not read back as it was written")
    stage[0] = "known again"
    again = ingest(raw, min_side_px=8, max_file_mb=64, cache=folder / "cache.json")
    if again.rows != rows:
        raise Violation("a second look gives other rows")
    stage[0] = "plan"
    _plan(rows)
    stage[0] = "read"
    usable = [row for row in rows if row["verdict"] != "rejected"]
    _read(raw, usable)
    stage[0] = "calibrate"
    _calibrate(raw, usable[::CALIBRATED], folder / "results")
    return rows


def check_rows(rows: Sequence[Row], paths: set[str]) -> None:
    """Raise `Violation` unless every file is told, safely and with a reason."""
    if {row["path"] for row in rows} != paths:
        missing = sorted(paths.symmetric_difference(str(row["path"]) for row in rows))
        raise Violation(f"files lost or invented: {missing[:3]}")
    keys = ("path", "hdu", "detector", "channel", "plane")
    if max(Counter(tuple(row.get(key) for key in keys) for row in rows).values()) > 1:
        raise Violation("a frame is told twice")
    if len({row["frame_id"] for row in rows}) != len(rows):
        raise Violation("two frames have one id")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise Violation(f"{row['path']}: {name} is {value}")
            if isinstance(value, str) and _CONTROL.search(value):
                raise Violation(f"{row['path']}: control characters in {name}: {value!r}")
        _check_names(row)
        codes = [code for code in str(row["code"]).split(";") if code]
        codes += [fix.split(" ")[0] for fix in str(row["fixes"]).split("; ") if fix]
        unknown = [code for code in codes if code not in CODES]
        if unknown or row["verdict"] not in _VERDICTS:
            raise Violation(f"{row['path']}: verdict {row['verdict']}, codes {unknown}")
        if row["verdict"] != "ok" and not (row["code"] and row["message"]):
            raise Violation(f"{row['path']}: {row['verdict']} without a reason")


def _check_names(row: Row) -> None:
    if not _SAFE.match(str(row["frame_id"])):
        raise Violation(f"{row['path']}: frame id {row['frame_id']!r}")
    for name in _NAMES:
        text = str(row.get(name, "")).partition("[")[0]
        if text and not _SAFE.match(text):
            raise Violation(f"{row['path']}: {name} is {text!r}")


def _plan(rows: Sequence[Row]) -> None:
    from skymill.plan import make_plan

    settings = Settings(raw="raw")
    plan_settings = settings.plan.model_copy(update={"max_groups": 10**9})
    try:
        plan = make_plan(rows, settings.model_copy(update={"plan": plan_settings}))
    except ConfigError as error:
        raise Violation(f"the plan is refused: {error}") from None
    for name in (*plan.masters, *plan.blocks, *plan.stacks, *plan.fields):
        if not _SAFE.match(name):
            raise Violation(f"the plan makes {name!r}")
    planned = Counter(frame for block in plan.blocks.values() for frame in block.frames)
    lights = {r["frame_id"] for r in rows if r["verdict"] != "rejected" and r["kind"] == "light"}
    if set(planned) != lights or (planned and max(planned.values()) > 1):
        raise Violation("a light frame is in no block, or in two")


def _reader() -> Callable[[Path, Row], Any]:
    """Return the function with which jobs read raw frames."""
    read_frame = getattr(io_raw, "read_frame", None)
    if read_frame is not None:
        return read_frame  # type: ignore[no-any-return]
    return lambda path, row: io_raw.read_raw(path, int(row["hdu"] or 0), str(row["sha256"]))


def _read(raw: Path, rows: Sequence[Row]) -> None:
    """Read and put together as a job does; a bad frame may say so, but in no other way."""
    read = _reader()
    for row in rows:
        try:
            found = read(raw / str(row["path"]), row)
            images, header = (found.images, found.header) if hasattr(found, "images") else found
            exposure = assemble(images, row)
            clean_header(header).tostring()
        except FrameRejected:
            continue
        ny, nx = exposure.pixels.shape
        if ny * nx > int(row["nx"] or 0) * int(row["ny"] or 0):
            raise Violation(f"{row['path']}: {ny} x {nx} px, more than the sheet says")


def _calibrate(raw: Path, rows: Sequence[Row], results: Path) -> None:
    """Calibrate and write frames without masters; all files must be inside the results."""
    from skymill.jobs.calibrate import calibrate_block

    lights = [row for row in rows if row["kind"] == "light"]
    if not lights:
        return
    policy = {f"missing_{kind}": "skip" for kind in ("bias", "dark", "flat")}
    calibrate_block(
        raw=raw,
        rows=lights,
        inputs={},
        missing={},
        instrument={"wcs": "header", "remove": []},
        frames=results / "frames",
        outcomes=results / "outcomes.csv",
        settings={**Settings(raw="raw").calibrate.model_dump(), **policy},
        code="fuzz",
    )
    strange = [
        path for path in results.parent.rglob("*.fits")
        if path.parent not in (results / "frames", raw)
    ]  # fmt: skip
    if strange:
        raise Violation(f"written outside the results: {strange[0].name}")


def figures(folder: Path, n: int = 10_000, seed: int = 1) -> list[Figure]:
    """Run a bounded series and tell what it found; nothing of earlier runs is counted."""
    tally = fuzz(n, seed, folder)
    first = f"; first: {tally.findings[0]}" if tally.findings else ""
    shares = ", ".join(f"{count} {name}" for name, count in sorted(tally.verdicts.items()))
    return [
        Figure("fuzz_mutations", tally.done, "", "", tally.done,
               f"spoilt files through ingest, sheet, plan, reading and calibration: {shares}"),
        Figure("fuzz_uncaught", tally.uncaught, "0", "", tally.done,
               f"exceptions that escaped, lost files, unsafe names, hangs, memory{first}"),
    ]  # fmt: skip


def _long(n: int, seed: int, state: Path) -> Tally:
    """Run in pieces whose counts are kept, so that an interrupted series goes on."""
    tally = Tally()
    if state.is_file():
        kept = json.loads(state.read_text(encoding="utf-8"))
        if kept["seed"] == seed:
            tally = Tally(**{k: v for k, v in kept.items() if k != "seed"})
    began, before = time.process_time(), tally.done
    state.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        while tally.done < n:
            piece = min(4 * BATCH, n - tally.done)
            fuzz(piece, seed, Path(temporary) / "work", start=tally.done, tally=tally)
            content = {"seed": seed, **asdict(tally)}
            state.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            rate = (tally.done - before) / max(time.process_time() - began, 1e-9)
            print(f"{tally.done}/{n}  uncaught {tally.uncaught}  {rate:.0f}/s", flush=True)
    return tally


def main() -> None:
    """Run a series from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="mutants in all")
    parser.add_argument("--seed", type=int, default=1, help="which series")
    parser.add_argument("--show", type=int, help="write this mutant to build/fuzz and stop")
    arguments = parser.parse_args()
    place = BUILD / "fuzz"
    if arguments.show is not None:
        place.mkdir(parents=True, exist_ok=True)
        suffix, content = mutant(seeds(), arguments.seed, arguments.show)
        (place / f"{arguments.show:07d}{suffix}").write_bytes(content)
        return
    tally = _long(arguments.n, arguments.seed, place / f"seed{arguments.seed}.json")
    for finding in tally.findings:
        print(json.dumps(finding))
    raise SystemExit(1 if tally.uncaught else 0)


if __name__ == "__main__":
    main()
