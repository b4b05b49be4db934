"""The page of a synthetic night: complete, safe, self-contained and reproducible."""

from __future__ import annotations

import html.parser
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skymill.errors import CODES, Outcome
from skymill.frame import Frame, MaskBit, Master
from skymill.io import write_master, write_outcomes, write_planes, write_table
from skymill.report import build_page, load_report_data
from skymill.report.advice import ADVICE, SERIOUS
from skymill.report.warned import collect_warnings

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "<script>alert('x')</script>\"&"
STEPS = ("calibrate", "mask", "background", "sources", "astrometry", "photcal", "stack")


def row(frame_id: str, kind: str, mjd: float, **more: Any) -> dict[str, Any]:
    base = {
        "frame_id": frame_id,
        "path": f"night1/{frame_id}.fits",
        "hdu": 0,
        "verdict": "ok",
        "code": "",
        "message": "",
        "fixes": "",
        "kind": kind,
        "instrument": "cam1",
        "object": "",
        "target": "",
        "filter": "",
        "exptime_s": 0.0,
        "date_start": "2025-03-04T20:00:00.000",
        "mjd_start": mjd,
        "mjd_mid": mjd,
        "night": "2025-03-04",
    }
    return base | more


def make_sheet(n_lights: int, nights: int) -> list[dict[str, Any]]:
    rows = []
    for night in range(nights):
        start, name = 60738.75 + night, f"2025-03-{4 + night:02d}"
        for kind, count, first, exptime in (("bias", 9, -0.12, 0.0), ("flat", 5, -0.09, 4.0)):
            for n in range(count):
                mjd = start + first + n * 0.001
                extra = {
                    "night": name,
                    "exptime_s": exptime,
                    "filter": "V" if kind == "flat" else "",
                }
                rows.append(row(f"{kind}-{night}-{n:02d}-0a1b2c3d", kind, mjd, **extra))
        per_night = n_lights // nights
        for n in range(per_night):
            mjd = start + n * 0.3 / per_night
            band = ("V", "R", "B")[n * 3 // per_night] if night % 2 == 0 else ("g", "clear")[n % 2]
            rows.append(
                row(
                    f"obj-{night}-{n:04d}-4e5f6a7b",
                    "light",
                    mjd,
                    night=name,
                    exptime_s=240.0,
                    filter=band,
                    target=("m67", "sa98")[n * 2 // per_night],
                    object=EVIL,
                )
            )
    rows.append(
        row(
            "notes-11112222",
            "",
            None,
            verdict="rejected",
            code="NOT_FITS",
            message="begins with text, expected SIMPLE  =",
            date_start="",
            night="",
        )
    )
    rows.append(
        row(
            "cut-33334444",
            "light",
            60738.8,
            verdict="rejected",
            code="TRUNCATED",
            message="holds 120 of 2048 rows",
            target="m67",
            filter="V",
        )
    )
    return rows


def light_outcomes(n: int, name: str, figures: dict[str, Any]) -> list[Outcome]:
    """Outcomes of one light frame; some are stopped, some degraded."""
    stop = {
        7: ("calibrate", "rejected", "BIAS_JUMP", "overscan at 1310 ADU, expected 1012 +- 8"),
        15: ("sources", "failed", "NO_STARS", "no star above 4 sigma"),
        16: ("sources", "failed", "NO_STARS", "no star above 4 sigma"),
        23: ("photcal", "rejected", "CLOUDY", "throughput 0.21, limit 0.7"),
        31: ("stack", "rejected", "POOR_SEEING", f"{EVIL} FWHM 6.2 px, limit 4.5 px"),
    }.get(n)
    out, blocked = [], False
    for step in STEPS:
        if blocked:
            out.append(Outcome(name, step, "blocked", "UPSTREAM_BLOCKED", f"stopped at {stop[0]}"))
        elif stop and stop[0] == step:
            out.append(Outcome(name, step, *stop[1:], dict(figures) if step == "stack" else {}))
            blocked = True
        elif step == "astrometry" and n % 9 == 0:
            out.append(Outcome(name, step, "degraded", "WCS_RELATIVE", "no catalogue matches", {}))
        else:
            out.append(Outcome(name, step, "ok", "", "", figures if step == "sources" else {}))
    return out


def make_results(
    folder: Path, n_lights: int = 42, nights: int = 1, size: int = 96
) -> list[dict[str, Any]]:
    """Write a results folder of a simulated reduction and return its sheet."""
    rng = np.random.default_rng(20250304)
    sheet = make_sheet(n_lights, nights)
    lights = [r for r in sheet if r["kind"] == "light" and r["verdict"] == "ok"]
    write_masters(folder, sheet, rng, size)
    tables: dict[str, list[Any]] = {"photcal": [], "astrometry": []}
    outcomes: dict[str, list[Outcome]] = {step: [] for step in STEPS}
    for n, frame in enumerate(lights):
        phase = n / len(lights)
        cloud = 0.25 if n == 23 else 1 - 0.05 * rng.random()
        fwhm = 2.1 + 0.7 * np.sin(4 * phase) ** 2 + 0.1 * rng.normal() + (2.6 if n == 31 else 0)
        sky = 380 + 500 * (phase - 0.4) ** 2 + 8 * rng.normal()
        numbers = {
            "n_sources": int(900 * cloud / fwhm),
            "fwhm_px": fwhm,
            "sky_e": sky,
            "ellipticity": 0.06 + 0.02 * rng.random(),
            "err_ratio": 1 + 0.01 * rng.normal(),
        }
        way = light_outcomes(n, frame["frame_id"], numbers)
        for o in way:
            outcomes[o.step].append(o)
        done = {o.step for o in way if o.usable}
        if "photcal" in done:
            airmass = 1.05 + 0.9 * phase**2
            base = {"V": 24.9, "R": 25.1, "B": 24.3, "g": 25.3, "clear": 26.0}[frame["filter"]]
            zp = base - 0.15 * airmass + 0.01 * rng.normal()
            tables["photcal"].append(
                (
                    frame["frame_id"],
                    "absolute",
                    zp,
                    0.004,
                    0.03,
                    0.011,
                    48,
                    3,
                    cloud,
                    fwhm * 0.74,
                    numbers["ellipticity"],
                    sky,
                    zp - 4.4,
                    airmass,
                )
            )
        if "astrometry" in done:
            tables["astrometry"].append(
                (frame["frame_id"], "absolute", 64, 0.11 + 0.01 * rng.random(), 0.74)
            )
    write_table(
        folder / "photcal/b1.parquet",
        Table(
            rows=tables["photcal"],
            names=(
                "frame_id",
                "solution",
                "zp",
                "zp_err",
                "zp_scatter",
                "zp_floor",
                "n_stars",
                "n_rejected",
                "throughput",
                "fwhm_arcsec",
                "ellipticity",
                "sky_e",
                "depth_mag",
                "airmass",
            ),
        ),
        {},
    )
    write_table(
        folder / "astrometry/b1.parquet",
        Table(
            rows=tables["astrometry"],
            names=("frame_id", "solution", "n_match", "rms_arcsec", "scale_arcsec_px"),
        ),
        {},
    )
    for step in STEPS[:-1]:
        write_outcomes(folder / f"outcomes/{step}/b1.csv", outcomes[step])
    write_stacks(folder, outcomes["stack"], rng, size)
    write_curves(folder, rng, min(n_lights, 60))
    write_sky(folder, rng)
    return sheet


def write_masters(folder: Path, sheet: list[dict[str, Any]], rng: Any, size: int) -> None:
    y, x = np.mgrid[0:size, 0:size] / size
    for kind in ("bias", "flat"):
        frames = [r["frame_id"] for r in sheet if r["kind"] == kind]
        for night in sorted({f.split("-")[1] for f in frames}):
            mine = [f for f in frames if f.split("-")[1] == night]
            name = f"{kind}-cam1-{night}-9f8e7d6c"
            way = [Outcome(f, f"master_{kind}", "ok") for f in mine]
            if kind == "bias":
                way[3] = Outcome(
                    mine[3], "master_bias", "rejected", "BAD_LEVEL", "level 30 ADU high"
                )
                sci = 12 + 3 * x + rng.normal(0, 0.9, x.shape)
                own = Outcome(
                    name,
                    "master_bias",
                    "degraded",
                    "READ_NOISE_SUSPECT",
                    "read noise is 4.3 e-, the header says 9.3 e-",
                    {"read_noise_e": 4.31, "level_adu": 12.0},
                )
            else:
                sci = 1.05 - 0.3 * ((x - 0.5) ** 2 + (y - 0.5) ** 2) + rng.normal(0, 0.004, x.shape)
                own = Outcome(
                    name,
                    "master_flat",
                    "degraded",
                    "GAIN_SUSPECT",
                    "gain is 3.67 e-/ADU, the header says 4.95",
                    {"gain_e_adu": 3.67, "level_adu": 31200.0},
                )
            mask = np.zeros(x.shape, np.uint16)
            mask[:, size // 4] = MaskBit.DEAD
            mask[rng.random(x.shape) < 0.002] |= np.uint16(MaskBit.HOT)
            master = Master(
                sci,
                np.full(x.shape, 0.3),
                mask,
                fits.Header(),
                None,
                "adu" if kind == "bias" else "",
                np.full(x.shape, len(mine) - 1, np.uint16),
            )
            write_master(folder / f"masters/{name}.fits", master, {})
            write_outcomes(folder / f"outcomes/master_{kind}/{name}.csv", [*way, own])


def write_stacks(folder: Path, outcomes: list[Outcome], rng: Any, size: int) -> None:
    bands: dict[str, list[Outcome]] = {}
    for n, o in enumerate(outcomes):
        bands.setdefault(("V", "R", "B")[n * 3 // len(outcomes)], []).append(o)
    y, x = np.mgrid[0:size, 0:size]
    for band, members in bands.items():
        name = f"m67-{band}-all-5a5b5c5d"
        sci = rng.normal(0, 6, x.shape)
        for _ in range(max(12, size * size // 900)):
            cx, cy = rng.uniform(0, size, 2)
            flux, s = 10 ** rng.uniform(1.5, 4.2), 1.7
            a, b = max(int(cy) - 16, 0), max(int(cx) - 16, 0)
            cut = np.s_[a : a + 33, b : b + 33]
            sci[cut] += flux * np.exp(-((x[cut] - cx) ** 2 + (y[cut] - cy) ** 2) / 2 / s**2)
        mask = np.zeros(x.shape, np.uint16)
        edge = (x + y) < size // 7
        mask[edge], sci[edge] = MaskBit.NO_DATA, np.nan
        err = np.where(edge, np.nan, 6.0)
        coverage = np.where(edge, 0, np.minimum(len(members), 4 + x // 5)).astype(np.uint16)
        frame = Frame(sci, err, mask, fits.Header(), None, "electron")
        planes = {"SCI": frame.sci, "ERR": frame.err, "MASK": frame.mask, "COVERAGE": coverage}
        write_planes(folder / f"stack/{name}.fits", planes, frame, {})
        numbers = {"depth_mag": 22.4, "fwhm_px": 2.6, "exptime_s": 240.0 * len(members), "zp": 24.8}
        write_outcomes(
            folder / f"outcomes/stack/{name}.csv",
            [*members, Outcome(name, "stack", "ok", numbers=numbers)],
        )
        mags = 15 + 7.5 * rng.random(700) ** 0.5
        write_table(
            folder / f"catalog/{name}.parquet", Table({"source": np.arange(700), "mag": mags}), {}
        )


def write_curves(folder: Path, rng: Any, epochs: int) -> None:
    rows, stats = [], []
    for source in range(240):
        mag = 12 + 6 * rng.random()
        err = float(np.hypot(0.0025, 0.02 * 10 ** (0.4 * (mag - 17))))
        level = 10 ** (0.4 * (25 - mag))
        time = 2460739.3 + 0.3 * np.arange(epochs) / epochs
        change = (0.12 if source in (17, 88) else 0.0) * np.sin(40 * (time % 1))
        rel = 10 ** (-0.4 * change) * (1 + err / 1.0857 * rng.normal(size=epochs))
        flags = np.where(np.arange(epochs) == 5, 4, 0)  # one masked measurement
        for t, value, flag in zip(time, rel, flags, strict=True):
            rows.append(
                (
                    source,
                    "V",
                    t - 2400000.5,
                    t,
                    value,
                    err / 1.0857,
                    level * value,
                    25 - 2.5 * np.log10(level * value),
                    flag,
                )
            )
        scatter = 1085.7 * np.std(rel[flags == 0], ddof=1)
        stats.append(
            (source, "V", epochs - 1, level, scatter, 1000 * err, source % 6 == 0 and mag < 15)
        )
    names = (
        "source",
        "filter",
        "mjd_mid",
        "bjd_tdb",
        "rel_flux",
        "rel_flux_err",
        "flux_corr",
        "mag",
        "flags",
    )
    write_table(folder / "lightcurves/m67-cam1.parquet", Table(rows=rows, names=names), {})
    names = ("source", "filter", "n", "median_flux", "rms_mmag", "expected_mmag", "comparison")
    write_table(
        folder / "lightcurves/statistics/m67-cam1.parquet", Table(rows=stats, names=names), {}
    )


def write_sky(folder: Path, rng: Any) -> None:
    x, y = rng.uniform(0, 2048, (2, 400))
    table = Table(
        {
            "frame_id": ["a"] * 400,
            "best": [True] * 400,
            "x": x,
            "y": y,
            "flux": 10 ** rng.exponential(0.6, 400),
        }
    )
    write_table(folder / "reference_frames/m67-cam1.parquet", table, {})


class Reader(html.parser.HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("night") / "results"
    return folder, make_results(folder)


@pytest.fixture(scope="module")
def page(night: tuple[Path, list[dict[str, Any]]]) -> str:
    return build_page(
        load_report_data(*night), title="M67", version="1.2.3", settings_digest="abc123"
    )


def script_data(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_funnel_of_the_page_adds_up_to_the_sheet(night, page):
    data = load_report_data(*night)
    assert sum(data.funnel.counts.values()) == len(night[1])
    assert f"{data.funnel.used} of {len(night[1])} frames used" in page
    assert len(script_data(page)["id"]) == len(night[1])


def test_every_unused_frame_is_listed_with_code_sentence_and_what_to_do(night, page):
    data, text = load_report_data(*night), Reader(page).text
    lost = [fate for fate in data.funnel.fates if not fate.is_used]
    # 2 of the sheet, 1 bias, 5 lights, by construction.
    assert len(lost) == 8
    for fate in lost:
        assert fate.path in text
        assert fate.message in text
        assert fate.code in text
        assert ADVICE[fate.code] in text


def test_header_text_never_becomes_markup(page):
    assert EVIL not in page
    assert "<script>alert" not in page
    reader = Reader(page)
    scripts = [attrs for tag, attrs in reader.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert EVIL in script_data(page)["object"]["v"], "the text itself must not be lost"
    assert "</" not in re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]


def test_page_loads_nothing_from_elsewhere(page):
    for tag, attrs in Reader(page).tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_page_is_the_same_whenever_and_wherever_it_is_made(night, page, tmp_path):
    import shutil

    elsewhere = tmp_path / "another" / "place"
    shutil.copytree(night[0], elsewhere)
    again = build_page(
        load_report_data(elsewhere, night[1]),
        title="M67",
        version="1.2.3",
        settings_digest="abc123",
    )
    assert again == page
    assert str(tmp_path) not in again
    assert str(night[0]) not in page


def test_pictures_have_alternative_texts_and_tables_have_headers(page):
    tags = Reader(page).tags
    images = [attrs for tag, attrs in tags if tag == "img" and "src" in attrs]
    assert len(images) >= 2 * 2 + 3 * 2  # masters with maps, stacks with coverage
    assert all(attrs.get("alt") for attrs in images)
    drawings = [a for tag, a in tags if tag == "svg" and "plot" in (a.get("class") or "")]
    assert all(attrs.get("aria-label") and attrs.get("role") == "img" for attrs in drawings)
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")


def test_serious_warnings_come_first_with_both_values(night, page):
    warned = collect_warnings(load_report_data(*night))
    assert [w.code for w in warned[:2]] == ["GAIN_SUSPECT", "READ_NOISE_SUSPECT"]
    assert [w.is_serious for w in warned] == sorted((w.is_serious for w in warned), reverse=True)
    text = Reader(page).text
    assert "read noise is 4.3 e-, the header says 9.3 e-" in text
    relative = next(w for w in warned if w.code == "WCS_RELATIVE")
    assert relative.n_frames == 5  # every ninth of 42
    assert relative.messages == (("no catalogue matches", 5),)


def test_variable_sources_come_first_among_the_light_curves(night):
    field = load_report_data(*night).fields[0]
    assert {c.source for c in field.curves[:2]} == {"17", "88"}
    assert len(field.curves) == 60
    assert len(field.points) == 240
    # 42 epochs, one of them masked and left out
    assert all(len(c.time) == 41 and c.time == tuple(sorted(c.time)) for c in field.curves)


def test_mask_statistics_count_the_bits(night):
    master = load_report_data(*night).masters[0]
    counts = {name: pixels for name, _, pixels in master.mask}
    assert set(counts) == {"HOT", "DEAD"}
    assert 94 <= counts["DEAD"] <= 96  # one column of 96 rows; a hot pixel may lie on it
    assert (master.n_used, master.n_inputs) == (8, 9)


def test_missing_products_are_said_in_sentences(tmp_path):
    sheet = [row("a-1", "light", 60738.8, filter="V", target="m67")]
    write_outcomes(tmp_path / "outcomes/calibrate/b.csv", [Outcome("a-1", "calibrate", "ok")])
    text = Reader(build_page(load_report_data(tmp_path, sheet))).text
    for sentence in (
        "There is no stack",
        "There are no light curves",
        "No master was made",
        "No position was measured",
        "No flux was calibrated",
        "No light frame was measured",
    ):
        assert sentence in text
    assert "1 of 1 frames used" in text


def test_empty_sheet_gives_a_page(tmp_path):
    text = Reader(build_page(load_report_data(tmp_path, []))).text
    assert "0 of 0 frames used" in text
    assert "no raw frame was found" in text


def test_unreadable_product_is_named_and_the_rest_is_shown(night, tmp_path):
    import shutil

    folder = tmp_path / "results"
    shutil.copytree(night[0], folder)
    (folder / "stack/m67-V-all-5a5b5c5d.fits").write_bytes(b"SIMPLE")
    (folder / "lightcurves/m67-cam1.parquet").write_bytes(b"nothing")
    data = load_report_data(folder, night[1])
    assert len(data.missing) == 2
    assert sum(s.picture is not None for s in data.stacks) == 2
    assert "The stack m67-V-all-5a5b5c5d could not be read" in Reader(build_page(data)).text


def test_number_of_pictures_is_limited(night):
    data = load_report_data(*night, max_pictures=1)
    assert sum(m.picture is not None for m in data.masters) == 1
    assert sum(s.picture is not None for s in data.stacks) == 1
    assert len(data.masters) == 2
    assert len(data.stacks) == 3


def test_products_of_an_earlier_plan_are_left_out(night):
    old = night[0] / "outcomes/stack/m67-V-all-5a5b5c5d.csv"
    planned = {"b1", "m67-cam1", *(p.stem for p in night[0].glob("outcomes/*/*.csv"))} - {old.stem}
    planned -= {"m67-cam1"}
    data = load_report_data(night[0], [r for r in night[1] if r["filter"] != "V"], planned=planned)
    assert [s.name for s in data.stacks] == ["m67-B-all-5a5b5c5d", "m67-R-all-5a5b5c5d"]
    assert data.fields == ()
    assert data.sky == ()


def test_page_of_thousands_of_frames_stays_small(tmp_path):
    sheet = make_results(tmp_path, n_lights=2100, nights=3)
    data = load_report_data(tmp_path, sheet)
    page = build_page(data)
    assert sum(data.funnel.counts.values()) == len(sheet) > 2000
    assert len(page) < 4_000_000


def test_unknown_figures_are_dashes_not_nan(night, page):
    assert not re.search(r"\bnan\b", Reader(page).text.lower())
    assert "NaN" not in page.split('id="data">')[0].split("</style>")[1]


def test_every_reason_code_has_an_advice():
    assert sorted(set(CODES) - set(ADVICE)) == [], "say in skymill/report/advice.py what to do"
    assert sorted(set(ADVICE) - set(CODES)) == []
    assert sorted(set(SERIOUS) - set(CODES)) == []
