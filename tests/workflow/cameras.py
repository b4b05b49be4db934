"""Simulated nights read out by other cameras: amplifiers, detectors, colours, windows.

The base night has a gain of 1, no bias and no read noise: its raw files hold the electrons
of each pixel, with photon noise, dark current and cosmic rays. The cameras here read these
charges as electronics does, and write what their files would hold. So the truth of the
simulator, in electrons, stays the truth of the calibrated frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.simulate import NightConfig, Truth, simulate_night

from .conftest import skymill

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Amp", "charges", "pixel_bits", "read", "reduce", "rewrite", "section", "shifted_wcs"]

#: Cards of the image, which belong into the HDU of the pixels; the others are the observation's.
PIXEL_CARDS = ("TRIMSEC", "BIASSEC", "GAIN", "RDNOISE", "SATURATE")
WCS_CARDS = ("WCSAXES", "CTYPE", "CUNIT", "CRVAL", "CRPIX", "CD", "A_", "B_", "AP_", "BP_")
#: Level from which the cameras here are saturated (ADU).
TOP_ADU = 60_000.0
KINDS = """
kinds:
  - {kind: bias, when: {IMAGETYP: bias*}}
  - {kind: dark, when: {IMAGETYP: dark*}}
  - {kind: flat, when: {IMAGETYP: flat*}}
  - {kind: light, when: {IMAGETYP: light*}}
object: {keywords: [OBJECT]}
filter: {keywords: [FILTER]}
exposure: {keywords: [EXPTIME]}
time: {date: [DATE-OBS]}
binning: [XBINNING YBINNING]
temperature: {keywords: [CCD-TEMP]}
ra: {keywords: [RA], unit: hourangle}
dec: {keywords: [DEC], unit: deg}
airmass: {keywords: [AIRMASS]}
dark: needed
"""


@dataclass(frozen=True)
class Amp:
    """One amplifier: where its pixels lie on the detector, and what its electronics does."""

    name: str
    ys: slice
    xs: slice
    gain: float
    noise_e: float
    level: float
    curve: float = 0.0
    flip_y: bool = False
    flip_x: bool = False

    def turned(self, part: np.ndarray) -> np.ndarray:
        """From the orientation of the detector to that of the stored image, or back."""
        part = part[::-1] if self.flip_y else part
        return part[:, ::-1] if self.flip_x else part

    @property
    def detsec(self) -> str:
        x, y = (self.xs.start + 1, self.xs.stop), (self.ys.start + 1, self.ys.stop)
        x, y = x[::-1] if self.flip_x else x, y[::-1] if self.flip_y else y
        return f"[{x[0]}:{x[1]},{y[0]}:{y[1]}]"

    @property
    def noise_adu(self) -> float:
        """Scatter of a pixel without light, rounding to whole numbers included."""
        return float(np.hypot(self.noise_e / self.gain, np.sqrt(1 / 12)))


def section(ys: slice, xs: slice) -> str:
    return f"[{xs.start + 1}:{xs.stop},{ys.start + 1}:{ys.stop}]"


def base_night(folder: Path, **changes: Any) -> Truth:
    """Simulate charges: see the module's docstring."""
    defaults: dict[str, Any] = {
        "seed": 23, "shape": (200, 220), "gain_e_adu": 1.0, "read_noise_e": 0.0,
        "bias_level_adu": 0.0, "bias_structure_adu": 0.0, "overscan_px": 0,
        "overscan_drift_adu": 0.0, "overscan_slope_adu": 0.0, "full_well_e": None,
        "dark_e_s": 0.1, "mag_bright": 12.0, "mag_faint": 17.5, "n_stars": 70,
        "n_bias": 6, "n_dark": 4, "n_flat": 6, "n_light": 3, "wcs": "offset",
        "cosmic_rate_mpx_s": 0.05,
    }  # fmt: skip
    return simulate_night(folder, NightConfig(**(defaults | changes)))


def charges(truth: Truth) -> Iterator[tuple[Path, dict[str, Any], fits.Header, np.ndarray]]:
    """Each raw file: path, entry of the truth, header, electrons."""
    for entry in truth.frames:
        path = truth.raw / entry["path"]
        with fits.open(path) as hdus:
            yield path, entry, hdus[0].header.copy(), hdus[0].data.astype(np.float64)


