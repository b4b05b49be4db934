"""Snakemake as a subprocess: its command, its environment, its words."""

from __future__ import annotations

import importlib.util
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.commands.project import Project, shown
from skymill.errors import SkymillError
from skymill.progress import Display, Tracker
from skymill.workflow_files import workflow_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skymill.plan import Plan

__all__ = ["Ended", "command", "environment", "explanation", "follow", "has_flag"]

#: One thread per library call: cores are shared out between jobs, and sums must not
#: depend on a number of threads.
PINNED = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)

#: What the last lines of a log hint at.
_HINTS = (
    ("No space left on device", "the disk is full: make room and run the same command again"),
    ("Disk quota exceeded", "the quota is used up: make room and run the same command again"),
    ("MemoryError", "too little memory: run with fewer --cores or smaller blocks (plan.*)"),
    ("Cannot allocate memory", "too little memory: run with fewer --cores or smaller blocks"),
    ("died with <Signals.SIGKILL", "a job was killed, probably for lack of memory: fewer --cores"),
    ("ModuleNotFoundError", "the installation is not complete: `pip install .` again"),
    ("Permission denied", "a file or folder must not be read or written: see its permissions"),
)
_GOES_ON = "Products are whole or absent: the same command goes on where this run stopped."


@dataclass(frozen=True)
class Ended:
    """How a run of Snakemake ended.

    Parameters
    ----------
    code : int
        Its exit code.
    seconds : float
        How long it took.
    interrupted : bool
        Whether the user stopped it.
    tracker : Tracker
        What it said.
    log : Path
        Everything it said.
    """

    code: int
    seconds: float
    interrupted: bool
    tracker: Tracker
    log: Path


def has_flag(flags: Sequence[str], *wanted: str) -> bool:
    """Return True if one of the flags is there, also as ``-nq``, ``-c4`` or ``--flag=x``."""
    short = {flag[1] for flag in wanted if len(flag) == 2}
    for flag in flags:
        if flag.split("=", 1)[0] in wanted:
            return True
        if flag.startswith("-") and not flag.startswith("--") and flag[1:2] in short:
            return True
        # Short flags without values can be joined in any order: -pn is -p -n.
        if "n" in short and flag.startswith("-") and set(flag[1:]) <= set("npqkFR") and "n" in flag:
            return True
    return False


