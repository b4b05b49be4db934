"""Progress is told by what Snakemake says, with a clock made of numbers."""

from __future__ import annotations

import io

import pytest

from skymill.progress import Display, Status, Tracker, duration

HEAD = """\
Building DAG of jobs...
Provided cores: 2
Job stats:
job          count
---------  -------
calibrate        4
report           1
all              1
total            6

Select jobs to execute...
""".splitlines()


def start(rule: str, jobid: int) -> list[str]:
    return [
        "[Sat Nov 21 04:56:03 2026]",
        f"localrule {rule}:",
        f"    output: results/outcomes/{rule}/b{jobid}.csv",
        f"    jobid: {jobid}",
        f"    wildcards: block=b{jobid}",
    ]


def finish(rule: str, jobid: int, done: int, total: int = 6) -> list[str]:
    return [f"Finished jobid: {jobid} (Rule: {rule})", f"{done} of {total} steps (1%) done"]


def feed(tracker: Tracker, lines: list[str], now: float) -> list[bool]:
    return [tracker.feed(line, now) for line in lines]


def test_before_the_plan_is_made_nothing_is_promised():
    tracker = Tracker({}, lambda rule: None)
    tracker.feed("Building DAG of jobs...", 0.0)
    assert tracker.status(3.0).line() == "planning the jobs (3 s)"


def test_frames_come_from_the_outcomes_and_the_total_from_plan_and_job_table():
    finished = {"calibrate": 0}
    tracker = Tracker({"calibrate": 10.0}, finished.get, cores=2)
    feed(tracker, HEAD, 0.0)
    assert tracker.status(0.0).jobs_total == 6
    feed(tracker, start("calibrate", 1), 1.0)
    finished["calibrate"] = 8  # this block is a little smaller than the mean
    feed(tracker, finish("calibrate", 1, 1), 5.0)
    status = tracker.status(5.0)
    assert (status.stage, status.frames_done, status.frames_total) == ("calibrate", 8, 38)
    assert (status.jobs_done, status.jobs_total) == (1, 6)
    assert status.rate == pytest.approx(8 / 4.0)


def test_time_left_is_the_cost_of_the_jobs_left_shared_by_the_jobs_at_a_time():
    done = {"calibrate": 0}
    tracker = Tracker({"calibrate": 10.0}, done.get, cores=2)
    feed(tracker, HEAD, 0.0)
    for pair in ((1, 2), (3, 4)):
        now = 0.0 if pair == (1, 2) else 10.0
        for jobid in pair:
            feed(tracker, start("calibrate", jobid), now)
        for jobid in pair:
            if jobid == 4:
                break
            done["calibrate"] += 10
            feed(tracker, finish("calibrate", jobid, jobid), now + 10.0)
    # At t = 20 three jobs took 10 s each. Left: one that has run for 10 s, and two of rules
    # that are not known yet. Two at a time.
    assert tracker.status(20.0).eta_s == pytest.approx((3 * 10 - 10) / 2.0)
    # A job that takes longer than others does not eat up the time of those that follow.
    assert tracker.status(40.0).eta_s == pytest.approx((3 * 10 - 10) / (60 / 40))


def test_no_time_left_is_told_from_a_single_job():
    tracker = Tracker({"calibrate": 10.0}, lambda rule: 10)
    feed(tracker, [*HEAD, *start("calibrate", 1), *finish("calibrate", 1, 1)], 60.0)
    assert tracker.status(60.0).eta_s is None


def test_a_rule_that_begins_is_news_once():
    tracker = Tracker({}, lambda rule: None)
    feed(tracker, HEAD, 0.0)
    assert any(feed(tracker, start("calibrate", 1), 1.0))
    assert not any(feed(tracker, start("calibrate", 2), 1.0))
    assert any(feed(tracker, start("report", 5), 1.0))