def split_cards(header: fits.Header) -> tuple[fits.Header, fits.Header]:
    """Cards of the observation, and world coordinates."""
    common, wcs = fits.Header(), fits.Header()
    for card in header.cards:
        structural = ("SIMPLE", "BITPIX", "NAXIS", "EXTEND", "BZERO", "BSCALE", *PIXEL_CARDS)
        if card.keyword.startswith(structural):
            continue
        (wcs if card.keyword.startswith(WCS_CARDS) else common).append(card)
    return common, wcs


def shifted_wcs(wcs: fits.Header, amp: Amp) -> fits.Header:
    """World coordinates (without distortion) of the stored image of an amplifier."""
    out = wcs.copy()
    if not out:
        return out
    for axis, part, flip in ((1, amp.xs, amp.flip_x), (2, amp.ys, amp.flip_y)):
        place = out[f"CRPIX{axis}"] - part.start
        out[f"CRPIX{axis}"] = part.stop - part.start + 1 - place if flip else place
        if flip:
            for row in (1, 2):
                out[f"CD{row}_{axis}"] = -out[f"CD{row}_{axis}"]
    return out


def read(
    electrons: np.ndarray,
    amps: tuple[Amp, ...],
    rng: np.random.Generator,
    *,
    bias: np.ndarray | float = 0.0,
    crosstalk: dict[str, dict[str, float]] | None = None,
    strip: int = 24,
    drift_adu: float = 2.0,
) -> dict[str, np.ndarray]:
    """Read charges through amplifiers: stored images with ``strip`` columns of overscan."""
    signal = {}
    for amp in amps:
        true = electrons[amp.ys, amp.xs] / amp.gain
        c2 = amp.curve
        # true = m (1 + c2 m)
        m = (np.sqrt(1 + 4 * c2 * true) - 1) / (2 * c2) if c2 else true
        pattern = np.broadcast_to(bias, electrons.shape)[amp.ys, amp.xs]
        signal[amp.name] = amp.turned(m + pattern)
    images = {}
    for amp in amps:
        own = signal[amp.name].copy()
        for source, share in (crosstalk or {}).get(amp.name, {}).items():
            own += share * signal[source]
        frame = np.zeros((own.shape[0], own.shape[1] + strip))
        frame[:, : own.shape[1]] = own
        frame += amp.level + drift_adu * rng.standard_normal()
        frame += amp.noise_e / amp.gain * rng.standard_normal(frame.shape)
        images[amp.name] = np.clip(np.rint(frame), 0, 65535).astype(np.uint16)
    return images


def rewrite(
    truth: Truth,
    make: Callable[[dict[str, Any], fits.Header, fits.Header, np.ndarray], fits.HDUList],
    **changes: Any,
) -> None:
    """Replace each raw file by what ``make(entry, cards, wcs, electrons)`` returns."""
    for path, entry, header, electrons in charges(truth):
        common, wcs = split_cards(header)
        for key, value in changes.items():
            common[key] = value
        make(entry, common, wcs, electrons).writeto(path, overwrite=True)


def reduce(
    folder: Path,
    truth: Truth,
    instrument: str,
    settings: str = "",
    *,
    reference: str | Path = "",
    until: tuple[str, ...] = (),
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Ingest and run a project with an instrument of the test, all of it or ``until`` rules."""
    file = folder / "camera.yaml"
    file.write_text(instrument)
    project = folder / "project"
    made = skymill("init", project, "--raw", truth.raw, "--instrument", file, "--reference",
                   reference or truth.folder / "reference.csv")  # fmt: skip
    assert made.returncode == 0, made.stderr
    config = project / "config" / "config.yaml"
    config.write_text(config.read_text() + settings)
    looked = skymill("ingest", "-d", project)
    assert looked.returncode == 0, looked.stdout + looked.stderr
    done = skymill("run", "-d", project, "-c", "2", *(("--until", *until) if until else ()))
    assert done.returncode in (0, 10), done.stdout[-4000:] + done.stderr[-4000:]
    return project, done


def pixel_bits(truth: Truth, name: str) -> np.ndarray:
    """Pixels that no calibration can know: cosmic rays in the light frame."""
    return truth.cosmic_e(name) > 0
