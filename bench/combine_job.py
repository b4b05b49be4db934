"""One combination of bias frames in a process of its own: ours or the peer's.

``python -m bench.combine_job ENGINE METHOD OUT FILE...`` prints what it cost as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from astropy.io import fits


def ours(method: str, files: list[Path], out: Path) -> None:
    """Combine as the rule does: verified reading, quality checks, errors, bad pixels."""
    from skymill.io_raw import read_frame
    from skymill.steps.master_bias import master_bias
    from skymill.steps.masters_common import RawInput

    row: dict[str, Any] = {
        "instrument": "bench", "hdu": 0, "gain_e_adu": 1.5, "read_noise_e": 6.0, "exptime_s": 0.0,
        "saturation_adu": 65535.0,
    }  # fmt: skip
    frames = []
    for path in files:
        # the sheet would hold the checksum; it is computed here and believed
        own = row | {"sha256": None}
        frames.append(RawInput(path.stem, own, partial(_read, read_frame, path, own)))
    master = master_bias(frames, method=method, scratch=out.parent).value.master
    np.save(out, master.sci)


def _read(read_frame: Any, path: Path, row: dict[str, Any]) -> tuple[Any, Any]:
    found = read_frame(path, row)
    return found.images, found.header


def ccdproc(method: str, files: list[Path], out: Path) -> None:
    """Combine with ccdproc; its memory limit is left at the default."""
    from ccdproc import combine

    options: dict[str, Any] = {"method": "median"}
    if method == "clipped":
        options = {
            "method": "average", "sigma_clip": True,
            "sigma_clip_low_thresh": 3, "sigma_clip_high_thresh": 3,
        }  # fmt: skip
    master = combine([str(path) for path in files], unit="adu", dtype="float32", **options)
    np.save(out, np.asarray(master.data))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run one engine and print the CPU seconds of the call and the process, and peak memory.

    The call is made once on small frames first: imports and compiled code are then loaded.
    """
    engine, method, out, *files = sys.argv[1:]
    run = {"skymill": ours, "ccdproc": ccdproc}[engine]
    with TemporaryDirectory() as folder:
        run(method, _small(Path(folder)), Path(folder) / "small.npy")
    before = _cpu()
    run(method, [Path(name) for name in files], Path(out))
    print(
        json.dumps({
            "call_s": _cpu() - before,
            "process_s": _cpu(),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        })
    )  # fmt: skip


def _small(folder: Path) -> list[Path]:
    rng = np.random.default_rng(1)
    files = [folder / f"{number}.fits" for number in range(3)]
    for path in files:
        image = np.rint(rng.normal(1000, 4, (128, 128))).astype(np.uint16)
        fits.PrimaryHDU(image).writeto(path)
    return files


if __name__ == "__main__":
    main()
