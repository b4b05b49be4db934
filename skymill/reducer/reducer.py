"""The Reducer: opticam's names over the steps and products of skymill."""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.errors import ConfigError, SkymillError
from skymill.reducer.curves import CurveMaker
from skymill.reducer.drawings import Drawings
from skymill.reducer.frames import set_psf_params
from skymill.reducer.photometers import label_of
from skymill.reducer.series import Sequence, find_sequences
from skymill.reducer.workflow import Workflow, linked, merged
from skymill.resample import pixel_to_pixel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from astropy.table import QTable, Table
    from numpy.typing import NDArray

    from skymill.alignment import FieldAlignment
    from skymill.curves import LightCurves

__all__ = ["Reducer"]

_log = logging.getLogger(__name__)

#: Folders of a reduction, with opticam's names.
_FOLDERS = ("cat", "diag", "misc", "lcs")


class Reducer(Drawings):
    """Reduce a folder of frames of one or several cameras to light curves.

    A project is made in `out_directory`; its workflow does the work and knows what is up to
    date, so every call may be repeated, and a later session goes on where this one ended. A
    frame is named by its id, since one file may hold several; ``paths`` has the file of each.

    Parameters
    ----------
    data_directory : str, Path, or sequence of these
        Folder of the raw files, or the files. Never written to.
    out_directory : str or Path
        Folder of the project; it gets ``cat``, ``diag``, ``misc`` and ``lcs`` besides.
    instrument : str, optional
        Name of an instrument, or path of a YAML file (docs/instruments.md); told by headers.
    reference : str, optional
        Local reference catalogue, for positions on the sky and magnitudes.
    align_only : bool
        Do not look at world coordinates of headers: the reference frame is the coordinate system.
    missing_calibration : {"degrade", "skip", "require"}
        What is done without bias, dark or flat: go on and say so, go on silently, reject.
    aperture_selector : callable
        Makes one PSF of those of the sources, see ``psf_params``.
    threshold : float, optional
        Detection threshold in sigma.
    remove_cosmic_rays : bool
        Look for cosmic rays.
    barycenter : bool
        Times in the CSV files at the barycentre (TDB) where site and position are known.
    number_of_processors : int, optional
        CPU cores; by default all.
    settings : mapping, optional
        Any further settings by step (docs/settings.md).
    verbose : bool
        Show the progress.

    Raises
    ------
    ConfigError
        For files, settings or instruments that do not exist, or an `out_directory` that
        belongs to other raw files.
    """

    def __init__(
        self,
        data_directory: str | Path | Iterable[str | Path],
        out_directory: str | Path,
        instrument: str | None = None,
        *,
        reference: str | None = None,
        align_only: bool = False,
        missing_calibration: str = "degrade",
        aperture_selector: Callable[[Any], Any] = np.median,
        threshold: float | None = None,
        remove_cosmic_rays: bool = True,
        barycenter: bool = True,
        number_of_processors: int | None = None,
        settings: Mapping[str, Any] | None = None,
        verbose: bool = True,
    ) -> None:
        self.out_directory = Path(out_directory).resolve()
        self.data_directory = _raw_folder(data_directory, self.out_directory)
        self.aperture_selector, self.barycenter = aperture_selector, barycenter
        self.workflow = Workflow(
            self.out_directory, self.data_directory, instrument=instrument, reference=reference,
            cores=number_of_processors, verbose=verbose,
        )  # fmt: skip
        policy = {f"missing_{kind}": missing_calibration for kind in ("bias", "dark", "flat")}
        own: dict[str, Any] = {
            "calibrate": policy,
            "master_flat": {"missing_bias": missing_calibration},
            "mask": {"cosmics": remove_cosmic_rays},
        }
        if align_only:
            own["astrometry"] = {"mode": "align_only"}
        if threshold is not None:
            own["sources"] = {"threshold_sigma": float(threshold)}
            own["catalog"] = {"threshold_sigma": float(threshold)}
        self.workflow.change(merged(own, settings or {}))
        self.workflow.ingest()
        for name in _FOLDERS:
            (self.out_directory / name).mkdir(exist_ok=True)
        self._excluded = self._read_excluded()

    def __repr__(self) -> str:
        return f"<Reducer {self.out_directory.name}: {', '.join(self.sequences) or 'no frames'}>"

    # --- what there is ----------------------------------------------------------------

    @cached_property
    def sequences(self) -> dict[str, Sequence]:
        """Sequences of frames by ``camera:filter``."""
        return find_sequences(self.workflow.plan)

    @property
    def camera_files(self) -> dict[str, list[str]]:
        """Frames of each key in order of time."""
        return {key: list(item.frames) for key, item in self.sequences.items()}

    @property
    def paths(self) -> dict[str, Path]:
        """Raw file of each light frame."""
        rows = self.workflow.plan.rows
        return {
            frame: self.data_directory / str(rows[frame]["path"])
            for item in self.sequences.values()
            for frame in item.frames
        }

    @property
    def rejected_files(self) -> dict[str, str]:
        """Files of the folder that are no frame of a sequence, with the reason of each."""
        used = {frame for item in self.sequences.values() for frame in item.frames}
        return {
            str(row["path"]): f"{row['code']}: {row['message']}"
            for row in self.workflow.plan.rows.values()
            if row["verdict"] == "rejected" and row["frame_id"] not in used
        }

    @property
    def messages(self) -> list[tuple[str, str]]:
        """What the steps had to say, as (level, text): warning for degraded frames, error else."""
        levels = {"degraded": "warning", "rejected": "error", "failed": "error"}
        return [
            (levels[o.status], f"{o.step} {o.frame_id}: {o.code} {o.message}")
            for o in self.workflow.project.outcomes(self.workflow.plan)
            if o.status in levels
        ]

    @property
    def reference_files(self) -> dict[str, str]:
        """Reference frame of each key: that of its camera, to which all frames are aligned."""
        return {
            key: self._alignments[item.field].reference
            for key, item in self.sequences.items()
            if item.field in self._alignments
        }

    @property
    def transforms(self) -> dict[str, NDArray[np.float64]]:
        """Matrix of each aligned frame, shape (3, 3): reference to image pixels, 0-based."""
        return {
            frame: matrix
            for alignment in self._alignments.values()
            for frame, matrix in sorted(alignment.transforms.items())
        }

    @property
    def unaligned_files(self) -> dict[str, str]:
        """Frames that are not aligned, or were excluded, with the reason of each."""
        found = {
            frame: reason
            for alignment in self._alignments.values()
            for frame, reason in sorted(alignment.unaligned.items())
        }
        return found | self._excluded

    @cached_property
    def catalogs(self) -> dict[str, QTable]:
        """Catalogue of each key; empty before `create_catalogs`.

        Columns: ``label`` (one number in all filters of a camera), ``xcentroid``, ``ycentroid``
        (px of the reference frame, as ``transforms`` want them), ``x_stack``, ``y_stack``,
        ``sky_centroid`` where the sky is known, ``semimajor_sigma``, ``semiminor_sigma``,
        ``orientation`` (degree), ``flux``, ``flux_err``, ``kron_flux``, ``kron_flux_err``,
        ``flags`` and more.
        """
        out = {}
        for key, item in self.sequences.items():
            path = self._catalog_file(item)
            if path.is_file():
                out[key] = self._named_catalog(item, io.read_table(path))
        return out

    @cached_property
    def psf_params(self) -> dict[str, dict[str, float]]:
        """PSF of each key from its catalogue, see `skymill.reducer.frames.set_psf_params`."""
        out = {}
        for key, item in self.sequences.items():
            path = self._catalog_file(item)
            if path.is_file():
                scale = self._pixel_scale(item)
                out[key] = set_psf_params(
                    self.aperture_selector, io.read_table(path), scale_arcsec=scale
                )
        return out

    # --- making catalogues ------------------------------------------------------------

    def create_catalogs(
        self,
        max_catalog_sources: int | None = 30,
        n_alignment_sources: int | None = None,
        transform_type: str = "affine",
        rotation_limit: float | None = None,
        translation_limit: float | tuple[float, float] | None = None,
        scale_limit: float | None = None,
        overwrite: bool = False,
    ) -> dict[str, QTable]:
        """Calibrate, align and stack the frames of each key, and list the sources of the stacks.

        Parameters
        ----------
        max_catalog_sources : int or None
            The brightest sources of a stack that are kept; None for all.
        n_alignment_sources : int or None
            The brightest stars of the reference frame that are used; None for all, which is
            better and hardly slower.
        transform_type : {"affine", "translation"}
            What may lie between two frames.
        rotation_limit : float, optional
            Largest rotation against the reference frame to either side, in degree.
        translation_limit : float or (float, float), optional
            Largest shift, or largest shifts along x and y, in px.
        scale_limit : float, optional
            Largest ratio of the scales, to either side: 1.01 accepts 1/1.01 to 1.01.
        overwrite : bool
            Make everything from the alignment on anew. Without it only what does not fit the
            arguments or the files is made.

        Returns
        -------
        dict of str to QTable
            ``catalogs``.
        """
        shift = translation_limit
        default = {"max_sources": 100000, "max_stars": 5000}
        self.workflow.change(
            {
                "catalog": {"max_sources": max_catalog_sources or default["max_sources"]},
                "reference_frames": {"max_stars": n_alignment_sources or default["max_stars"]},
                "astrometry": {
                    "transform": transform_type,
                    "max_rotation_deg": rotation_limit,
                    "max_scale_ratio": scale_limit,
                    "max_translation_px": list(shift) if isinstance(shift, tuple) else shift,
                },
            }
        )
        wanted = [
            f"results/catalog/{s.stack}.parquet" for s in self.sequences.values() if s.stack
        ]
        if not wanted:
            raise SkymillError("there is no light frame to make a catalogue of")
        self.workflow.run(wanted, ["--forcerun", "reference_frames"] if overwrite else [])
        self._forget()
        self._save_catalogs()
        return self.catalogs

    def update(self) -> None:
        """Read the raw folder again: new files become frames of their sequences."""
        self.workflow.ingest(update=True)
        self._forget()

    def update_unaligned_files(
        self, files: Iterable[str | Path] | Mapping[str, str], reason: str = "excluded by hand"
    ) -> None:
        """Leave frames out of photometry, now and in later sessions.

        Parameters
        ----------
        files : iterable of str or Path, or mapping to reasons
            Frame ids, or names or paths of raw files (all frames of the file).
        reason : str
            Why, where `files` does not say.

        Raises
        ------
        ConfigError
            If a file is none of the light frames.
        """
        said = dict(files) if hasattr(files, "items") else {str(f): reason for f in files}
        paths = self.paths
        for name, why in said.items():
            found = [f for f, path in paths.items() if name in (f, path.name, str(path))]
            if not found:
                raise ConfigError(f"{name} is no light frame of this reduction")
            self._excluded |= dict.fromkeys(found, str(why))
        io.write_json(self._excluded_file, dict(sorted(self._excluded.items())))
        self._save_unaligned()

    # --- photometry -------------------------------------------------------------------

    def photometry(self, photometer: Any, overwrite: bool = False) -> dict[str, LightCurves]:
        """Measure the catalogues' sources on all aligned frames.

        Parameters
        ----------
        photometer : Photometer
            What is measured; see docs/reducer.md.
        overwrite : bool
            Measure again, also what fits photometer, catalogues and frames.

        Returns
        -------
        dict of str to LightCurves
            By camera. Files are in ``lcs/<label>``: opticam's CSV for each source and filter,
            and tables for `skymill.open_lightcurves`.

        Raises
        ------
        SkymillError
            Before `create_catalogs`, or if a photometer returns no fluxes.
        """
        if not self.catalogs:
            raise SkymillError("there is no catalogue yet: call create_catalogs first")
        made = CurveMaker(self, photometer, self._excluded).make(overwrite=overwrite)
        for camera, curves in made.items():
            self._draw_rms(label_of(photometer), camera, curves)
        return made

    def report(self) -> Path:
        """Make everything that the workflow has, and return the report."""
        self.workflow.run()
        self._forget()
        return self.workflow.project.report

    # --- inside -----------------------------------------------------------------------

    @cached_property
    def _alignments(self) -> dict[str, FieldAlignment]:
        """Alignment of each field that has come so far."""
        from skymill.field_alignment import field_alignment

        out = {}
        for field in sorted({item.field for item in self.sequences.values()}):
            products = self._products(field)
            if (products.results / "reference_frames" / f"{field}.parquet").is_file():
                out[field] = field_alignment(products)
        return out

    def _products(self, field: str) -> Any:
        from skymill.field_alignment import FieldProducts

        plan = self.workflow.plan
        item = plan.fields[field]
        frames = [frame for block in item.blocks for frame in plan.blocks[block].frames]
        return FieldProducts(self.workflow.results, field, item.blocks, plan.rows_of(frames))

    def _catalog_file(self, item: Sequence) -> Path:
        return self.workflow.results / "catalog" / f"{item.stack or 'none'}.parquet"

    @cached_property
    def _field_numbers(self) -> dict[str, Table]:
        """Sources of each field with their numbers in the catalogue of each filter."""
        from skymill.steps.lightcurve_sources import field_sources

        groups: dict[str, dict[str, Table]] = defaultdict(dict)
        for item in self.sequences.values():
            if self._catalog_file(item).is_file():
                groups[item.field][item.filter] = io.read_table(self._catalog_file(item))
        match = self.workflow.project.settings.lightcurves.match_radius_px
        return {f: field_sources(lists, match_radius_px=match) for f, lists in groups.items()}

    def _named_catalog(self, item: Sequence, table: Table) -> QTable:
        """Return a catalogue with opticam's columns, in pixels of the reference frame."""
        from astropy import units
        from astropy.coordinates import SkyCoord
        from astropy.table import QTable

        known = self._field_numbers[item.field]
        numbers = dict(
            zip(np.asarray(known[f"id_{item.filter}"]).tolist(), known["source"], strict=True)
        )
        out = QTable()
        out["label"] = [int(numbers[n]) for n in np.asarray(table["source"]).tolist()]
        x, y = self._on_reference(item, table)
        px = units.pix
        out["xcentroid"], out["ycentroid"] = x * px, y * px
        out["x_stack"], out["y_stack"] = (np.asarray(table[k], float) * px for k in "xy")
        ra, dec = (np.asarray(table[k], float) for k in ("ra", "dec"))
        if np.isfinite(ra).all() and len(ra):
            out["sky_centroid"] = SkyCoord(ra * units.deg, dec * units.deg)
        out["area"] = np.asarray(table["npix"])
        out["semimajor_sigma"], out["semiminor_sigma"] = (
            np.asarray(table[k], float) * px for k in "ab"
        )
        out["orientation"] = np.rad2deg(np.asarray(table["theta"], float)) * units.deg
        out["ellipticity"] = np.asarray(table["ellipticity"], float)
        e = units.electron
        for name, column in (
            ("peak", "peak"), ("flux", "flux"), ("flux_err", "flux_err"),
            ("kron_flux", "flux_kron"), ("kron_flux_err", "flux_err_kron"),
        ):  # fmt: skip
            out[name] = np.asarray(table[column], float) * e
        out["flags"] = np.asarray(table["flags"])
        out["stack_source"] = np.asarray(table["source"])
        order = np.argsort(np.asarray(out["label"]), kind="stable")
        return out[order]

    def _on_reference(
        self, item: Sequence, table: Table
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions of the stack's sources in pixels of the reference frame."""
        reference = self._products(item.field).reference()
        best = self._alignments[item.field].reference
        there = reference.meta.get("solutions", {}).get(best)
        x, y = (np.asarray(table[k], np.float64) for k in "xy")
        if not there or not table.meta.get("wcs"):
            return np.full(x.size, np.nan), np.full(x.size, np.nan)
        grid, wcs = io.wcs_from_text(table.meta["wcs"]), io.wcs_from_text(str(there["wcs"]))
        return pixel_to_pixel(grid, x, y, wcs)

    def _pixel_scale(self, item: Sequence) -> float | None:
        for block in item.blocks:
            path = self.workflow.results / "astrometry" / f"{block}.parquet"
            if path.is_file():
                scale = np.asarray(io.read_table(path)["scale_arcsec_px"], float)
                if np.isfinite(scale).any():
                    return float(np.nanmedian(scale))
        return None

    def _forget(self) -> None:
        """Read everything again: the workflow has run."""
        for name in (
            "sequences", "catalogs", "psf_params", "_alignments", "_field_numbers",
        ):  # fmt: skip
            self.__dict__.pop(name, None)

    def _save_catalogs(self) -> None:
        """Write catalogues, PSF, transforms and lists for people and other programs."""
        import io as memory

        from skymill.alignment import write_alignment

        for key, table in self.catalogs.items():
            text = memory.StringIO()
            table.write(text, format="ascii.ecsv", delimiter=",")
            name = f"{self.sequences[key].file_name}_catalog.ecsv"
            io.write_text(self.out_directory / "cat" / name, text.getvalue())
        io.write_json(self.out_directory / "misc" / "psf_params.json", _plain(self.psf_params))
        for field, alignment in self._alignments.items():
            write_alignment(self.out_directory / "misc" / f"transforms-{field}.json", alignment)
        self._save_unaligned()

    def _save_unaligned(self) -> None:
        lines = [f"{frame}\t{reason}" for frame, reason in sorted(self.unaligned_files.items())]
        io.write_text(
            self.out_directory / "diag" / "unaligned_files.txt",
            "".join(f"{line}\n" for line in lines),
        )

    @property
    def _excluded_file(self) -> Path:
        return self.out_directory / "misc" / "excluded_files.json"

    def _read_excluded(self) -> dict[str, str]:
        return dict(io.read_json(self._excluded_file)) if self._excluded_file.is_file() else {}


def _raw_folder(data: str | Path | Iterable[str | Path], out: Path) -> Path:
    """Return the folder of the raw files; single files are linked into the project."""
    if isinstance(data, str | Path):
        path = Path(data).resolve()
        if path.is_file():
            return linked([path], out / "raw")
        if not path.is_dir():
            raise ConfigError(f"data_directory {path.name} does not exist")
        return path
    return linked(data, out / "raw")


def _plain(tree: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return numbers that JSON can hold, without digits that are noise."""
    return {
        key: {k: round(float(v), 8) if np.isfinite(v) else None for k, v in item.items()}
        for key, item in tree.items()
    }
