"""Light curves of a Reducer: what the workflow measured, or any photometer."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.curves import LightCurves, open_lightcurves
from skymill.curves.export import export_opticam
from skymill.jobs.tables import records
from skymill.reducer.frames import measure_sequence
from skymill.reducer.photometers import label_of, workflow_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from astropy.table import Table

    from skymill.reducer.reducer import Reducer
    from skymill.reducer.series import Sequence

__all__ = ["CurveMaker"]

_PARTS = ("statistics", "sources", "frames")


class CurveMaker:
    """Measures with one photometer and joins the light curves of each camera.

    Parameters
    ----------
    reducer : Reducer
        Whose frames and catalogues.
    photometer : Photometer
        What is measured.
    excluded : mapping of str to str
        Frames that are left out, and why.
    """

    def __init__(self, reducer: Reducer, photometer: Any, excluded: Mapping[str, str]) -> None:
        self.reducer, self.photometer = reducer, photometer
        self.excluded = frozenset(excluded)
        self.label = label_of(photometer)
        self.folder: Path = reducer.out_directory / "lcs" / self.label
        self.results: Path = reducer.workflow.results

    def make(self, *, overwrite: bool) -> dict[str, LightCurves]:
        """Return light curves by camera; those that fit what they were made of are kept."""
        fields: dict[str, list[Sequence]] = defaultdict(list)
        for key, item in self.reducer.sequences.items():
            if key in self.reducer.catalogs:
                fields[item.field].append(item)
        chosen = workflow_settings(self.photometer)
        if chosen is not None:
            self._run(chosen[0], [i for items in fields.values() for i in items], overwrite)
        out: dict[str, LightCurves] = {}
        for field, items in sorted(fields.items()):
            stamp = self._stamp(items)
            if overwrite or not self._current(field, stamp):
                self._measure(field, items, chosen[1] if chosen else None)
                io.write_json(self.folder / "made_from" / f"{field}.json", stamp)
            camera = items[0].camera
            out[camera if camera not in out else field] = open_lightcurves(
                self.folder / f"{field}.parquet"
            )
        return out

    def _run(self, settings: dict[str, Any], items: list[Sequence], overwrite: bool) -> None:
        """Let the workflow measure; methods that were asked for earlier stay."""
        workflow = self.reducer.workflow
        now = workflow.project.settings.photometry
        # Radii of this photometer come first; others that were asked for are kept with them.
        methods = {"aperture", *now.methods, *settings.pop("methods", [])}
        order = [name for name in ("aperture", "optimal", "psf") if name in methods]
        radii = settings.pop("apertures_fwhm", None)
        if radii is not None:
            main = radii[settings.pop("main_aperture")]
            every = sorted({*map(float, now.apertures_fwhm), main})
            settings |= {"apertures_fwhm": every, "main_aperture": every.index(main)}
        workflow.change({"photometry": settings | {"methods": order}})
        wanted = [f"results/photometry/{b}.parquet" for i in items for b in i.blocks]
        workflow.run(wanted, ["--forcerun", "photometry"] if overwrite else [])

    def _stamp(self, items: list[Sequence]) -> dict[str, Any]:
        """What light curves were made from: any change makes them anew."""
        parameters = {
            name: repr(value)
            for name, value in sorted(vars(self.photometer).items())
            if not name.startswith("_")
        } if hasattr(self.photometer, "__dict__") else {}  # fmt: skip
        files: dict[str, str] = {}
        chosen = workflow_settings(self.photometer) is not None
        for item in items:
            paths = [self.results / "catalog" / f"{item.stack}.parquet"]
            steps = ("photometry", "photcal") if chosen else ("sources", "astrometry", "photcal")
            paths += [self.results / s / f"{b}.parquet" for s in steps for b in item.blocks]
            files |= {f"{p.parent.name}/{p.name}": io.file_digest(p) for p in paths if p.is_file()}
        settings = self.reducer.workflow.project.settings.lightcurves.model_dump(mode="json")
        text = repr((sorted(files.items()), sorted(settings.items())))
        return {
            "photometer": type(self.photometer).__name__,
            "parameters": parameters,
            "excluded": sorted(self.excluded),
            "barycenter": self.reducer.barycenter,
            "inputs": hashlib.sha256(text.encode()).hexdigest(),
        }

    def _current(self, field: str, stamp: dict[str, Any]) -> bool:
        path = self.folder / "made_from" / f"{field}.json"
        whole = all((self.folder / part / f"{field}.parquet").is_file() for part in ("", *_PARTS))
        return whole and path.is_file() and io.read_json(path) == stamp

    def _measure(self, field: str, items: list[Sequence], column: str | None) -> None:
        from skymill.steps.lightcurves import lightcurves

        plan = self.reducer.workflow.plan
        tables: dict[str, Table] = {}
        catalogs: dict[str, Table] = {}
        fluxes: dict[str, dict[str, Any]] = {}
        rows: dict[str, dict[str, Any]] = {}
        for item in items:
            catalogs[item.filter] = io.read_table(
                self.results / "catalog" / f"{item.stack}.parquet"
            )
            rows |= {frame: dict(plan.rows[frame]) for frame in item.frames}
            for block in item.blocks:
                path = self.results / "photcal" / f"{block}.parquet"
                if path.is_file():
                    fluxes |= records(io.read_table(path))
            tables[item.filter] = self._table(item, catalogs[item.filter], column)
        settings = self.reducer.workflow.project.settings.lightcurves.model_dump(mode="json")
        product = lightcurves(tables, catalogs, rows, fluxes, **settings).value
        parts = {part: getattr(product, part) for part in _PARTS}
        facts = {"step": "lightcurves", "photometer": self.label, "field": field}
        io.write_table(self.folder / f"{field}.parquet", product.points, facts)
        for part, table in parts.items():
            io.write_table(self.folder / part / f"{field}.parquet", table, facts)
        many = len({i.field for i in self.reducer.sequences.values()}) > 1
        place = self.folder / items[0].camera.replace("/", "_") if many else self.folder
        export_opticam(
            LightCurves(product.points, **parts, field=field), place,
            background=getattr(self.photometer, "local_background", None) is not None,
            barycentre=self.reducer.barycenter,
        )  # fmt: skip

    def _table(self, item: Sequence, catalog: Table, column: str | None) -> Table:
        """Fluxes of a sequence; frames that are left out have no rows."""
        if column is None:
            return measure_sequence(
                self.results, item, catalog, self.photometer,
                psf=self.reducer.psf_params[item.key], selector=self.reducer.aperture_selector,
                skip=self.excluded,
            )  # fmt: skip
        from astropy.table import vstack

        parts = []
        for block in item.blocks:
            table = io.read_table(self.results / "photometry" / f"{block}.parquet")
            table.meta = {}
            names = np.asarray(table["frame_id"]).astype(str)
            table = table[
                (np.asarray(table["source"]) > 0) & ~np.isin(names, sorted(self.excluded))
            ]
            if column != "flux":
                table["flux"] = table[column]
                table["flux_err"] = table[column.replace("flux", "flux_err")]
            parts.append(table)
        return vstack(parts, metadata_conflicts="silent")
