"""Masters and calibrated frames of a four-amplifier detector against what was put in.

The detector is simulated here from electrons: charge is Poisson, each amplifier has its
own gain, read noise, corner and slight non-linearity, and the numbers are rounded to
16-bit integers. Nothing of the noise model of the package is used; theory is written out
from the simulation's own constants.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from bench.runs import Figure
from skymill.frame import MaskBit, has_bits
from skymill.steps.calibrate import Masters, calibrate
from skymill.steps.master_bias import master_bias
from skymill.steps.master_dark import master_dark
from skymill.steps.master_flat import master_flat
from skymill.steps.masters_common import RawInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from skymill.frame import Frame, Master

    Plane = NDArray[np.float64]

#: Rows and columns of an amplifier, and columns of its overscan.
SIDE, STRIP = 256, 32
DARK_S, LIGHT_S = 300.0, 120.0
DARK_E = 150.0
N_BIAS, N_DARK = 20, 9
FLAT_E = (32_000, 29_000, 26_000, 23_000, 20_000, 17_000, 14_000, 11_000)
#: Charge of the light frames in electron: sky, well above it, near saturation.
LEVELS_E = {"sky": 300.0, "mid": 6_000.0, "high": 70_000.0}
N_LIGHT = 6


@dataclass(frozen=True)
class Amp:
    """Truth of one amplifier; ``c2`` bends the signal (per ADU)."""

    name: str
    gain: float
    noise_e: float
    c2: float
    x0: int
    y0: int
    flip_x: bool
    flip_y: bool

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns of the assembled frame."""
        return slice(self.y0, self.y0 + SIDE), slice(self.x0, self.x0 + SIDE)


AMPS = (
    Amp("A", 1.4, 4.0, 4e-7, 0, 0, flip_x=False, flip_y=False),
    Amp("B", 1.6, 6.0, 6e-7, SIDE, 0, flip_x=True, flip_y=False),
    Amp("C", 1.5, 5.0, 0.0, 0, SIDE, flip_x=False, flip_y=True),
    Amp("D", 1.7, 7.0, 2e-7, SIDE, SIDE, flip_x=True, flip_y=True),
)
SHAPE = (2 * SIDE, 2 * SIDE)


def _place(amp: Amp) -> str:
    x, y = (amp.x0 + 1, amp.x0 + SIDE), (amp.y0 + 1, amp.y0 + SIDE)
    x1, x2 = reversed(x) if amp.flip_x else x
    y1, y2 = reversed(y) if amp.flip_y else y
    return f"[{x1}:{x2},{y1}:{y2}]"


ROW: dict[str, Any] = {
    "instrument": "sim", "night": "2024-01-01", "filter": "r", "kind": "light", "hdu": 1,
    "nx": SHAPE[1], "ny": SHAPE[0], "datasec": f"[1:{SHAPE[1]},1:{SHAPE[0]}]", "biassec": "",
    "gain_e_adu": 1.55, "read_noise_e": 5.6, "saturation_adu": 65000.0,
    "amplifiers": json.dumps([
        {
            "name": amp.name, "hdu": number, "data": f"[1:{SIDE},1:{SIDE}]",
            "bias": [f"[{SIDE + 1}:{SIDE + STRIP},1:{SIDE}]"], "place": _place(amp),
            "gain": amp.gain, "noise": amp.noise_e, "saturation": 65000.0,
        }
        for number, amp in enumerate(AMPS, 1)
    ]),
}  # fmt: skip
ELECTRONICS = {"linearity": {amp.name: {"polynomial": [amp.c2]} for amp in AMPS if amp.c2}}


