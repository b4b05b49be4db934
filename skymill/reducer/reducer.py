"""The Reducer: opticam's names over the steps and products of skymill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.errors import ConfigError, SkymillError
from skymill.reducer.curves import CurveMaker
from skymill.reducer.drawings import Drawings
from skymill.reducer.photometers import label_of
from skymill.reducer.workflow import Workflow, linked, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from astropy.table import QTable

    from skymill.curves import LightCurves

__all__ = ["Reducer"]

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
        if self.data_directory == self.out_directory / "raw":
            own["ingest"] = {"follow_links": True}  # the links are ours
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
        wanted = [f"results/catalog/{s.stack}.parquet" for s in self.sequences.values() if s.stack]
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
        if isinstance(files, Mapping):
            said = {str(name): str(why) for name, why in files.items()}
        else:
            said = {str(name): reason for name in files}
        paths = self.paths
        for name, why in said.items():
            found = [f for f, path in paths.items() if name in (f, path.name, str(path))]
            if not found:
                raise ConfigError(f"{name} is no light frame of this reduction")
            self._excluded |= dict.fromkeys(found, why)
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

    # --- files for people and other programs ---------------------------------------------

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
