"""Compiled code is never older than the sources it was made from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import skymill.kernels

INNER = "import numba\n\n@numba.njit(cache=True)\ndef inner(x):\n    return x + {}\n"
OUTER = (
    "import numba\nfrom {package}.inner import inner\n\n"
    "@numba.njit(cache=True)\ndef outer(x):\n    return inner(x)\n"
)


def test_a_change_in_a_called_kernel_is_seen(tmp_path):
    package = tmp_path / "somekernels"
    package.mkdir()
    shutil.copy(Path(skymill.kernels.__file__), package / "__init__.py")
    (package / "outer.py").write_text(OUTER.format(package="somekernels"))
    answers = []
    for number in (1, 2, 1):
        (package / "inner.py").write_text(INNER.format(number))
        code = "from somekernels.outer import outer; print(outer(10))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        answers.append(int(done.stdout))
    assert answers == [11, 12, 11]


def test_a_folder_of_the_user_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert skymill.kernels._cache_folder().parent == tmp_path
