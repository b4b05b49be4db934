"""Real nights, run as a user would: what is known of them against what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.runs import SHARED, Figure, project, skymill
from skymill.io import read_outcomes, read_table
from skymill.measure.flags import PhotFlag

if TYPE_CHECKING:
    from pathlib import Path

#: What a user writes for the SBIG night, whose headers say neither kind nor target.
SBIG_OVERRIDES = """\
- files: "bias*"
  set: {kind: bias}
- files: "[bgr][0-9]*"
  set: {kind: flat}
- files: "alpind_*"
  set: {kind: light, object: alpha Indi}
- files: "std_[bg][123].fit*"
  set: {kind: light, object: standards 1}
- files: "std_[bg]2[0-9]*"
  set: {kind: light, object: standards 2}
- files: "std_[bg]3[0-9]*"
  set: {kind: light, object: standards 3}
- files: "std_[bg]4[0-9]*"
  set: {kind: light, object: standards 4}
- files: "std_[bg]5[0-9]*"
  set: {kind: light, object: standards 5}
"""


def figures(folder: Path) -> list[Figure]:
    """Reduce the real nights that are at hand."""
    if not SHARED.exists():
        print("real nights: not at hand (set SKYMILL_SHARED to their folder)")
        return []
    return [*nickel(folder / "nickel"), *lowell42(folder / "lowell42"), *sbig(folder / "sbig")]


def _master_numbers(place: Path, step: str) -> list[dict[str, Any]]:
    """Return the figures of every master of a kind."""
    tables = sorted((place / "results" / "outcomes" / step).glob("*.csv"))
    return [read_outcomes(table)[-1].numbers for table in tables]


def _detector(place: Path, name: str, expected: tuple[str, str]) -> list[Figure]:
    gains = [n["gain_e_adu"] for n in _master_numbers(place, "master_flat") if n.get("gain_e_adu")]
    noise = [n["read_noise_adu"] for n in _master_numbers(place, "master_bias")]
    gain = float(np.median(gains))
    return [
        Figure(f"{name}_gain", gain, expected[0], "electron/adu", len(gains),
               "median over the flats of each filter, measured from pairs"),
        Figure(f"{name}_read_noise", float(np.median(noise)) * gain, expected[1], "electron",
               len(noise), "measured from bias pairs, with the measured gain"),
    ]  # fmt: skip


def _noise_ratio(place: Path, name: str) -> Figure:
    """Measured over propagated noise of the sky: it says whether the instrument file is true."""
    ratios = [
        float(o.numbers["err_ratio"])
        for table in sorted((place / "results" / "outcomes" / "background").glob("*.csv"))
        for o in read_outcomes(table)
        # not where faint sources are taken for noise
        if o.usable and "BKG_POOR" not in o.code and o.numbers.get("err_ratio") is not None
    ]
    low, high = min(ratios), max(ratios)
    return Figure(f"noise_ratio_{name}", float(np.median(ratios)), "1", "", len(ratios),
                  "measured over propagated noise of the sky, median of the frames; "
                  f"{low:.3f} to {high:.3f}")  # fmt: skip


def nickel(folder: Path) -> list[Figure]:
    """Reduce the Nickel night: zero points from Landolt stars."""
    place = project(
        folder,
        SHARED / "nickel",
        instrument="nickel",
        reference=SHARED / "landolt" / "landolt.csv",
    )
    skymill("run", "-d", place)
    zero, scatter, rejected = [], [], []
    for path in sorted((place / "results" / "photcal").glob("*.parquet")):
        for row in read_table(path):
            if row["solution"] == "absolute":
                zero.append(float(row["zp_adu"]))
                scatter.append(float(row["zp_scatter"]))
    for path in sorted((place / "results" / "outcomes" / "photcal").glob("*.csv")):
        rejected += [str(o.numbers.get("rejected", "")) for o in read_outcomes(path)]
    named = "; ".join(text for text in rejected if text)
    return [
        *_detector(place, "nickel", ("1.8", "10-10.7")),
        _noise_ratio(place, "nickel"),
        Figure("nickel_zp_v", float(np.mean(zero)), "22.81", "mag", len(zero),
               "V zero point of 1 ADU/s, mean of the Landolt fields; per frame "
               + ", ".join(f"{z:.3f}" for z in zero)),
        Figure("nickel_zp_scatter", float(np.mean(scatter)), "0.04", "mag", len(scatter),
               f"scatter between the stars of a frame; rejected: {named or 'none'}"),
    ]  # fmt: skip


def lowell42(folder: Path) -> list[Figure]:
    """Reduce the Lowell night: a stack and light curves."""
    place = project(folder, SHARED / "lowell42", instrument="lowell42")
    skymill("run", "-d", place)
    (path,) = sorted((place / "results" / "lightcurves" / "statistics").glob("*.parquet"))
    stars = read_table(path)
    comparisons = stars[stars["comparison"]]
    bright = comparisons[np.argsort(-comparisons["median_flux"])][:86]
    codes = {o.code for t in sorted((place / "results" / "outcomes").glob("master_*/*.csv"))
             for o in read_outcomes(t)}  # fmt: skip
    warned = {"GAIN_SUSPECT", "READ_NOISE_SUSPECT"} <= set(";".join(codes).split(";"))
    stacks = sorted((place / "results" / "outcomes" / "stack").glob("*.csv"))
    used = sum(o.usable for o in read_outcomes(stacks[0])[:-1])
    return [
        *_detector(place, "lowell42", ("3.65-3.69", "4.3")),
        _noise_ratio(place, "lowell42"),
        Figure("lowell42_gain_warning", float(warned), "1", "", 1,
               "gain and read noise of the header are contradicted loudly"),
        Figure("lowell42_scatter_mmag", float(np.median(bright["rms_mmag"])), "< 7.4", "mmag",
               len(bright), "median scatter of the 86 brightest comparison stars over the night"),
        Figure("lowell42_all_scatter_mmag", float(np.median(comparisons["rms_mmag"])), "", "mmag",
               len(comparisons), "the same for all comparison stars"),
        Figure("lowell42_frames_stacked", float(used), "24", "", 24, "light frames in the stack"),
        _movers(place),
    ]  # fmt: skip


def _movers(place: Path) -> Figure:
    """Count the moving objects that were seen on half of the frames or more."""
    tracks = [row for path in sorted((place / "results" / "movers").glob("*.parquet"))
              for row in read_table(path)]  # fmt: skip
    sure = [row for row in tracks if row["n_detections"] >= 12]
    told = "; ".join(
        f"{row['n_detections']} of {row['n_frames']} frames, {row['rate']:.1f} arcsec/h, "
        f"rms {row['rms_px']:.2f} px"
        for row in sure
    )
    return Figure("lowell42_movers_found", float(len(sure)), ">= 2", "", len(tracks),
                  f"objects with 12 detections or more: {told or 'none'}")  # fmt: skip


def sbig(folder: Path) -> list[Figure]:
    """Reduce the SBIG night, whose headers say almost nothing."""
    place = project(folder, SHARED / "sbig", instrument="sbig_st7")
    (place / "config" / "overrides.yaml").write_text(SBIG_OVERRIDES, encoding="utf-8")
    skymill("run", "-d", place)
    masters = sorted((place / "results" / "masters").glob("flat-*.fits"))
    solved = [o for path in sorted((place / "results" / "outcomes" / "astrometry").glob("*.csv"))
              for o in read_outcomes(path)]  # fmt: skip
    reduced = sorted((place / "results" / "calibrated").glob("*/std_*.fits"))
    return [
        *_detector(place, "sbig", ("2.62-2.69", "20")),
        Figure("sbig_flat_masters", float(len(masters)), "3", "", len(masters),
               "master flats: "
               + ", ".join(m.stem for m in masters)),
        Figure("sbig_standards_reduced", float(len(reduced)), "31", "", 31,
               "standard-star frames calibrated"),
        Figure("sbig_frames_aligned", float(sum(o.usable for o in solved)), "", "", len(solved),
               "frames with relative positions, without a catalogue"),
        *_repeatability(place),
        _noise_ratio(place, "sbig"),
    ]  # fmt: skip


def _repeatability(place: Path) -> list[Figure]:
    """Scatter of the same stars on the frames of one field and filter, as measured.

    There are too few stars for an ensemble: passing haze is part of the scatter.
    """
    scatter, expected, frames = [], [], 0
    for path in sorted((place / "results" / "lightcurves").glob("*.parquet")):
        points = read_table(path)
        # What the measurement says; that there is no ensemble does not matter here.
        measured = (np.asarray(points["flags"]) & int(PhotFlag.bad())) == 0
        good = points[measured & np.isfinite(points["flux"])]
        good = good[good["flux"] > 50 * good["flux_err"]]
        for band in np.unique(np.asarray(good["filter"]).astype(str)):
            mine = good[np.asarray(good["filter"]).astype(str) == band]
            names = np.unique(np.asarray(mine["frame_id"]).astype(str))
            sources = np.unique(mine["source"])
            flux, err = np.full((2, len(sources), len(names)), np.nan)
            i = np.searchsorted(sources, mine["source"])
            j = np.searchsorted(names, np.asarray(mine["frame_id"]).astype(str))
            flux[i, j], err[i, j] = mine["flux"], mine["flux_err"] / mine["flux"]
            whole = np.isfinite(flux).all(axis=1)
            if len(names) < 3 or not whole.any():
                continue
            mag = -2500 * np.log10(flux[whole])
            scatter += list(mag.std(axis=1, ddof=1))
            expected += list(1085.7 * np.sqrt(np.mean(err[whole] ** 2, axis=1)))
            frames += len(names)
    if not scatter:
        return []
    return [
        Figure("sbig_standards_repeatability_mmag", float(np.median(scatter)), "", "mmag",
               len(scatter), f"median scatter of stars with S/N > 50 on {frames} frames of "
               "the same field and filter (3 or more), haze included; by their errors "
               f"{np.median(expected):.1f}")
    ]  # fmt: skip
