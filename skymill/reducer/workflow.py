"""The project behind a Reducer: its settings, its sheet, and running its steps."""

from __future__ import annotations

import contextlib
import io as memory
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io
from skymill.commands.init import make_project
from skymill.commands.project import Project
from skymill.errors import ConfigError, SkymillError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skymill.plan import Plan

__all__ = ["Workflow", "merged"]

#: Keys of the configuration that are not settings of a step.
_PLACES = ("raw", "instrument", "reference")


def merged(tree: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of settings with some of them replaced; None takes one out."""
    out: dict[str, Any] = dict(tree)
    for key, value in change.items():
        if isinstance(value, Mapping):
            part = merged(out.get(key) or {}, value)
            if part:
                out[key] = part
            else:
                out.pop(key, None)
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = value
    return out


class Workflow:
    """A project folder and its workflow.

    Parameters
    ----------
    folder : Path
        The project; it is made if there is none.
    raw : Path
        Folder of the raw files.
    instrument, reference : str or None
        As in `skymill.commands.init.make_project`; used when the project is made.
    cores : int or None
        CPU cores.
    verbose : bool
        Show the progress.
    """

    def __init__(
        self,
        folder: Path,
        raw: Path,
        *,
        instrument: str | None,
        reference: str | None,
        cores: int | None,
        verbose: bool,
    ) -> None:
        self.cores, self.verbose = cores, verbose
        config = folder.resolve() / "config" / "config.yaml"
        if not config.is_file():
            make_project(folder, raw, instrument, reference)
        self.project = Project.find(folder)
        there = self.project.folder / str(self.tree().get("raw", ""))
        if there.resolve() != raw.resolve():
            raise ConfigError(
                f"{folder.name} is the reduction of another folder of raw files; "
                "choose another out_directory"
            )
        self._plan: Plan | None = None

    @property
    def results(self) -> Path:
        """Folder of the products."""
        return self.project.results

    # --- settings ---------------------------------------------------------------------

    def tree(self) -> dict[str, Any]:
        """Return the configuration as it is written."""
        import yaml

        return dict(yaml.safe_load(self.project.config.read_text(encoding="utf-8")) or {})

    def change(self, settings: Mapping[str, Any]) -> bool:
        """Write settings into the project, if they are not in it; say whether they were not.

        Raises
        ------
        ConfigError
            For settings that do not exist or cannot be; nothing is written then.
        """
        import yaml

        from skymill.settings import default_config_text, validate_settings

        before = self.tree()
        after = merged(before, settings)
        validate_settings(after)
        if after == before:
            return False
        head = default_config_text(
            raw=after["raw"], instrument=after.get("instrument"), reference=None
        )
        steps = {key: value for key, value in after.items() if key not in _PLACES}
        if after.get("reference") is not None:
            head = head.replace("\nreference: null\n", "\n")
            steps["reference"] = after["reference"]
        body = yaml.safe_dump(steps, sort_keys=True, allow_unicode=True) if steps else ""
        io.write_text(self.project.config, head + "\n" + body)
        self.project = Project(self.project.folder)
        self._plan = None
        return True

    # --- sheet and plan ---------------------------------------------------------------

    def ingest(self, *, update: bool = False) -> None:
        """Read the raw folder into the sheet, if there is none or it is to be updated."""
        if self.project.sheet.is_file() and not update:
            return
        from skymill.commands.ingest import run_ingest

        with self._quiet():
            run_ingest(self.project.folder, self.project.settings, update=update)
        self._plan = None

    @property
    def plan(self) -> Plan:
        """What follows from the sheet and the settings."""
        if self._plan is None:
            self._plan = self.project.plan()
        return self._plan

    # --- running ----------------------------------------------------------------------

    def run(self, products: Iterable[str] = (), flags: Sequence[str] = ()) -> None:
        """Make products that are missing or not up to date.

        Parameters
        ----------
        products : iterable of str
            Files relative to the project; everything if there are none.
        flags : sequence of str
            Flags of Snakemake.

        Raises
        ------
        SkymillError
            If the run did not come to its end; frames that were rejected are no error.
        """
        from skymill.commands.run import run_project

        wanted = sorted(set(products))
        # Targets come first: --forcerun would take them for its own.
        with self._quiet() as said:
            code = run_project(self.project, self.cores, [*wanted, *flags])
        if code not in (0, 10):
            text = said.getvalue().strip() if said is not None else "see what was said above"
            raise SkymillError(f"the reduction ended with code {code}: {text[-2000:]}")

    @contextlib.contextmanager
    def _quiet(self) -> Any:
        if self.verbose:
            yield None
            return
        said = memory.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said


def linked(files: Iterable[str | Path], folder: Path) -> Path:
    """Make a folder of links to raw files and return it.

    Raises
    ------
    ConfigError
        If a file does not exist, or two have one name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, Path] = {}
    for file in files:
        path = Path(file).resolve()
        if not path.is_file():
            raise ConfigError(f"{path.name} does not exist")
        if wanted.setdefault(path.name, path) != path:
            raise ConfigError(f"two files are called {path.name}: give a folder instead")
    for link in folder.iterdir():
        if link.is_symlink() and link.name not in wanted:
            link.unlink()
    for name, path in sorted(wanted.items()):
        link = folder / name
        if link.is_symlink() and Path(os.path.realpath(link)) == path:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return folder
