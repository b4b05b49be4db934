"""The truth beside the raw frames: written while they are made, read back by tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.simulate.config import NightConfig
from skymill.simulate.frames import LightTruth, TruthBit
from skymill.simulate.stars import Stars, reference_rows

if TYPE_CHECKING:
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.simulate.detector import Detector

__all__ = ["Truth", "TruthWriter"]


@dataclass(frozen=True)
class Truth:
    """What is true of a simulated night.

    Parameters
    ----------
    folder : Path
        The truth folder.
    raw : Path
        The root of the raw tree; paths in ``frames`` and ``bad`` are relative to it.
    config : NightConfig
        What was asked for.
    frames : tuple of dict
        One entry per good frame; see docs/simulate.md for the keys.
    bad : tuple of dict
        One entry per bad frame: ``name``, ``hazard``, ``path``, ``why``, ``good``,
        ``expected`` (``statuses`` and ``codes``, either of which is right).
    """

    folder: Path
    raw: Path
    config: NightConfig
    frames: tuple[dict[str, Any], ...]
    bad: tuple[dict[str, Any], ...]

    @classmethod
    def load(cls, folder: str | Path) -> Truth:
        """Read the truth of a night that was written before.

        Parameters
        ----------
        folder : str or Path
            A truth folder: the one with truth.json in it.
        """
        folder = Path(folder)
        content = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        return cls(
            folder,
            folder / content["raw"],
            NightConfig.model_validate(content["config"]),
            tuple(content["frames"]),
            tuple(content["bad"]),
        )

    @property
    def lights(self) -> tuple[dict[str, Any], ...]:
        """Entries of the light frames, in the order of time of each filter."""
        return tuple(entry for entry in self.frames if entry["kind"] == "light")

    def frame(self, name: str) -> dict[str, Any]:
        """Entry of one good frame by its name (the file's stem)."""
        for entry in self.frames:
            if entry["frame"] == name:
                return entry
        raise KeyError(f"no good frame {name!r} in {self.folder.name}")

    def catalog(self) -> Table:
        """True catalogue: id, ra, dec, one magnitude per filter, variable."""
        return self._table("catalog.csv")

    def reference(self) -> Table:
        """Catalogue with errors: id, ra, dec, <filter>, <filter>_err."""
        return self._table("reference.csv")

    def positions(self) -> Table:
        """True places: id, frame, x, y, inside."""
        return self._table("positions.csv")

    def lightcurves(self) -> Table:
        """True fluxes: id, frame, filter, mjd_mid, exptime_s, flux_e, relative_flux."""
        return self._table("lightcurves.csv")

    def image(self, name: str) -> NDArray[np.float32]:
        """Noiseless sky and sources of a light frame in electron, shape (ny, nx)."""
        return self._image(f"images/{name}.fits", 0).astype(np.float32)

    def mask(self, name: str) -> NDArray[np.uint8]:
        """Truth mask of a light frame: bits of `TruthBit`."""
        return self._image(f"images/{name}.fits", 1).astype(np.uint8)

    def cosmic_e(self, name: str) -> NDArray[np.float64]:
        """Electrons by cosmic rays in a light frame, shape (ny, nx)."""
        out = np.zeros(self.config.shape)
        with fits.open(self.folder / f"images/{name}.fits") as hdus:
            hits = hdus["COSMIC"].data
            out[hits["y"], hits["x"]] = hits["electrons"]
        return out

    def flat(self, band: str) -> NDArray[np.float64]:
        """True flat of a filter, median 1."""
        return self._image(f"flat_{band}.fits", 0)

    def dead(self, band: str) -> NDArray[np.bool_]:
        """True where the response is below 0.3."""
        return self._image(f"flat_{band}.fits", 1) > 0

    def bias(self) -> NDArray[np.float64]:
        """True bias of the image area above the overscan, ADU."""
        return self._image("bias.fits", 0)

    def dark(self) -> NDArray[np.float64]:
        """True dark current, electron/s."""
        return self._image("dark.fits", 0)

    def hot(self) -> NDArray[np.bool_]:
        """Hot pixels."""
        return self._image("dark.fits", 1) > 0

    def _table(self, name: str) -> Table:
        from astropy.table import Table

        return Table.read(self.folder / name, format="ascii.csv")

    def _image(self, name: str, hdu: int) -> NDArray[Any]:
        with fits.open(self.folder / name) as hdus:
            data = np.asarray(hdus[hdu].data)
        return data.astype(np.float64) if data.dtype.kind == "f" else np.array(data)


@dataclass
class TruthWriter:
    """Collects the truth while the frames are made."""

    folder: Path
    raw: Path
    config: NightConfig
    stars: Stars
    frames: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    _positions: list[str] = field(default_factory=list)
    _fluxes: list[str] = field(default_factory=list)

    def detector(self, detector: Detector) -> None:
        """Write bias, dark and flats."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("bias.fits", detector.bias_adu, "adu")
        self._write("dark.fits", detector.dark_e_s, "electron/s", ("HOT", detector.hot))
        for band in self.config.filters:
            self._write(f"flat_{band}.fits", detector.flat(band), "", ("DEAD", detector.dead))

    def calibration(self, name: str, kind: str, band: str, path: Path) -> None:
        """Note a bias, dark or flat frame."""
        self.frames.append({"frame": name, "kind": kind, "filter": band, "path": self._rel(path)})

    def light(self, truth: LightTruth, path: Path) -> None:
        """Note a light frame and write its noiseless image."""
        numbers = truth.numbers
        self.frames.append({**numbers, "path": self._rel(path)})
        name, ny, nx = numbers["frame"], *self.config.shape
        # NaN compares as False: a star far outside is not inside.
        inside = (np.abs(truth.x - (nx - 1) / 2) <= nx / 2) & (
            np.abs(truth.y - (ny - 1) / 2) <= ny / 2
        )
        common = f"{name},{numbers['filter']},{numbers['mjd_mid']:.9f},{numbers['exptime_s']:g}"
        for i, star in enumerate(truth.ids):
            self._positions.append(
                f"{star},{name},{truth.x[i]:.5f},{truth.y[i]:.5f},{int(inside[i])}"
            )
            self._fluxes.append(f"{star},{common},{truth.flux_e[i]:.4f},{truth.relative[i]:.8f}")
        if self.config.truth_images:
            self._write_light(name, truth)

    def finish(self) -> Truth:
        """Write tables and truth.json."""
        stars, config = self.stars, self.config
        kinds, columns = stars.kinds(), [stars.mag(band) for band in config.filters]
        self._csv(
            "catalog.csv",
            ["id", "ra", "dec", *config.filters, "variable"],
            [
                ",".join(
                    [star, f"{stars.ra[i]:.8f}", f"{stars.dec[i]:.8f}"]
                    + [f"{column[i]:.5f}" for column in columns]
                    + [kinds[i]]
                )
                for i, star in enumerate(stars.ids)
            ],
        )
        self._csv("reference.csv", *reference_rows(config, stars))
        self._csv("positions.csv", ["id", "frame", "x", "y", "inside"], self._positions)
        self._csv(
            "lightcurves.csv",
            ["id", "frame", "filter", "mjd_mid", "exptime_s", "flux_e", "relative_flux"],
            self._fluxes,
        )
        up = "/".join([".."] * len(self.folder.relative_to(self.raw.parent).parts))
        content = {
            "config": config.model_dump(mode="json"),
            "raw": f"{up}/{self.raw.name}",
            "variables": [
                {"id": stars.ids[row], **star.model_dump(exclude={"star"})}
                for row, star in stars.variables
            ],
            "transit": None
            if stars.transit is None
            else {
                "id": stars.ids[stars.transit[0]],
                **stars.transit[1].model_dump(exclude={"star"}),
            },
            "mask_bits": {bit.name: int(bit) for bit in TruthBit},
            "frames": self.frames,
            "bad": self.bad,
        }
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        (self.folder / "truth.json").write_text(text + "\n", encoding="utf-8", newline="\n")
        return Truth(self.folder, self.raw, config, tuple(self.frames), tuple(self.bad))

    def odd(self, entry: dict[str, Any], path: Path) -> None:
        """Note a bad frame."""
        self.bad.append({**entry, "path": self._rel(path)})

    def _rel(self, path: Path) -> str:
        return path.relative_to(self.raw).as_posix()

    def _csv(self, name: str, header: list[str], lines: list[str]) -> None:
        text = "\n".join([",".join(header), *lines]) + "\n"
        (self.folder / name).write_text(text, encoding="utf-8", newline="\n")

    def _write(
        self,
        name: str,
        data: NDArray[np.float64],
        unit: str,
        mask: tuple[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        primary = fits.PrimaryHDU(data.astype(np.float32))
        if unit:
            primary.header["BUNIT"] = unit
        hdus = [primary]
        if mask is not None:
            hdus.append(fits.ImageHDU(mask[1].astype(np.uint8), name=mask[0]))
        fits.HDUList(hdus).writeto(self.folder / name, overwrite=True)

    def _write_light(self, name: str, truth: LightTruth) -> None:
        header = fits.Header()
        header["BUNIT"] = "electron"
        header.update(truth.wcs_cards)
        y, x = np.nonzero(truth.cosmic_e)
        columns = [
            fits.Column("y", "J", array=y),
            fits.Column("x", "J", array=x),
            fits.Column("electrons", "D", array=truth.cosmic_e[y, x]),
        ]
        mask = fits.ImageHDU(truth.mask, name="MASK")
        for bit in TruthBit:
            mask.header[str(bit.name)[:8]] = int(bit)
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        fits.HDUList(
            [
                fits.PrimaryHDU(truth.image, header),
                mask,
                fits.BinTableHDU.from_columns(columns, name="COSMIC"),
            ]
        ).writeto(folder / f"{name}.fits", overwrite=True)
