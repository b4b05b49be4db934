"""How far a run is: read from what Snakemake says, shown as one line.

`Tracker` turns the lines of Snakemake into numbers, `Display` shows them: one live line
on a terminal, a plain line now and then elsewhere. Neither knows of processes or files,
so both are tested with a list of lines and a clock made of numbers.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Display", "Status", "Tracker", "duration"]

_STATS = re.compile(r"^(\w+)\s+(\d+)$")
_START = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
_MESSAGE = re.compile(r"^Job (\d+): (.+)$")
_JOBID = re.compile(r"^ {4}jobid: (\d+)$")
_FINISHED = re.compile(r"^Finished jobid: (\d+) \(Rule: (\w+)\)")
_STEPS = re.compile(r"^(\d+) of (\d+) steps? ")
_ERROR = re.compile(r"^Error in (?:rule|group) (\S+?):$")

#: Fewer finished jobs or seconds than this say nothing about the time that is left.
_ETA_JOBS = 3
_ETA_SECONDS = 5.0


@dataclass(frozen=True)
class Status:
    """One look at a run.

    Parameters
    ----------
    jobs_done, jobs_total : int
        Jobs of this run; total 0 while Snakemake still plans.
    stage : str
        Rule of the latest job, or its message while the rule is not known.
    frames_done, frames_total : int
        Frames that this rule has finished, and those it has to do in this run. Zero
        total for a rule that does not work on frames.
    rate : float or None
        Frames per second of this rule.
    eta_s : float or None
        Seconds left, None while it cannot be told.
    elapsed_s : float
        Seconds since the first line.
    """

    jobs_done: int
    jobs_total: int
    stage: str
    frames_done: int
    frames_total: int
    rate: float | None
    eta_s: float | None
    elapsed_s: float

    def line(self) -> str:
        """Return the status in words."""
        if not self.jobs_total:
            return f"planning the jobs ({duration(self.elapsed_s)})"
        parts = [f"{100 * self.jobs_done // self.jobs_total:3d}%"]
        if self.stage:
            frames = f" {self.frames_done}/{self.frames_total} frames" if self.frames_total else ""
            parts.append(f"{self.stage}{frames}")
        parts.append(f"{self.jobs_done} of {self.jobs_total} jobs")
        if self.rate:
            fast = self.rate >= 1
            parts.append(
                f"{self.rate:.1f} frames/s" if fast else f"{60 * self.rate:.1f} frames/min"
            )
        if self.jobs_done < self.jobs_total and self.eta_s is not None:
            parts.append(f"about {duration(self.eta_s)} left")
        return " | ".join(parts)


@dataclass(frozen=True)
class Failure:
    """One job that failed.

    Parameters
    ----------
    rule : str
        The rule.
    facts : dict
        What Snakemake says of the job: ``log``, ``output``, ``wildcards``, ...
    """

    rule: str
    facts: dict[str, str]

    @property
    def log(self) -> str:
        """Path of the job's log relative to the project, empty if it has none."""
        return self.facts.get("log", "").removesuffix(" (check log file(s) for error details)")


@dataclass
class _Rule:
    """What is known of the jobs of one rule."""

    jobs: int = 0
    done: int = 0
    frames: int = 0
    busy_s: float = 0.0
    first_s: float | None = None


@dataclass(frozen=True)
class _Job:
    """A running job: its rule (empty while unknown), its beginning, its first words."""

    rule: str
    began: float
    kind: str


