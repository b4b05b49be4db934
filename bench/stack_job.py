"""One stack in a process of its own: the rule's function, or the peer in Python.

``python -m bench.stack_job skymill FOLDER OUT SETTINGS [WARM]`` stacks the products in a folder,
after those in another one so that imports and compiled code are there;
``python -m bench.stack_job reproject FOLDER LIKE OUT N`` the first N files made for peers on the
grid of another stack. Prints what it cost as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np


def cpu_s() -> float:
    """CPU seconds of this process and its children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def ours(folder: Path, out: Path, settings: dict[str, Any]) -> None:
    """Stack as the rule does."""
    from bench.stack_files import job_arguments
    from skymill.jobs.stack import stack_frames

    stack_frames(**job_arguments(folder, out, **settings))


def reproject(folder: Path, like: Path, out: Path, n: int) -> None:
    """Stack with ``reproject_and_coadd``."""
    from bench.stack_files import reproject_stack
    from skymill import io
    from skymill.grid import Grid

    frame = io.read_frame(like)
    frame.wcs.array_shape = frame.shape
    paths = sorted(p for p in folder.glob("*.fits") if ".weight" not in p.name)[:n]
    np.save(out, reproject_stack(paths, Grid(frame.wcs, frame.shape, ())))


def main() -> None:
    """Run and print the CPU seconds of the call and of the process, and its peak memory."""
    engine, *arguments = sys.argv[1:]
    if engine == "skymill":
        settings = json.loads(arguments[2])
        if len(arguments) > 3:
            ours(Path(arguments[3]), Path(arguments[1]).with_name("warm.fits"), settings)
    before = cpu_s()
    if engine == "skymill":
        ours(Path(arguments[0]), Path(arguments[1]), settings)
    else:
        reproject(*(Path(name) for name in arguments[:3]), int(arguments[3]))
    print(
        json.dumps({
            "call_s": cpu_s() - before,
            "process_s": cpu_s(),
            "rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 * 1.024,
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
