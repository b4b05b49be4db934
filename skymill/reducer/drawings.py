"""The plots of a Reducer: diagnostics of the frames and catalogues that it has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.diagnostics.background import plot_background_mesh
from skymill.diagnostics.figures import Diagnostic, save_figure
from skymill.diagnostics.noise import NoiseModel, plot_noise
from skymill.diagnostics.scatter import plot_rms
from skymill.diagnostics.stars import (
    plot_apertures,
    plot_growth_curves,
    plot_psf,
    plot_snr,
)
from skymill.errors import ConfigError, SkymillError
from skymill.reducer.frames import LoadedFrame, load, set_psf_params
from skymill.reducer.photometers import AperturePhotometer, label_of
from skymill.reducer.state import State
from skymill.resample import pixel_to_pixel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.curves import LightCurves

    Targets = Mapping[str, int | Sequence[int]] | None

__all__ = ["Drawings"]


class Drawings(State):
    """Plots of `Reducer`, one Diagnostic per key; ``save`` writes PDF files into ``diag``."""

    # --- which frame ------------------------------------------------------------------

    def random_files(self, seed: int = 0) -> dict[str, str]:
        """Return an aligned frame of each key, the same ones for the same seed."""
        out = {}
        for number, (key, item) in enumerate(self.sequences.items()):
            aligned = [frame for frame in item.frames if frame in self.transforms]
            if aligned:
                random = np.random.default_rng([seed, number])
                out[key] = aligned[int(random.integers(len(aligned)))]
        return out

    def _best(self, key: str) -> str:
        """The reference frame of a key's filter."""
        item = self.sequences[key]
        frames = self._products(item.field).reference().meta.get("frames", {})
        for name, about in frames.items():
            if about["filter"] == item.filter and name in item.frames:
                return str(name)
        aligned = [frame for frame in item.frames if frame in self.transforms]
        if not aligned:
            raise SkymillError(f"{key}: no frame is aligned")
        return aligned[len(aligned) // 2]

    def _load(self, key: str, frame: str | None = None) -> LoadedFrame:
        item = self.sequences[key]
        name = frame or self._best(key)
        plan = self.workflow.plan
        block = next(b for b in item.blocks if name in plan.blocks[b].frames)
        found = load(self.workflow.results, block, name)
        if found is None:
            raise SkymillError(f"{key}: {name} is not aligned")
        return found

    def _keys(self) -> Iterator[str]:
        if not self.catalogs:
            raise SkymillError("there is no catalogue yet: call create_catalogs first")
        yield from (key for key in self.sequences if key in self.catalogs)

    def create_targets_dict(self) -> dict[str, list[int]]:
        """Return the labels of all sources of each key."""
        return {key: [int(v) for v in table["label"]] for key, table in self.catalogs.items()}

    def _targets(self, key: str, targets: Targets) -> NDArray[np.int64]:
        """Rows of a catalogue with the labels that are asked for.

        Raises
        ------
        ConfigError
            If a label is not in the catalogue.
        """
        labels = np.asarray(self.catalogs[key]["label"])
        if targets is None:
            return np.arange(labels.size)
        wanted = np.atleast_1d(np.asarray(targets.get(key, []), np.int64))
        missing = sorted(set(wanted.tolist()) - set(labels.tolist()))
        if missing:
            raise ConfigError(f"{key}: no source {missing[0]} in the catalogue")
        return np.array([int(np.flatnonzero(labels == n)[0]) for n in wanted], np.int64)

    def _on_frame(
        self, key: str, frame: LoadedFrame, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions of catalogue sources on a frame."""
        item = self.sequences[key]
        table = io.read_table(self.workflow.results / "catalog" / f"{item.stack}.parquet")
        catalog = self.catalogs[key][rows]
        x, y = (np.asarray(catalog[name].value, float) for name in ("x_stack", "y_stack"))
        return pixel_to_pixel(io.wcs_from_text(table.meta["wcs"]), x, y, frame.wcs)

    def _psf(self, key: str, frame: LoadedFrame) -> dict[str, float]:
        own = set_psf_params(self.aperture_selector, frame.sources)
        return own if np.isfinite(own["semimajor_sigma"]) else dict(self.psf_params[key])

    def _kept(self, save: bool, name: str, key: str, drawn: Diagnostic) -> Diagnostic:
        if save:
            file = f"{self.sequences[key].file_name}_{name}.pdf"
            save_figure(drawn.figure, self.out_directory / "diag" / file)
        return drawn

    # --- plots ------------------------------------------------------------------------

    def plot_background_meshes(
        self, save: bool = False, *, seed: int | None = None
    ) -> dict[str, Diagnostic]:
        """Draw the cells of the background over the reference frame, or over a random one."""
        chosen = {} if seed is None else self.random_files(seed)
        out = {}
        for key in self._keys():
            frame = self._load(key, chosen.get(key))
            image = frame.sci + frame.background.level_map()
            drawn = plot_background_mesh(image, frame.background, title=f"{key}  {frame.frame_id}")
            out[key] = self._kept(save, "background", key, drawn)
        return out

    def plot_growth_curves(
        self, targets: Targets = None, save: bool = False
    ) -> dict[str, Diagnostic]:
        """Draw the growth curves of sources on the reference frame of each key.

        Parameters
        ----------
        targets : mapping, optional
            Key to label, or list of labels, of the sources; all of them by default.
        save : bool
            Write PDF files.
        """
        out = {}
        for key in self._keys():
            if targets is not None and key not in targets:
                continue
            rows = self._targets(key, targets)
            frame = self._load(key)
            x, y = self._on_frame(key, frame, rows)
            drawn = plot_growth_curves(
                frame.sci, frame.err, frame.mask, x, y, fwhm_px=self._psf(key, frame)["fwhm_px"],
                labels=[int(v) for v in self.catalogs[key]["label"][rows]], title=key,
            )  # fmt: skip
            drawn.numbers["labels"] = [int(v) for v in self.catalogs[key]["label"][rows]]
            out[key] = self._kept(save, "growth_curves", key, drawn)
        return out

    def plot_psfs(
        self, targets: Targets = None, save: bool = False, *, most: int = 12
    ) -> dict[str, Diagnostic]:
        """Draw contours and projected profiles, of the first `most` sources by default."""
        out = {}
        for key in self._keys():
            if targets is not None and key not in targets:
                continue
            rows = self._targets(key, targets)[: None if targets else most]
            frame = self._load(key)
            x, y = self._on_frame(key, frame, rows)
            labels = [int(v) for v in self.catalogs[key]["label"][rows]]
            drawn = plot_psf(
                frame.sci, x, y, fwhm_px=self._psf(key, frame)["fwhm_px"], labels=labels, title=key
            )
            drawn.numbers["labels"] = labels
            out[key] = self._kept(save, "psfs", key, drawn)
        return out

    def plot_snrs(self, save: bool = False) -> dict[str, Diagnostic]:
        """Draw the signal to noise of every catalogue source on the reference frame."""
        out = {}
        for key in self._keys():
            found, labels, _ = self._measured(key, self._load(key))
            drawn = plot_snr(found["flux_0"], found["flux_err_0"], labels=labels, title=key)
            drawn.numbers["labels"] = labels
            out[key] = self._kept(save, "snrs", key, drawn)
        return out

    def plot_noise(
        self, save: bool = False, *, curves: Mapping[str, LightCurves] | None = None
    ) -> dict[str, Diagnostic]:
        """Draw the noise of the reference frame by its sources, beside what was measured.

        Parameters
        ----------
        save : bool
            Write PDF files.
        curves : mapping, optional
            Light curves by camera, as `photometry` returns them, for the scatter between frames.
        """
        out = {}
        for key in self._keys():
            frame = self._load(key)
            found, labels, model = self._measured(key, frame)
            flux = np.asarray(found["flux_0"], float)
            with np.errstate(invalid="ignore", divide="ignore"):
                error = 1.0857 * np.asarray(found["flux_err_0"], float) / flux
            scatter = self._scatter(key, labels, curves)
            drawn = plot_noise(model, flux, error, measured_mag=scatter, title=key)
            out[key] = self._kept(save, "noise", key, drawn)
        return out

    def plot_apertures(
        self, photometer: Any, targets: Targets = None, save: bool = False
    ) -> dict[str, Diagnostic]:
        """Draw the aperture, and the annulus, of a photometer over sources of each key."""
        out = {}
        for key in self._keys():
            if targets is not None and key not in targets:
                continue
            rows = self._targets(key, targets)
            frame = self._load(key)
            psf = self._psf(key, frame)
            x, y = self._on_frame(key, frame, rows)
            own = photometer if hasattr(photometer, "axes") else AperturePhotometer()
            a, b, angle = own.axes(psf)
            ring = getattr(photometer, "local_background", None)
            drawn = plot_apertures(
                frame.sci, x, y, a_px=a, b_px=b, theta_deg=angle,
                annulus=None if ring is None else [float(r) * psf["fwhm_px"] for r in ring],
                labels=[int(v) for v in self.catalogs[key]["label"][rows]],
                title=f"{key}  {label_of(photometer)}",
            )  # fmt: skip
            out[key] = self._kept(save, f"apertures_{label_of(photometer)}", key, drawn)
        return out

    def create_gifs(self, keep_frames: bool = True, overwrite: bool = False) -> dict[str, Path]:
        """Make a film of the aligned frames of each key, in ``cat``.

        Parameters
        ----------
        keep_frames : bool
            Keep the pictures, in ``diag/<key>_gif``.
        overwrite : bool
            Make films anew that are there.
        """
        from skymill.animations import write_film
        from skymill.field_alignment import field_film

        out = {}
        for key, item in self.sequences.items():
            path = self.out_directory / "cat" / f"{item.file_name}.gif"
            out[key] = path
            if path.is_file() and not overwrite:
                continue
            alignment = self._alignments.get(item.field)
            if alignment is None:
                raise SkymillError("no frame is aligned yet: call create_catalogs first")
            pictures = field_film(self._products(item.field), alignment, filters=[item.filter])
            write_film(path, pictures)
            if keep_frames:
                folder = self.out_directory / "diag" / f"{item.file_name}_gif"
                for number, picture in enumerate(pictures, 1):
                    _write_picture(folder / f"{number:05d}.png", picture)
        return out

    def _draw_rms(self, label: str, camera: str, curves: LightCurves) -> None:
        """Draw scatter over brightness of each filter of a camera."""
        table = curves.statistics
        for name in curves.filters:
            mine = table[np.asarray(table["filter"]).astype(str) == name]
            with np.errstate(invalid="ignore", divide="ignore"):
                mag = -2.5 * np.log10(np.asarray(mine["median_flux"], float))
            drawn = plot_rms(
                mag, np.asarray(mine["rms_mmag"], float),
                np.asarray(mine["expected_mmag"], float),
                comparison=np.asarray(mine["comparison"], bool), title=f"{camera}:{name}  {label}",
            )  # fmt: skip
            file = re.sub(r"[^\w.+-]+", "_", f"{camera}_{name}") + "_rms.pdf"
            save_figure(drawn.figure, self.out_directory / "diag" / label / file)

    # --- noise ------------------------------------------------------------------------

    def _measured(self, key: str, frame: LoadedFrame) -> tuple[Table, list[int], NoiseModel]:
        """Fluxes of the catalogue's sources on a frame, their labels, and the noise model."""
        from skymill.measure import mask_sources, measure_apertures

        settings = self.workflow.project.settings.photometry
        fwhm = self._psf(key, frame)["fwhm_px"]
        radius = fwhm * settings.apertures_fwhm[settings.main_aperture]
        x, y = self._on_frame(key, frame, np.arange(len(self.catalogs[key])))
        small = measure_apertures(frame.sci, frame.err, frame.mask, x, y, [1.25 * fwhm])
        with np.errstate(invalid="ignore", divide="ignore"):
            snr = np.asarray(small["flux_0"] / small["flux_err_0"])
        ring = None
        if settings.background == "annulus":
            ring = (settings.annulus_fwhm[0] * fwhm, settings.annulus_fwhm[1] * fwhm)
        found = measure_apertures(
            frame.sci, frame.err, frame.mask, x, y, [radius], annulus=ring,
            sky_mask=mask_sources(frame.mask, x, y, snr, fwhm),
            level_err=float(frame.background.level_err),
        )  # fmt: skip
        model = NoiseModel.circle(radius, fwhm, annulus=ring, **self._levels(frame))
        return found, [int(v) for v in self.catalogs[key]["label"]], model

    def _levels(self, frame: LoadedFrame) -> dict[str, float]:
        """Levels of the noise model of a frame, in electron."""
        from skymill.measure import scintillation

        header, row = frame.header, self.workflow.plan.rows[frame.frame_id]
        gain = float(header.get("GAIN", 1.0))
        out = {
            "sky_e": max(float(np.median(frame.background.level)), 0.0),
            "read_noise_e": float(header.get("RDNOISE", 0.0)),
            "gain_e_adu": gain,
        }
        exptime = float(row["exptime_s"] or 0.0)
        bias_adu = 0.0
        for kind in ("bias", "dark", "flat"):
            name = str(header.get(f"{kind.upper()}ID", "") or "")
            path = self.workflow.results / "masters" / f"{name}.fits"
            if not (name and path.is_file()):
                continue
            master = io.read_master(path)
            good = (master.mask == 0) & np.isfinite(master.err)
            if not good.any():
                continue
            sci, err = (np.asarray(plane[good], float) for plane in (master.sci, master.err))
            if kind == "bias":
                bias_adu = float(np.median(sci))
                out["bias_err_e"] = float(np.median(err)) * gain
            elif kind == "flat":
                out["flat_err"] = float(np.median(err / sci))
            else:
                # A master dark holds the bias, and its level is that of its own exposure.
                length = float(master.header.get("EXPTIME", 0.0) or 0.0)
                rate = exptime / length if length > 0 else 1.0
                out["dark_e"] = max(float(np.median(sci)) - bias_adu, 0.0) * gain * rate
        diameter = self.workflow.project.settings.photometry.telescope_diameter_m
        if diameter is not None and exptime > 0:
            mass = float(header.get("AIRMASS", 1.0))
            height = float(header.get("SITEELEV", 0.0))
            out["scintillation"] = scintillation(diameter, exptime, max(mass, 1.0), height)
        return out

    def _scatter(
        self, key: str, labels: list[int], curves: Mapping[str, LightCurves] | None
    ) -> NDArray[np.float64] | None:
        """Scatter of the light curves of a key's sources in mag; NaN where there is none."""
        item = self.sequences[key]
        mine = (curves or {}).get(item.camera)
        if mine is None:
            return None
        table = mine.statistics
        rows = np.asarray(table["filter"]).astype(str) == item.filter
        known = dict(
            zip(
                np.asarray(table["source"])[rows].tolist(),
                np.asarray(table["rms_mmag"], float)[rows].tolist(),
                strict=True,
            )
        )
        return np.array([known.get(label, np.nan) for label in labels]) / 1000


def _write_picture(path: Path, picture: Any) -> None:
    import io as memory

    stream = memory.BytesIO()
    picture.save(stream, format="PNG")
    io.write_bytes(path, stream.getvalue())