def test_rules_announced_by_a_message_are_known_when_they_finish():
    tracker = Tracker({"calibrate": 4.0}, lambda rule: None)
    feed(tracker, [*HEAD, "Job 1: Calibrating block b1", "Reason: Missing output files"], 0.0)
    feed(tracker, finish("calibrate", 1, 1), 2.0)
    status = tracker.status(2.0)
    assert (status.stage, status.frames_done, status.frames_total) == ("calibrate", 4, 16)


def test_a_failure_keeps_rule_log_and_wildcards():
    tracker = Tracker({}, lambda rule: None)
    lines = [
        "RuleException:",
        "CalledProcessError in file ...",
        "[Sat Nov 21 04:56:04 2026]",
        "Error in rule calibrate:",
        "    message: None",
        "    jobid: 3",
        "    output: results/outcomes/calibrate/x.csv",
        "    log: logs/calibrate/x.log (check log file(s) for error details)",
        "    wildcards: block=x",
        "Shutting down, this might take some time.",
        "    jobid: 99",
    ]
    feed(tracker, lines, 0.0)
    (failure,) = tracker.failures
    assert failure.rule == "calibrate"
    assert failure.log == "logs/calibrate/x.log"
    assert failure.facts["wildcards"] == "block=x"
    assert failure.facts["jobid"] == "3"


def test_lock_and_nothing_to_do_are_recognised():
    tracker = Tracker({}, lambda rule: None)
    feed(tracker, ["LockException:", "Error: Directory cannot be locked. Please make sure"], 0.0)
    assert tracker.locked
    feed(tracker, ["Nothing to be done (all requested files are present and up to date)."], 0.0)
    assert tracker.nothing_to_do


def status(jobs: int) -> Status:
    return Status(jobs, 10, "mask", 2 * jobs, 20, 2.5, 65.0, 8.0)


def test_line_says_frames_rate_and_time_left():
    assert status(3).line() == (
        " 30% | mask 6/20 frames | 3 of 10 jobs | 2.5 frames/s | about 1 min 5 s left"
    )


def test_without_a_terminal_plain_lines_come_at_intervals_and_at_news():
    stream = io.StringIO()
    display = Display(stream, live=False, interval_s=15.0)
    for now, news in ((0.0, False), (3.0, False), (6.0, True), (7.0, False), (21.5, False)):
        display.update(status(int(now) % 10).line(), now, news)
    display.clear()
    lines = stream.getvalue().splitlines()
    assert [line[:4] for line in lines] == ["  0%", " 60%", " 10%"]
    assert "\r" not in stream.getvalue()


def test_on_a_terminal_one_line_is_overwritten_and_taken_away():
    stream = io.StringIO()
    display = Display(stream, live=True)
    display.update(status(1).line(), 0.0)
    display.update(status(2).line(), 0.1)  # too soon to be seen
    display.update(status(3).line(), 0.5)
    display.clear()
    text = stream.getvalue()
    assert "\n" not in text
    assert text.count("\r") == 3
    assert " 20%" not in text
    assert text.endswith("\r\x1b[K")


def test_note_stays_on_a_line_of_its_own():
    stream = io.StringIO()
    display = Display(stream, live=True)
    display.update(status(1).line(), 0.0)
    display.note("stopping")
    assert stream.getvalue().endswith("\r\x1b[Kstopping\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8.4, "8 s"), (60, "1 min"), (125, "2 min 5 s"), (3000, "50 min"), (11520, "3 h 12 min")],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_a_message_is_shown_until_the_rule_is_known_and_is_news_once_per_rule():
    tracker = Tracker({"mask": 5.0}, lambda rule: None)
    feed(tracker, HEAD, 0.0)
    assert tracker.feed("Job 1: Masking the frames of block-a", 1.0)
    assert tracker.status(1.0).stage == "Masking the frames of block-a"
    assert not tracker.feed("Job 2: Masking the frames of block-b", 1.0)
    feed(tracker, finish("mask", 1, 1), 2.0)
    assert tracker.status(2.0).stage == "mask"
    assert tracker.feed("Job 3: Writing the report", 3.0)
    assert not tracker.feed("Job 4: Masking the frames of block-c", 4.0)
    assert tracker.status(4.0).stage == "mask"