@dataclass
class Detector:
    """Planes of the truth, and frames made from them."""

    seed: int
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        self.bias: Plane = 12 + 3 * self.rng.standard_normal(SHAPE) + 2 * np.sin(x / 9.0)
        self.dark: Plane = DARK_E * self.rng.gamma(20, 1 / 20, SHAPE)
        flat = (0.55 + 0.6 * x / SHAPE[1]) * self.rng.normal(1, 0.01, SHAPE) + 0.02 * np.cos(y / 40)
        self.flat: Plane = flat / np.median(flat)
        self.level = {amp.name: 900.0 + 60 * i for i, amp in enumerate(AMPS)}

    def images(self, electrons: Plane | float) -> dict[int, NDArray[np.uint16]]:
        """Raw images by HDU of a frame with the mean charge given (electron)."""
        mean = np.broadcast_to(np.asarray(electrons, np.float64), SHAPE)
        charge = self.rng.poisson(mean).astype(np.float64)
        out = {}
        for number, amp in enumerate(AMPS, 1):
            self.level[amp.name] += self.rng.normal(0, 2)
            linear = charge[amp.part] / amp.gain
            # solves m (1 + c2 m) = linear
            signal = linear
            if amp.c2:
                signal = (np.sqrt(1 + 4 * amp.c2 * linear) - 1) / (2 * amp.c2)
            signal = signal + self.bias[amp.part]
            signal = signal[:: -1 if amp.flip_y else 1, :: -1 if amp.flip_x else 1]
            raw = self.rng.normal(0, amp.noise_e / amp.gain, (SIDE, SIDE + STRIP))
            raw[:, :SIDE] += signal
            out[number] = np.rint(raw + self.level[amp.name]).clip(0, 65535).astype(np.uint16)
        return out

    def inputs(
        self, n: int, electrons: Callable[[int], Plane | float], exposure: float
    ) -> list[RawInput]:
        """Frames for a master."""
        made = [self.images(electrons(i)) for i in range(n)]
        row = ROW | {"exptime_s": exposure}
        return [
            RawInput(f"f{i}", row, lambda raw=raw: (raw, fits.Header()))
            for i, raw in enumerate(made)
        ]

    def per_amp(self, values: Callable[[Amp], float]) -> Plane:
        """A plane with one value for each amplifier."""
        out = np.empty(SHAPE)
        for amp in AMPS:
            out[amp.part] = values(amp)
        return out


def _overscan_adu2(amp: Amp) -> float:
    """Variance of one level from all overscan pixels, and of rounding."""
    return (amp.noise_e / amp.gain) ** 2 / (SIDE * STRIP)


def _quiet(detector: Detector) -> Plane:
    """Variance of a pixel without charge (ADU^2), rounding included."""
    return detector.per_amp(lambda a: (a.noise_e / a.gain) ** 2 + 1 / 12 + _overscan_adu2(a))


def _ratios(name: str, master: Master, truth: Plane, theory: Plane) -> list[Figure]:
    """Scatter against theory, bias in units of it, and pulls of the master's error map."""
    good = ~has_bits(master.mask, MaskBit.bad()) & np.isfinite(master.sci)
    offset = (master.sci.astype(np.float64) - truth)[good]
    ratio = offset / theory[good]
    # clipped at 6: a planted outlier would show in the mean, not hide in the width
    core = ratio[np.abs(ratio) < 6]
    pull = offset / master.err[good]
    return [
        Figure(f"{name}_scatter_over_theory", float(core.std()), "1.00 +- 0.02", "", core.size,
               "master minus truth over the closed-form standard error, all four amplifiers"),
        Figure(f"{name}_bias_over_scatter", float(core.mean()), "< 0.02", "", core.size, "mean"),
        Figure(f"{name}_pull_width", float(pull[np.abs(pull) < 6].std()), "1.00 +- 0.02", "",
               core.size, "master minus truth over the master's own error"),
    ]  # fmt: skip


