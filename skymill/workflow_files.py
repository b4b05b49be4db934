"""Where the Snakefile, rules, scripts, profiles and environments lie."""

from __future__ import annotations

from pathlib import Path

from skymill.errors import SkymillError

__all__ = ["workflow_root"]


def workflow_root() -> Path:
    """Return the folder that holds the Snakefile.

    In a checkout the workflow lies beside the package; a wheel carries it inside the
    package, as ``skymill/_workflow``.

    Returns
    -------
    Path
        Absolute path of the folder with ``Snakefile``, ``workflow/`` and ``scripts/``.

    Raises
    ------
    SkymillError
        If neither place holds a workflow: the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    # The checkout first: a build may have left a copy inside the package.
    for root in (package.parent, package / "_workflow"):
        if (root / "Snakefile").is_file() and (root / "workflow" / "rules").is_dir():
            return root
    raise SkymillError(
        f"no Snakefile beside or inside {package}: the installation is not complete, "
        "install skymill again (`pip install .` in a checkout)"
    )
