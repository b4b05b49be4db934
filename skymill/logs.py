"""The log of a job: the only module that configures logging."""

from __future__ import annotations

import logging
import os
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["job_log", "pin_threads"]

_FORMAT = "%(levelname)s %(name)s: %(message)s"


@contextmanager
def job_log(path: str | Path) -> Iterator[logging.Logger]:
    """Send log records, warnings and the traceback of a failure to the log of a job.

    Parameters
    ----------
    path : str or Path
        Log file of the rule.

    Yields
    ------
    logging.Logger
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    pin_threads()
    log = logging.getLogger("skymill")
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield log
    except BaseException:
        log.exception("the job failed")
        raise
    finally:
        # What the work itself cost, without the start of the interpreter and the imports.
        log.info("cpu_s=%.3f", time.process_time() - start)
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def pin_threads() -> None:
    """Keep numerical libraries from taking all cores in every job."""
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
        os.environ.setdefault(f"{name}_NUM_THREADS", "1")