@dataclass
class Tracker:
    """Follow Snakemake by its lines.

    Parameters
    ----------
    frames_per_job : mapping of str to float
        Mean number of frames that one job of a rule works on, from the plan. Rules
        that are missing here do not work on frames.
    finished_frames : callable
        ``finished_frames(rule)`` returns how many frames the jobs of a rule have
        finished in this run, as far as the outcome files tell, or None.
    cores : int
        Jobs that can run at a time.
    """

    frames_per_job: Mapping[str, float]
    finished_frames: Callable[[str], int | None]
    cores: int = 1
    failures: list[Failure] = field(default_factory=list)
    locked: bool = False
    nothing_to_do: bool = False
    stage: str = ""
    _rules: dict[str, _Rule] = field(default_factory=dict)
    _running: dict[str, _Job] = field(default_factory=dict)
    _kinds: dict[str, str] = field(default_factory=dict)
    _done: int = 0
    _total: int = 0
    _start: float | None = None
    _in_stats: bool = False
    _announced: str = ""
    _in_error: bool = False

    def feed(self, line: str, now: float) -> bool:
        """Take one line.

        Parameters
        ----------
        line : str
            A line of Snakemake's output, without the line end.
        now : float
            Seconds of a monotonic clock.

        Returns
        -------
        bool
            True if a rule has begun that had not run before: worth a plain line.
        """
        if self._start is None:
            self._start = now
        if self._in_error and not self._error_line(line):
            self._in_error = False
        if self._in_stats and not self._stats_line(line):
            self._in_stats = False
        if line == "Job stats:":
            self._in_stats = True
            self._rules = {}
        elif found := _STEPS.match(line):
            self._done, self._total = int(found[1]), int(found[2])
        elif found := _START.match(line):
            self._announced = found[1]
        elif (found := _JOBID.match(line)) and self._announced:
            return self._begin(found[1], self._announced, now)
        elif found := _MESSAGE.match(line):
            return self._begin_unnamed(found[1], found[2], now)
        elif found := _FINISHED.match(line):
            self._finish(found[1], found[2], now)
        elif found := _ERROR.match(line):
            self.failures.append(Failure(found[1], {}))
            self._in_error = True
        elif "Directory cannot be locked" in line:
            self.locked = True
        elif line.startswith("Nothing to be done"):
            self.nothing_to_do = True
        return False

    def status(self, now: float) -> Status:
        """Return where the run stands at ``now``."""
        elapsed = now - (self._start if self._start is not None else now)
        rule = self._rules.get(self.stage, _Rule())
        per_job = self.frames_per_job.get(self.stage, 0)
        rate = None
        if per_job and rule.frames and rule.first_s is not None and now > rule.first_s:
            rate = rule.frames / (now - rule.first_s)
        left = rule.jobs - rule.done
        return Status(
            jobs_done=self._done,
            jobs_total=self._total,
            stage=self.stage,
            frames_done=rule.frames if per_job else 0,
            frames_total=rule.frames + round(left * per_job) if per_job else 0,
            rate=rate,
            eta_s=self._eta(elapsed, now),
            elapsed_s=elapsed,
        )

    def _stats_line(self, line: str) -> bool:
        if found := _STATS.match(line):
            if found[1] == "total":
                self._total = int(found[2])
            else:
                self._rules[found[1]] = _Rule(jobs=int(found[2]))
            return True
        return line.startswith(("job ", "---"))

    def _error_line(self, line: str) -> bool:
        if not line.startswith("    "):
            return False
        key, _, value = line.strip().partition(": ")
        if value and key.isidentifier():
            self.failures[-1].facts[key] = value
        return True

    def _begin(self, jobid: str, name: str, now: float, kind: str = "") -> bool:
        self._announced = ""
        self._running[jobid] = _Job(name, now, kind)
        rule = self._rules.setdefault(name, _Rule(jobs=1))
        new = rule.first_s is None
        rule.first_s = now if rule.first_s is None else rule.first_s
        self.stage = name
        return new

    def _begin_unnamed(self, jobid: str, message: str, now: float) -> bool:
        """A rule with a message of its own is announced by it instead of its name.

        Its first words tell the rules apart; which rule they mean is known as soon as
        the first of its jobs has finished.
        """
        kind = " ".join(message.split()[:3])
        if kind in self._kinds:
            if self._kinds[kind]:
                return self._begin(jobid, self._kinds[kind], now, kind)
            self._running[jobid] = _Job("", now, kind)
            return False
        self._kinds[kind] = ""
        self._running[jobid] = _Job("", now, kind)
        self.stage = message
        return True

    def _finish(self, jobid: str, name: str, now: float) -> None:
        rule = self._rules.setdefault(name, _Rule(jobs=1))
        job = self._running.pop(jobid, _Job(name, now, ""))
        if job.kind:
            self._kinds[job.kind] = name
        if not job.rule:
            self.stage = name
            rule.first_s = job.began if rule.first_s is None else rule.first_s
        rule.done += 1
        rule.busy_s += now - job.began
        counted = self.finished_frames(name)
        guess = round(rule.done * self.frames_per_job.get(name, 1))
        rule.frames = guess if counted is None else counted
        self._done += 1

    def _eta(self, elapsed: float, now: float) -> float | None:
        """Seconds left: what the jobs of each rule have cost, times the jobs left.

        Jobs of rules that have not finished any are taken to cost the mean of all; the
        work is shared by as many jobs as ran at a time so far.
        """
        finished = sum(rule.done for rule in self._rules.values())
        if finished < _ETA_JOBS or elapsed < _ETA_SECONDS:
            return None
        busy = sum(rule.busy_s for rule in self._rules.values())
        cost = {
            name: rule.busy_s / rule.done if rule.done else busy / finished
            for name, rule in self._rules.items()
        }
        work = sum(cost[name] * max(rule.jobs - rule.done, 0) for name, rule in self._rules.items())
        running = 0.0
        for job in self._running.values():
            # A job that takes longer than its kind has no credit beyond its own cost.
            work -= min(now - job.began, cost.get(job.rule, busy / finished))
            running += now - job.began
        at_a_time = min(max((busy + running) / elapsed, 1.0), float(max(self.cores, 1)))
        return max(work, 0.0) / at_a_time


class Display:
    """Show how far something is: one live line on a terminal, a plain line now and then elsewhere.

    Parameters
    ----------
    stream : text stream
        Where to write; standard error in practice.
    live : bool, optional
        Whether the line can be overwritten; by default if ``stream`` is a terminal.
    interval_s : float
        Seconds between two plain lines.
    """

    REFRESH_S = 0.2

    def __init__(self, stream: TextIO, live: bool | None = None, interval_s: float = 15.0) -> None:
        self.stream = stream
        self.live = stream.isatty() if live is None else live
        self.interval_s = interval_s
        self._last: float | None = None
        self._text = ""

    def update(self, text: str, now: float, news: bool = False) -> None:
        """Show ``text`` if it is time to, or at once if there is ``news``."""
        wait = self.REFRESH_S if self.live else self.interval_s
        if self._last is not None and now - self._last < wait and not (news and not self.live):
            return
        if self.live:
            self._overwrite(text)
        elif text != self._text or now - (self._last or 0) >= self.interval_s:
            print(text, file=self.stream, flush=True)
        self._last = now
        self._text = text

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        """Take the live line away."""
        if self.live and self._text:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self._text = ""

    def _overwrite(self, text: str) -> None:
        width = max(shutil.get_terminal_size().columns - 1, 20)
        self.stream.write("\r\x1b[K" + text[:width])
        self.stream.flush()


def duration(seconds: float) -> str:
    """Return a duration as a person says it: ``8 s``, ``2 min 5 s``, ``3 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        # Beyond ten minutes nobody counts seconds.
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"
