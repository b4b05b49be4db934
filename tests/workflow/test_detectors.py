"""Cameras of all kinds through the whole workflow: from raw files to stack and report.

Rows of the reference: A2, A6, A7, A10, A19 (areas, gain per amplifier, overscan methods of
the user, colours), E26 to E29, E31, E47, E48, O1, O2 (masters and calibration by an
instrument file).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skymill.io import read_frame, read_outcomes, read_table
from skymill.sheet import read_sheet

from . import cameras
from .cameras import KINDS, TOP_ADU, Amp

if TYPE_CHECKING:
    from skymill.simulate import Truth

PLACES = (slice(0, 100), slice(100, 200)), (slice(0, 110), slice(110, 220))


def quadrant(name: str, **more) -> Amp:
    up, right = name[0] == "U", name[1] == "R"
    return Amp(name, PLACES[0][up], PLACES[1][right], flip_y=up, flip_x=right, **more)


QUADRANTS = (
    quadrant("LL", gain=1.3, noise_e=5.0, level=700.0, curve=8e-7),
    quadrant("LR", gain=1.7, noise_e=7.0, level=1100.0, curve=-1.1e-6),
    quadrant("UL", gain=2.1, noise_e=9.0, level=1500.0, curve=1.6e-6),
    quadrant("UR", gain=2.6, noise_e=12.0, level=400.0, curve=2.2e-6),
)
CROSSTALK = {"LL": {"UR": 2e-2}, "LR": {"LL": 1.5e-2}, "UL": {"LR": -1e-2}, "UR": {"UL": 3e-2}}


def light_files(project: Path) -> dict[str, Path]:
    """Calibrated frames by the name of the raw file (and what was added to it)."""
    found = sorted((project / "results" / "calibrated").glob("*/*.fits"))
    return {path.stem.rsplit("-", 1)[0]: path for path in found}


def pulls(frame, truth_e: np.ndarray, hits: np.ndarray) -> np.ndarray:
    good = (frame.mask == 0) & ~hits
    assert good.mean() > 0.97
    return np.where(good, (frame.sci - truth_e) / frame.err, np.nan)


def check_pulls(values: np.ndarray, what: str) -> None:
    """Scatter and mean of (measured - true)/error.

    Pixels of one frame: the width is known to 1/sqrt(2 n). Masters are common to the pixels of
    all frames, but not to those of one frame. The flat is known up to a factor only.
    """
    values = values[np.isfinite(values)]
    n = values.size
    inside = values[np.abs(values) < 5]
    assert inside.size > n - 5 - 1e-3 * n, what
    assert np.std(inside) == pytest.approx(1.0, abs=4 / np.sqrt(2 * n) + 0.01), what
    assert np.mean(inside) == pytest.approx(0.0, abs=4 / np.sqrt(n) + 0.03), what


def check_run(project: Path, n_lights: int) -> None:
    """The whole chain has a result for each light frame, and there is a report."""
    results = project / "results"
    assert (results / "report" / "index.html").stat().st_size > 10_000
    for step in ("calibrate", "mask", "sources", "astrometry", "photcal"):
        outcomes = [
            one
            for path in (results / "outcomes" / step).glob("*.csv")
            for one in read_outcomes(path)
        ]
        assert len(outcomes) == n_lights, step
        assert all(one.usable for one in outcomes), [(one.code, one.message) for one in outcomes]
    tables = [read_table(path) for path in (results / "astrometry").glob("*.parquet")]
    assert {str(text) for table in tables for text in table["solution"]} == {"absolute"}
    assert list((results / "stack").glob("*.fits"))


def check_positions(project: Path, truth: Truth, least: int) -> None:
    """Sources of the stacks are where the stars are."""
    stars = truth.catalog()
    for path in (project / "results" / "catalog").glob("*.parquet"):
        found = read_table(path)
        cosine = np.cos(np.radians(np.mean(stars["dec"])))
        dx = (np.asarray(found["ra"])[:, None] - np.asarray(stars["ra"])) * cosine * 3600
        dy = (np.asarray(found["dec"])[:, None] - np.asarray(stars["dec"])) * 3600
        nearest = np.hypot(dx, dy).min(axis=1)
        assert np.sum(nearest < 1.0) >= least, path.name
        assert np.median(nearest) < 0.3, path.name


# ------------------------------------------------------------------ four amplifiers


def four_hdus(entry, cards, wcs, electrons) -> fits.HDUList:
    rng = np.random.default_rng([7, *map(ord, entry["frame"])])
    images = cameras.read(electrons, QUADRANTS, rng, bias=pattern(electrons.shape),
                          crosstalk=CROSSTALK)  # fmt: skip
    hdus = fits.HDUList([fits.PrimaryHDU(header=cards)])
    for number, amp in enumerate(QUADRANTS, 1):
        hdu = fits.ImageHDU(images[amp.name], cameras.shifted_wcs(wcs, amp), name=f"IM{number}")
        ny, nx = images[amp.name].shape
        hdu.header["DATASEC"] = f"[1:{nx - 24},1:{ny}]"
        hdu.header["BIASSEC"] = f"[{nx - 21}:{nx},1:{ny}]"
        hdu.header["DETSEC"] = amp.detsec
        hdu.header["GAIN"], hdu.header["RDNOISE"] = amp.gain, amp.noise_e
        hdu.header["SATURATE"] = TOP_ADU
        hdus.append(hdu)
    return hdus


def pattern(shape: tuple[int, int]) -> np.ndarray:
    """Fixed pattern of the bias (ADU)."""
    return 5.0 + 3.0 * np.random.default_rng(3).standard_normal(shape)


def four_amplifiers() -> str:
    lines = ["name: quad", "match: [{INSTRUME: Quad}]", "hdu: amplifiers", "amplifiers:"]
    for number, amp in enumerate(QUADRANTS, 1):
        lines += [
            f"  - name: {amp.name}",
            f"    hdu: IM{number}",
            "    data: {keywords: [DATASEC]}",
            "    bias: {keywords: [BIASSEC]}",
            "    place: {keywords: [DETSEC]}",
            f"    linearity: {{polynomial: [{amp.curve}]}}",
        ]
    lines += [
        "gain: {keywords: [GAIN]}",
        "read_noise: {keywords: [RDNOISE]}",
        "saturation: {keywords: [SATURATE]}",
        f"crosstalk: {json.dumps(CROSSTALK)}",
    ]
    return "\n".join(lines) + KINDS


@pytest.fixture(scope="module")
def quad(tmp_path_factory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("quad")
    truth = cameras.base_night(folder)
    cameras.rewrite(truth, four_hdus, INSTRUME="Quad")
    project, _ = cameras.reduce(folder, truth, four_amplifiers())
    return project, truth


def test_four_amplifiers_with_all_flips_are_calibrated_to_the_electrons_of_the_truth(quad):
    """A2, A6, E24, E47: gain, level, linearity, crosstalk and corner of each amplifier."""
    project, truth = quad
    files = light_files(project)
    assert sorted(files) == sorted(entry["frame"] for entry in truth.lights)
    for name, path in files.items():
        frame = read_frame(path)
        assert frame.sci.shape == truth.config.shape
        values = pulls(frame, truth.image(name), cameras.pixel_bits(truth, name))
        for amp in QUADRANTS:
            check_pulls(values[amp.ys, amp.xs], f"{name} {amp.name}")


def test_crosstalk_of_bright_stars_is_taken_away(quad):
    """O7, A13: where it would be 3 sigma and more, pulls are those of everywhere else."""
    project, truth = quad
    amps, found = {amp.name: amp for amp in QUADRANTS}, []
    for name, path in light_files(project).items():
        frame, light = read_frame(path), truth.image(name)
        values = pulls(frame, light, cameras.pixel_bits(truth, name))
        for victim, sources in CROSSTALK.items():
            one = amps[victim]
            here = one.turned(values[one.ys, one.xs])
            err = one.turned(frame.err[one.ys, one.xs])
            for source, share in sources.items():
                other = amps[source]
                star = other.turned(light[other.ys, other.xs]) / other.gain
                ghost = abs(share) * (star - np.median(star)) * one.gain
                found.append(here[np.isfinite(here) & (ghost > 3 * err)])
    values = np.concatenate(found)
    assert values.size > 30
    assert np.mean(values) == pytest.approx(0.0, abs=4.5 / np.sqrt(values.size))
    assert np.std(values) == pytest.approx(1.0, abs=4.5 / np.sqrt(2 * values.size))


def test_masters_measure_gain_and_read_noise_of_each_amplifier(quad):
    """E27, E29, E57, A23, O3, O5."""
    project, _ = quad
    masters = project / "results" / "masters"
    (bias,) = masters.glob("bias-*.fits")
    (flat,) = masters.glob("flat-*.fits")
    bias_header, flat_header = read_frame(bias).header, read_frame(flat).header
    assert (bias_header["NCOMBINE"], flat_header["NCOMBINE"]) == (6, 6)
    assert (flat_header["FILTER"], flat_header["EXPTIME"]) == ("V", 4.0)
    for n, amp in enumerate(QUADRANTS, 1):
        assert bias_header[f"AMP{n}"] == amp.name
        # 6 frames of 11 000 px: 1/sqrt(2 * 5 * 11 000) = 0.3 %
        assert bias_header[f"RNADU{n}"] == pytest.approx(amp.noise_adu, rel=0.02)
        assert flat_header[f"GAIN{n}"] == amp.gain
        error = flat_header[f"GAINE{n}"]
        assert 0 < error < 0.05 * amp.gain
        assert flat_header[f"GAINM{n}"] == pytest.approx(amp.gain, abs=4 * error)


def test_four_amplifiers_end_in_a_stack_with_positions_and_a_report(quad):
    project, truth = quad
    check_run(project, len(truth.lights))
    check_positions(project, truth, 20)


# ------------------------------------------------------------------ two detectors in one file


HALVES = (
    Amp("N1A", slice(0, 160), slice(0, 90), 1.2, 4.0, 600.0),
    Amp("N1B", slice(0, 160), slice(90, 180), 1.5, 6.0, 900.0, flip_x=True),
    Amp("N2A", slice(160, 320), slice(0, 90), 1.9, 5.0, 1200.0),
    Amp("N2B", slice(160, 320), slice(90, 180), 2.2, 8.0, 500.0, flip_x=True),
)


def two_detectors(entry, cards, wcs, electrons) -> fits.HDUList:
    """DETSEC counts the pixels of each detector."""
    rng = np.random.default_rng([8, *map(ord, entry["frame"])])
    images = cameras.read(electrons, HALVES, rng, bias=pattern(electrons.shape))
    hdus = fits.HDUList([fits.PrimaryHDU(header=cards)])
    for amp in HALVES:
        hdu = fits.ImageHDU(images[amp.name], cameras.shifted_wcs(wcs, amp), name=amp.name)
        ny, nx = images[amp.name].shape
        hdu.header["DATASEC"] = f"[1:{nx - 24},1:{ny}]"
        hdu.header["BIASSEC"] = f"[{nx - 21}:{nx},1:{ny}]"
        hdu.header["CCDSEC"] = re.sub(r",\d+:\d+", ",1:160", amp.detsec)
        hdu.header["GAIN"], hdu.header["RDNOISE"] = amp.gain, amp.noise_e
        hdus.append(hdu)
    return hdus


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("mosaic")
    truth = cameras.base_night(folder, shape=(320, 180), n_stars=100, n_light=2)
    cameras.rewrite(truth, two_detectors, INSTRUME="Pair")
    lines = ["name: pair", "match: [{INSTRUME: Pair}]", "hdu: amplifiers", "amplifiers:"]
    for amp in HALVES:
        lines.append(
            f"  - {{name: {amp.name}, hdu: {amp.name}, data: {{keywords: [DATASEC]}}, "
            "bias: {keywords: [BIASSEC]}, place: {keywords: [CCDSEC]}}"
        )
    lines += ["detectors: [{name: N1, amplifiers: [N1A, N1B]}, {name: N2, amplifiers: [N2A, N2B]}]",
              "gain: {keywords: [GAIN]}", "read_noise: {keywords: [RDNOISE]}",
              f"saturation: {{constant: {TOP_ADU}}}"]  # fmt: skip
    project, _ = cameras.reduce(folder, truth, "\n".join(lines) + KINDS)
    return project, truth


def test_two_detectors_of_one_file_are_frames_with_masters_of_their_own(mosaic):
    """O2, E26, E48: frames of different detectors never calibrate each other."""
    project, truth = mosaic
    rows = read_sheet(project / "config" / "frames.csv")
    assert len(rows) == 2 * len(truth.frames)
    assert {row["detector"] for row in rows} == {"N1", "N2"}
    ids = {str(row["frame_id"]): row for row in rows}
    assert len(ids) == len(rows)
    assert len(list((project / "results" / "masters").glob("bias-*.fits"))) == 2
    frames = list((project / "results" / "calibrated").glob("*/*.fits"))
    assert len(frames) == 2 * len(truth.lights)
    for path in frames:
        row = ids[path.stem]
        name = Path(row["path"]).stem
        part = slice(0, 160) if row["detector"] == "N1" else slice(160, 320)
        frame = read_frame(path)
        # the flat of a detector has a median of 1 over this detector
        light = truth.image(name)[part] * np.median(truth.flat("V")[part])
        values = pulls(frame, light, cameras.pixel_bits(truth, name)[part])
        check_pulls(values[:, :90], f"{path.stem} A")
        check_pulls(values[:, 90:], f"{path.stem} B")


def test_two_detectors_are_placed_on_the_sky(mosaic):
    project, truth = mosaic
    check_run(project, 2 * len(truth.lights))
    check_positions(project, truth, 15)


# ------------------------------------------------------------------ colours


BAYER = {"R": (0, 0), "G1": (0, 1), "G2": (1, 0), "B": (1, 1)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> tuple[Path, Truth]:
    """The frames of four filters, exposed behind the four colours of one sensor."""
    folder = tmp_path_factory.mktemp("colours")
    truth = cameras.base_night(
        folder, shape=(150, 160), filters=tuple(BAYER), n_light=2, dither_px=0.0, n_stars=60,
        n_dark=0, pixel_scale_arcsec=2.0, dark_e_s=0.0, hot_fraction=0.0,
        sky_e_s={"R": 3.0, "G1": 4.0, "G2": 4.0, "B": 2.0},
    )  # fmt: skip
    amp = Amp("", slice(0, 300), slice(0, 320), 1.4, 4.5, 300.0)
    found = {e["frame"]: (path, header, data) for path, e, header, data in cameras.charges(truth)}
    for name, (path, header, data) in found.items():
        if any(f"_{band}_" in name for band in ("G1", "G2", "B")):
            path.unlink()
            continue
        whole = np.empty((300, 320))
        for band, (y, x) in BAYER.items():
            whole[y::2, x::2] = found[name.replace("_R_", f"_{band}_")][2]
        cards, wcs = cameras.split_cards(header)
        for axis in (1, 2) if wcs else ():
            wcs[f"CRPIX{axis}"] = 2 * (wcs[f"CRPIX{axis}"] - 1) + 1
            for row in (1, 2):
                wcs[f"CD{row}_{axis}"] /= 2
        cards.extend(wcs)
        cards.remove("FILTER", ignore_missing=True)
        cards.update({"INSTRUME": "Colour", "BAYERPAT": "RGGB", "GAIN": amp.gain})
        rng = np.random.default_rng([9, *map(ord, name)])
        image = cameras.read(whole, (amp,), rng, bias=pattern(whole.shape), strip=0,
                             drift_adu=0.0)[""]  # fmt: skip
        fits.PrimaryHDU(image, cards).writeto(path, overwrite=True)
    stars = Table.read(truth.folder / "reference.csv", format="ascii.csv")
    stars.rename_columns(["G1", "G1_err"], ["G", "G_err"])
    stars.remove_columns(["G2", "G2_err"])
    stars.write(folder / "reference.csv", format="ascii.csv")
    text = (
        "name: colour\nmatch: [{INSTRUME: Colour}]\nbayer: {keywords: [BAYERPAT]}\n"
        "gain: {keywords: [GAIN]}\nread_noise: {constant: 4.5}\n"
        f"saturation: {{constant: {TOP_ADU}}}\n"
    )
    text += KINDS.replace("dark: needed", "dark: not_needed")
    project, _ = cameras.reduce(folder, truth, text, reference=folder / "reference.csv")
    return project, truth


def test_the_colours_of_a_mosaic_sensor_are_frames_with_masters_of_their_own(colours):
    """A19: split by default; G1 and G2 have one filter but never calibrate each other."""
    project, truth = colours
    rows = read_sheet(project / "config" / "frames.csv")
    lights = {str(row["frame_id"]): row for row in rows if row["kind"] == "light"}
    assert len(lights) == 4 * 2
    assert {row["filter"] for row in lights.values()} == {"R", "G", "B"}
    frames = list((project / "results" / "calibrated").glob("*/*.fits"))
    assert len(frames) == len(lights)
    used = {}
    for path in frames:
        row = lights[path.stem]
        channel = row["channel"].partition("[")[0]
        name = Path(row["path"]).stem.replace("_R_", f"_{channel}_")
        frame = read_frame(path)
        assert frame.sci.shape == (150, 160)
        used.setdefault(channel, set()).add((frame.header["BIASID"], frame.header["FLATID"]))
        values = pulls(frame, truth.image(name), cameras.pixel_bits(truth, name))
        check_pulls(values, f"{path.stem} {channel}")
    assert all(len(ids) == 1 for ids in used.values())
    assert len(set.union(*used.values())) == 4


def test_colour_frames_end_in_stacks_per_filter(colours):
    project, truth = colours
    check_run(project, 8)
    check_positions(project, truth, 15)
    filters = {
        read_frame(path).header["FILTER"] for path in (project / "results/stack").glob("*.fits")
    }
    assert filters == {"R", "G", "B"}


# ------------------------------------------------------------------ windows


WINDOW = (slice(30, 180), slice(20, 190))


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> tuple[Path, Truth]:
    """Light frames of a part of the detector; calibration frames of all of it."""
    folder = tmp_path_factory.mktemp("window")
    truth = cameras.base_night(folder)
    amp = Amp("", slice(0, 200), slice(0, 220), 1.6, 6.0, 1000.0, curve=1.5e-6)

    def make(entry, cards, wcs, electrons):
        rng = np.random.default_rng([10, *map(ord, entry["frame"])])
        image = cameras.read(electrons, (amp,), rng, bias=pattern(electrons.shape))[""]
        part = Amp("", *WINDOW, 1.6, 6.0, 1000.0) if entry["kind"] == "light" else amp
        overscan = image[part.ys, -24:]
        image = np.hstack([image[part.ys, part.xs], overscan])
        cards.extend(cameras.shifted_wcs(wcs, part))
        ny, nx = image.shape
        cards["DATASEC"] = f"[1:{nx - 24},1:{ny}]"
        cards["BIASSEC"] = f"[{nx - 23}:{nx},1:{ny}]"
        cards["CCDSEC"] = cameras.section(part.ys, part.xs)
        return fits.HDUList([fits.PrimaryHDU(image, cards)])

    cameras.rewrite(truth, make, INSTRUME="Window")
    text = (
        "name: window\nmatch: [{INSTRUME: Window}]\ndatasec: {keywords: [DATASEC]}\n"
        "biassec: {keywords: [BIASSEC]}\narea: {keywords: [CCDSEC]}\ngain: {constant: 1.6}\n"
        f"read_noise: {{constant: 6}}\nsaturation: {{constant: {TOP_ADU}}}\n"
        "linearity: {polynomial: [1.5e-6]}\n"
    )
    project, _ = cameras.reduce(folder, truth, text + KINDS)
    return project, truth


def test_windowed_frames_use_the_masters_of_the_full_frame(window):
    """A7, E26, E31: masters are cut by the part of the detector that the frame covers."""
    project, truth = window
    assert len(list((project / "results" / "masters").glob("bias-*.fits"))) == 1
    files = light_files(project)
    assert len(files) == len(truth.lights)
    for name, path in files.items():
        frame = read_frame(path)
        assert frame.sci.shape == (150, 170)
        values = pulls(frame, truth.image(name)[WINDOW], cameras.pixel_bits(truth, name)[WINDOW])
        check_pulls(values, name)


def test_windowed_frames_end_in_a_stack(window):
    project, truth = window
    check_run(project, len(truth.lights))
    check_positions(project, truth, 15)


# ------------------------------------------------------------------ overscan


#: Rows of overscan above the data.
ROWS = 20
MINE = '''
import numpy as np


class Columns:
    """Level of each column: the mean of its overscan."""

    def __call__(self, *, raw_image, overscans, image_area, gain):
        (area,) = overscans
        strip = raw_image[area["ymin"] : area["ymax"], image_area["xmin"] : image_area["xmax"]]
        return {"correction": strip.mean(axis=0)[None, :],
                "variance": strip.var(axis=0, ddof=1).mean() / len(strip)}

    def document_in_fits_header(self, header):
        header["OVMINE"] = (True, "one level per column")
'''


@pytest.mark.parametrize(
    ("overscan", "card"),
    [
        ("{method: mean, fit: column}", "mean column"),
        ('{method: "my_overscan:Columns"}', "my_overscan:Columns"),
    ],
    ids=["column", "user"],
)
def test_levels_that_change_from_column_to_column_are_measured_above_the_image(
    tmp_path, overscan, card
):
    """A3, A10, O7, S6: a level per column, built in and by a method of the user's own."""
    truth = cameras.base_night(tmp_path, n_light=2)
    amp = Amp("", slice(0, 200), slice(0, 220), 1.6, 6.0, 1000.0)

    def make(entry, cards, wcs, electrons):
        rng = np.random.default_rng([11, *map(ord, entry["frame"])])
        whole = np.zeros((200 + ROWS, 220))
        whole[:200] = electrons
        bias = np.zeros(whole.shape)
        bias[:200] = pattern((200, 220))
        # the columns of each frame lie at levels of their own
        bias += 15 * rng.standard_normal(220)
        tall = Amp("", slice(0, 200 + ROWS), slice(0, 220), amp.gain, amp.noise_e, amp.level)
        image = cameras.read(whole, (tall,), rng, bias=bias, strip=0)[""]
        cards.extend(wcs)
        return fits.HDUList([fits.PrimaryHDU(image, cards)])

    cameras.rewrite(truth, make, INSTRUME="Column")
    text = (
        'name: column\nmatch: [{INSTRUME: Column}]\ndatasec: {constant: "[1:220,1:200]"}\n'
        f'biassec: {{constant: "[1:220,201:{200 + ROWS}]"}}\ngain: {{constant: 1.6}}\n'
        f"read_noise: {{constant: 6}}\nsaturation: {{constant: {TOP_ADU}}}\n"
    )
    steps = ("calibrate", "master_bias", "master_dark", "master_flat")
    settings = "".join(f"{step}:\n  overscan: {overscan}\n" for step in steps)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "my_overscan.py").write_text(MINE)
    project, _ = cameras.reduce(tmp_path, truth, text + KINDS, settings, until=("calibrate",))
    for name, path in light_files(project).items():
        frame = read_frame(path)
        values = pulls(frame, truth.image(name), cameras.pixel_bits(truth, name))
        # the error of a column's level is common to its pixels: few independent values
        inside = values[np.abs(values) < 5]
        assert np.std(inside) == pytest.approx(1.0, abs=0.04)
        assert np.mean(inside) == pytest.approx(0.0, abs=0.08)
        assert str(frame.header["OVSCAN"]).startswith(card)
        assert ("OVMINE" in frame.header) == (card == "my_overscan:Columns")