def command(project: Project, cores: int, flags: Sequence[str]) -> list[str]:
    """Return the command line of Snakemake.

    Parameters
    ----------
    project : Project
        The project.
    cores : int
        CPU cores, unless the flags say otherwise.
    flags : sequence of str
        Flags of the user; they win.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise SkymillError(
            f"Snakemake is not installed beside {sys.executable}: `pip install snakemake`"
        )
    root = workflow_root()
    words = [sys.executable, "-m", "snakemake", "-s", str(root / "Snakefile")]
    words += ["-d", str(project.folder)]
    with_profile = has_flag(flags, "--profile", "--workflow-profile")
    if not with_profile:
        words += ["--workflow-profile", str(root / "workflow" / "profiles" / "default")]
    if not (with_profile or has_flag(flags, "--cores", "-c", "--jobs", "-j", "--executor", "-e")):
        words += ["--cores", str(cores)]
    if not has_flag(flags, "--scheduler"):
        words += ["--scheduler", "greedy"]
    if not has_flag(flags, "--rerun-incomplete", "--ri"):
        # Files are renamed only when complete, so nothing is lost by trusting them less.
        words.append("--rerun-incomplete")
    return words + _own_profiles(flags, root)


def environment() -> dict[str, str]:
    """Return the environment of the run: pinned threads, no windows."""
    return {
        **os.environ,
        **dict.fromkeys(PINNED, "1"),
        "MPLBACKEND": "Agg",
        "PYTHONUNBUFFERED": "1",
    }


def follow(project: Project, words: Sequence[str], env: Mapping[str, str], cores: int) -> Ended:
    """Run Snakemake, show its progress and keep what it says.

    Its whole output goes to ``logs/snakemake.log``. Ctrl-C is passed on once to
    Snakemake and its jobs, which then end in order; a second one ends them at once.

    Parameters
    ----------
    project : Project
        The project.
    words : sequence of str
        The command.
    env : mapping
        Its environment.
    cores : int
        Jobs that can run at a time, for the estimate of the time left.

    Returns
    -------
    Ended
    """
    log = project.folder / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    counted = _Counter(project.results / "outcomes", time.time())
    tracker = Tracker(_frames_per_job(project.plan()), counted, cores)
    display = Display(sys.stderr)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as stream, _stop_signals():
        # A session of its own: otherwise the terminal would send Ctrl-C to Snakemake too,
        # and it would be stopped twice.
        process = subprocess.Popen(
            list(words),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        lines = _reader(process)
        stops = 0
        while True:
            try:
                if not _take(lines, tracker, display, stream):
                    break
            except KeyboardInterrupt:
                stops += 1
                _stop(process, stops, display)
        code = process.wait()
    display.clear()
    last = tracker.status(time.monotonic())
    if not display.live and last.jobs_total:
        display.note(last.line())
    return Ended(code, time.monotonic() - start, stops > 0, tracker, log)


def explanation(project: Project, ended: Ended) -> str:
    """Say why a run stopped and what to do about it."""
    again = f"skymill run -d {shown(project.folder)}"
    if ended.tracker.locked:
        return (
            f"skymill: {shown(project.folder)} is locked: another run works there, or one was "
            f"killed.\nIf no other run is alive: `{again} --unlock`, then run again."
        )
    if ended.interrupted:
        return f"skymill: interrupted. {_GOES_ON}\nTo resume: `{again}`"
    lines = []
    text = _tail(ended.log, 400)
    for failure in ended.tracker.failures[:1]:
        about = failure.facts.get("wildcards") or failure.facts.get("output", "")
        lines.append(f"skymill: the run stopped: {failure.rule} failed ({about})")
        path = project.folder / failure.log if failure.log else None
        if path is not None and path.is_file():
            tail = _tail(path, 15)
            lines += [f"last lines of {shown(path)}:", *(f"  | {line}" for line in tail)]
            text += tail
    if not lines:
        lines.append(f"skymill: Snakemake ended with code {ended.code}; its last lines:")
        lines += [f"  | {line}" for line in text[-15:]]
    more = len(ended.tracker.failures) - 1
    if more > 0:
        lines.append(f"{more} more jobs failed.")
    hints = [hint for sign, hint in _HINTS if any(sign in line for line in text)]
    lines += [f"hint: {hint}" for hint in hints[:1]]
    lines.append(f"{_GOES_ON}\nEverything Snakemake said: {shown(ended.log)}")
    return "\n".join(lines)


class _Counter:
    """Counts the frames that the jobs of a rule have finished, from their outcomes.

    Only tables written since the run began count; each is read once.
    """

    def __init__(self, folder: Path, since: float) -> None:
        self.folder = folder
        self.since = since
        self.frames: dict[str, dict[str, int]] = {}

    def __call__(self, rule: str) -> int | None:
        known = self.frames.setdefault(rule, {})
        try:
            entries = list(os.scandir(self.folder / rule))
        except OSError:
            return None
        for entry in entries:
            fresh = entry.name.endswith(".csv") and entry.name not in known
            # File systems keep coarser times than the clock.
            if fresh and entry.stat().st_mtime >= self.since - 2:
                known[entry.name] = _rows(Path(entry.path))
        return sum(known.values())


def _rows(path: Path) -> int:
    """Frames of an outcome table, without the row of the master or stack itself."""
    import csv

    with path.open(encoding="utf-8", newline="") as stream:
        return sum(row["frame_id"] != path.stem for row in csv.DictReader(stream))


def _frames_per_job(plan: Plan) -> dict[str, float]:
    from skymill.report.funnel import LIGHT_STEPS

    def mean(numbers: Sequence[int]) -> float:
        return sum(numbers) / len(numbers) if numbers else 0.0

    blocks = {name: len(block.frames) for name, block in plan.blocks.items()}
    frames = {step: mean(list(blocks.values())) for step in (*LIGHT_STEPS, "photometry")}
    frames["stack"] = mean([sum(blocks[b] for b in s.blocks) for s in plan.stacks.values()])
    for kind in ("bias", "dark", "flat"):
        members = [len(m.frames) for m in plan.masters.values() if m.kind.endswith(kind)]
        frames[f"master_{kind}"] = mean(members)
    return frames


def _own_profiles(flags: Sequence[str], root: Path) -> list[str]:
    """Let ``--profile slurm`` mean the profile that comes with the workflow."""
    words = list(flags)
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in ("--profile", "--workflow-profile"):
            continue
        at = i if equals else i + 1
        name = value if equals else (words[at] if at < len(words) else "")
        own = root / "workflow" / "profiles" / name
        if name and not Path(name).exists() and own.is_dir():
            words[at] = f"{option}={own}" if equals else str(own)
    return words


def _reader(process: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """Read lines in a thread, so that the display lives while Snakemake is silent."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _take(lines: queue.Queue[str | None], tracker: Tracker, display: Display, stream: Any) -> bool:
    """Take one line, or wait a moment for it; return False at the end."""
    news = False
    try:
        line = lines.get(timeout=0.25)
    except queue.Empty:
        line = ""
    if line is None:
        return False
    now = time.monotonic()
    if line:
        stream.write(line)
        stream.flush()
        news = tracker.feed(line.rstrip("\n"), now)
    display.update(tracker.status(now).line(), now, news)
    return True


def _stop(process: subprocess.Popen[str], times: int, display: Display) -> None:
    """Pass a stop on to Snakemake and its jobs, more firmly each time."""
    kind = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[min(times, 3) - 1]
    if times == 1:
        display.note("stopping; Ctrl-C again ends the running jobs at once")
    with suppress(ProcessLookupError):
        os.killpg(process.pid, kind)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Treat a request to terminate and a closed terminal like Ctrl-C."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip()][-count:]