def build(detector: Detector) -> tuple[Masters, list[Figure], dict[str, Any]]:
    """Masters of the detector, their figures, and the numbers of the flat."""
    made = master_bias(detector.inputs(N_BIAS, lambda _: 0.0, 0.0), electronics=ELECTRONICS)
    bias = made.value.master
    quiet = _quiet(detector)
    figures = _ratios("master_bias", bias, detector.bias, np.sqrt(quiet / N_BIAS))
    made_dark = master_dark(
        detector.inputs(N_DARK, lambda _: detector.dark, DARK_S), bias=bias, electronics=ELECTRONICS
    )
    dark = made_dark.value.master
    gain = detector.per_amp(lambda a: a.gain)
    bend = detector.per_amp(lambda a: a.c2)
    signal = detector.dark / gain
    signal = np.where(bend > 0, signal - bend * signal**2, signal)
    theory = np.sqrt((detector.dark / gain**2 + quiet) / N_DARK)
    figures += _ratios("master_dark", dark, detector.bias + signal, theory)
    seconds = 5.0
    made_flat = master_flat(
        detector.inputs(
            len(FLAT_E),
            lambda i: FLAT_E[i] * detector.flat + detector.dark * seconds / DARK_S,
            seconds,
        ),
        bias=bias, dark=dark, electronics=ELECTRONICS,
    )  # fmt: skip
    flat = made_flat.value.master
    levels = np.array(FLAT_E, np.float64)
    # relative error of sum(counts) / sum(levels): photons, read noise, and the bias's own error
    counts = detector.flat * levels.sum() + len(levels) * detector.dark * seconds / DARK_S
    noise = counts + len(levels) * quiet * gain**2
    noise += (len(levels) * gain) ** 2 * quiet / N_BIAS
    figures += _ratios("master_flat", flat, detector.flat, np.sqrt(noise) / levels.sum())
    numbers = {"bias": made.numbers, "flat": made_flat.numbers}
    return Masters(bias, dark, flat), figures, numbers


def _noise_figures(masters: Masters) -> list[Figure]:
    """Gain and read noise that the masters found, against the truth, worst amplifier."""
    gain, noise = [], []
    for number, amp in enumerate(AMPS, 1):
        found = masters.flat.header.get(f"GAINM{number}") if masters.flat else None
        gain.append(np.nan if found is None else 100 * abs(float(found) / amp.gain - 1))
        found = masters.bias.header.get(f"RNADU{number}") if masters.bias else None
        truth = np.hypot(amp.noise_e / amp.gain, np.sqrt(1 / 12))
        noise.append(np.nan if found is None else 100 * abs(float(found) / truth - 1))
    return [
        Figure("gain_error_percent", float(max(gain)), "< 1", "%", len(AMPS),
               "measured between flats, worst of four amplifiers"),
        Figure("readnoise_error_percent", float(max(noise)), "< 1", "%", len(AMPS),
               "measured between bias frames, worst of four amplifiers"),
    ]  # fmt: skip


def _pulls(detector: Detector, masters: Masters, light_e: float) -> tuple[Plane, dict[str, float]]:
    """Pulls of single frames over all pixels, and their width for each amplifier."""
    every, by_amp = [], {amp.name: [] for amp in AMPS}
    row = ROW | {"exptime_s": LIGHT_S}
    for _ in range(N_LIGHT):
        truth = np.full(SHAPE, light_e)
        charge = detector.flat * truth + detector.dark * LIGHT_S / DARK_S
        frame: Frame = calibrate(
            detector.images(charge), row, masters, electronics=ELECTRONICS
        ).value
        pull = (frame.sci - truth) / frame.err
        pull[~frame.good] = np.nan
        every.append(pull[np.isfinite(pull)])
        for amp in AMPS:
            part = pull[amp.part]
            by_amp[amp.name].append(part[np.isfinite(part)])
    widths = {name: float(np.concatenate(parts).std()) for name, parts in by_amp.items()}
    return np.concatenate(every), widths


def figures() -> list[Figure]:
    """Return the rows of the accuracy table."""
    detector = Detector(303)
    masters, rows, _ = build(detector)
    rows += _noise_figures(masters)
    for name, light_e in LEVELS_E.items():
        pull, widths = _pulls(detector, masters, light_e)
        worst = max(widths.values(), key=lambda w: abs(w - 1))
        rows += [
            Figure(f"frame_pull_width_{name}", float(pull.std()), "1.00 +- 0.02", "", pull.size,
                   f"{light_e:g} electron, dark scaled by {LIGHT_S / DARK_S:g}, four amplifiers; "
                   f"mean {pull.mean():+.3f}"),
            Figure(f"frame_pull_width_{name}_worst_amp", worst, "1.00 +- 0.02", "",
                   pull.size // 4, "the amplifier furthest from 1"),
        ]  # fmt: skip
    return rows
