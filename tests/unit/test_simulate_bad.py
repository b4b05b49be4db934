"""Every bad frame must really have the defect that it is named for, and no other."""

import bz2
import gzip
import io
import zipfile

import numpy as np
import pytest
from astropy.io import fits

from skymill.errors import CODES, ConfigError
from skymill.simulate import BAD_FRAMES, NightConfig, Truth, simulate_night
from skymill.simulate.bad import find_bad
from skymill.simulate.bad_kit import put_card

CONFIG = NightConfig(
    seed=5, shape=(96, 80), n_bias=2, n_dark=1, n_flat=2, n_light=1, n_stars=40,
    bad=tuple(BAD_FRAMES), hot_fraction=0.0, cosmic_rate_mpx_s=0.0, mag_bright=10.0,
)  # fmt: skip
RAW_SHAPE = (96, 80 + 24)
AREA = (slice(None), slice(0, 80))


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Truth:
    return simulate_night(tmp_path_factory.mktemp("bad"), CONFIG)


class Odd:
    """One bad file, with the views that the checks need."""

    def __init__(self, truth: Truth, name: str) -> None:
        (self.entry,) = (bad for bad in truth.bad if bad["name"] == name)
        self.truth = truth
        self.path = truth.raw / self.entry["path"]

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def regular(self) -> bytes:
        return (self.truth.raw / self.truth.frame("light_V_001")["path"]).read_bytes()

    def opened(self, content: bytes | None = None) -> fits.HDUList:
        return fits.open(io.BytesIO(self.content if content is None else content))

    @property
    def header(self) -> fits.Header:
        return self.opened()[0].header

    @property
    def data(self) -> np.ndarray:
        return self.opened()[0].data.astype(np.float64)

    def card(self, keyword: str) -> str:
        """The 80 characters of a card in the first header, exactly as they are."""
        content = self.content
        for at in range(0, min(len(content), 28800), 80):
            if content[at : at + 8] == keyword.ljust(8).encode():
                return content[at : at + 80].decode("latin-1")
        return ""


def _bias(odd: Odd, name: str = "bias_001") -> np.ndarray:
    return fits.getdata(odd.truth.raw / f"20260315/{name}.fits").astype(np.float64)


def _is_light(odd: Odd, content: bytes) -> bool:
    """A whole light frame of its own: right size, right level, not a copy."""
    with odd.opened(content) as hdus:
        hdu = next(h for h in hdus if h.data is not None)
        data = np.squeeze(hdu.data)
        sky = np.median(data[AREA]) - np.median(data[:, 80:])
    return data.shape == RAW_SHAPE and 100 < sky < 220 and content != odd.regular


def _pixel_bytes(content: bytes) -> int:
    return len(content) - (content.index(b"END".ljust(80)) // 2880 + 1) * 2880


NEED = 2 * RAW_SHAPE[0] * RAW_SHAPE[1]

CHECKS = {
    "empty": lambda o: o.content == b"",
    "header_truncated": lambda o: len(o.content) == 1000 and b"END " not in o.content,
    "no_end": lambda o: b"END".ljust(80) not in o.content and len(o.content) > NEED,
    "truncated": lambda o: 0 < _pixel_bytes(o.content) < NEED,
    "padding": lambda o: _pixel_bytes(o.content) == NEED and len(o.content) % 2880,
    "trailing": lambda o: len(o.content) % 2880 == 400 and _is_light(o, o.content[:-400]),
    "text": lambda o: o.content.startswith(b"<html>"),
    "leading_bytes": lambda o: o.content[3:9] == b"SIMPLE" and _is_light(o, o.content[3:]),
    "not_standard": lambda o: o.card("SIMPLE").split()[2] == "F",
    "zero_size": lambda o: o.card("NAXIS1").split()[2] == "0",
    "negative_axis": lambda o: o.card("NAXIS1").split()[2] == "-100",
    "missing_axis": lambda o: o.card("NAXIS2") == "" and o.card("NAXIS1") != "",
    "bad_bitpix": lambda o: o.card("BITPIX").split()[2] == "24",
    "huge_axis": lambda o: o.card("NAXIS2").split()[2] == "1000000" and len(o.content) < 99_999,
    "short_axis": lambda o: o.card("NAXIS2").split()[2] == "48" and _pixel_bytes(o.content) >= NEED,
    "no_image": lambda o: o.header["NAXIS"] == 0 and len(o.opened()) == 1,
    "in_extension": lambda o: o.opened()[0].data is None and _is_light(o, o.content),
    "several_images": lambda o: [h.data is not None for h in o.opened()] == [False, True, True],
    "inherit": lambda o: o.opened()[1].header["INHERIT"] and "EXPTIME" not in o.opened()[1].header,
    "table_only": lambda o: isinstance(o.opened()[1], fits.BinTableHDU) and len(o.opened()) == 2,
    "third_axis": lambda o: o.data.shape == (1, *RAW_SHAPE),
    "cube": lambda o: o.data.shape == (3, *RAW_SHAPE),
    "time_cube": lambda o: o.data.shape == (20, 64, 64),
    "one_axis": lambda o: o.data.ndim == 1,
    "hidden_gzip": lambda o: o.path.suffix == ".fits" and _is_light(o, gzip.decompress(o.content)),
    "plain_gz": lambda o: o.path.suffix == ".gz" and _is_light(o, o.content),
    "gz_truncated": lambda o: o.content[:2] == b"\x1f\x8b" and _raises(EOFError, o),
    "double_gzip": lambda o: _is_light(o, gzip.decompress(gzip.decompress(o.content))),
    "bzip2": lambda o: o.path.suffix == ".bz2" and _is_light(o, bz2.decompress(o.content)),
    "zip": lambda o: zipfile.is_zipfile(o.path) and o.path.suffix == ".fits",
    "tiles": lambda o: _is_light(o, o.content) and o.opened()[1].data.dtype == np.uint16,
    "float_tiles": lambda o: 0 < np.abs(o.opened()[1].data % 1).max() < 1,
    "checksum": lambda o: o.opened()[0].verify_datasum() == 0 and "telescope" in o.card("CHECKSUM"),
    "huge_pcount": lambda o: int(o.card("PCOUNT")[10:]) == 10**15,
    "header_large": lambda o: len(o.header) > 12_000 and _is_light(o, o.content),
    "upper_suffix": lambda o: o.path.name.endswith(".FTS") and _is_light(o, o.content),
    "png": lambda o: o.content[:8] == b"\x89PNG\r\n\x1a\n",
    "duplicate": lambda o: o.content == o.regular,
    "duplicate_gz": lambda o: gzip.decompress(o.content) == o.regular,
    "duplicate_pixels": lambda o: (
        o.header["OBJECT"] == "Edited" and np.array_equal(o.data, o.opened(o.regular)[0].data)
    ),
    "unreadable": lambda o: o.path.is_symlink() and not o.path.exists(),
    "folder": lambda o: o.path.is_dir() and o.path.suffix == ".fits",
    "spaced_name": lambda o: " " in o.path.name and "'" in o.path.name and _is_light(o, o.content),
    "no_bzero": lambda o: o.card("BZERO") == "" and o.data.min() < -30_000,
    "duplicate_key": lambda o: o.header.count("EXPTIME") == 2 and o.header["EXPTIME"] == 60,
    "undefined_exptime": lambda o: o.card("EXPTIME").strip() == "EXPTIME =",
    "no_equals": lambda o: o.card("EXPTIME")[8:10] == "  " and "60.0" in o.card("EXPTIME"),
    "nan_exptime": lambda o: "NaN" in o.card("EXPTIME"),
    "decimal_comma": lambda o: o.card("EXPTIME").split()[2] == "60,0",
    "d_exponent": lambda o: o.header["EXPTIME"] == 60.0 and "D1" in o.card("EXPTIME"),
    "string_number": lambda o: o.header["EXPTIME"] == "60s",
    "boolean_exptime": lambda o: o.header["EXPTIME"] is True,
    "open_quote": lambda o: o.card("OBJECT").count("'") == 1,
    "non_ascii": lambda o: "\xe9" in o.card("TELESCOP") and len(o.card("TELESCOP")) == 80,
    "sentinel_filter": lambda o: o.header["FILTER"] == "N/A",
    "padded_filter": lambda o: o.card("FILTER").split("'")[1] == "  V ",
    "missing_exptime": lambda o: "EXPTIME" not in o.header and _is_light(o, o.content),
    "no_time": lambda o: not {"DATE-OBS", "MJD-OBS", "DATE"} & set(o.header),
    "missing_filter": lambda o: "FILTER" not in o.header,
    "bias_without_exptime": lambda o: (
        o.header["IMAGETYP"] == "Bias Frame" and "EXPTIME" not in o.header
    ),
    "bad_exptime": lambda o: o.header["EXPTIME"] == -60.0,
    "bias_exposure": lambda o: o.header["EXPTIME"] == 30.0 and "Bias" in o.header["IMAGETYP"],
    "conflict": lambda o: (o.header["EXPTIME"], o.header["EXPOSURE"]) == (60.0, 120.0),
    "date_blank": lambda o: o.header["DATE-OBS"][10] == " ",
    "date_only": lambda o: o.header["DATE-OBS"] == "2026-03-15" and "TIME-OBS" not in o.header,
    "split_time": lambda o: len(o.header["DATE-OBS"]) == 10 and o.header["TIME-OBS"][2] == ":",
    "date_slashes": lambda o: o.header["DATE-OBS"].startswith("2026/03/15T"),
    "bad_time": lambda o: "-02-30T" in o.header["DATE-OBS"],
    "clock": lambda o: o.header["DATE-OBS"].startswith("1970-01-01"),
    "focus": lambda o: o.header["IMAGETYP"] == "focus",
    "master": lambda o: o.header["IMAGETYP"] == "Master Bias",
    "calibrated": lambda o: o.header["CALSTAT"] == "BDF",
    "bad_section": lambda o: o.header["TRIMSEC"] == "[0:79,0:95]",
    "hostile": lambda o: (
        o.header["OBJECT"] == "../../$(rm x){wild}" and _is_light(o, o.content)
    ),
    "hostile_html": lambda o: "<script>" in o.header["OBJECT"] and _is_light(o, o.content),
    "missing_flat": lambda o: o.header["FILTER"] == "Halpha" and _is_light(o, o.content),
    "shutter_closed": lambda o: (
        o.header["IMAGETYP"] == "Light Frame" and abs(o.data.mean() - _bias(o).mean()) < 15
    ),
    "shifted_bits": lambda o: np.all(o.data % 16 == 0) and o.data.std() > 0,
    "all_nan": lambda o: o.header["BITPIX"] == -32 and np.all(np.isnan(o.data)),
    "constant": lambda o: np.all(o.data == 1000),
    "some_nan": lambda o: (np.isnan(o.data).sum(), np.isinf(o.data).sum()) == (100, 3),
    "wrap": lambda o: np.median(o.data) > 62_000 and np.sum(o.data < 30_000) > 3,
    "dead_area": lambda o: np.all(o.data[:, :52] == 0) and np.all(o.data[:, 52:] > 0),
    "saturated_flat": lambda o: np.median(o.data[AREA]) >= CONFIG.saturate_adu,
    "faint_flat": lambda o: 40 < np.median(o.data[AREA] - _bias(o)[AREA]) < 80,
    "steep_flat": lambda o: (
        0.45 < (o.data[:, :4].mean() - 1000) / (o.data[:, 76:80].mean() - 1000) < 0.6
    ),
    "bias_level": lambda o: (
        250 < np.mean((o.data - _bias(o))[AREA]) < 350
        and abs(np.mean((o.data - _bias(o))[:, 80:])) < 20
    ),
    "bias_jump": lambda o: abs(np.mean(o.data[48:, 80:]) - np.mean(o.data[:48, 80:]) - 50) < 5,
    "banding": lambda o: (
        np.std(np.median(o.data[AREA], axis=1)) > 8 > 3 * np.std(np.median(o.data[:, 80:], axis=1))
    ),
    "trailed": lambda o: _best_shift(o) == 7,
    "no_stars": lambda o: (
        np.median(o.data[AREA]) > 1080 and np.sum(o.data[AREA] > np.median(o.data[AREA]) + 80) == 0
    ),
    "sky_bright": lambda o: (
        np.median(o.data[AREA]) > 4500
        and np.median(o.data[:, 70:80]) > 1.4 * np.median(o.data[:, :10])
    ),
    "wrong_size_flat": lambda o: (
        o.data.shape == (48, 40) and "BIASSEC" not in o.header and o.data.mean() > 15_000
    ),
}  # fmt: skip


def _raises(error: type[Exception], odd: Odd) -> bool:
    with pytest.raises(error):
        gzip.decompress(odd.content)
    return True


def _best_shift(odd: Odd) -> int:
    """Shift along x at which the frame looks most like itself: where the double stars are."""
    image = np.minimum(odd.data[AREA] - np.median(odd.data[AREA]), 5000.0)
    scores = {k: float(np.mean(image[:, k:] * image[:, :-k])) for k in range(5, 20)}
    return max(scores, key=scores.__getitem__)


def test_every_bad_frame_has_a_check():
    assert set(CHECKS) == set(BAD_FRAMES)


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
@pytest.mark.parametrize("name", list(BAD_FRAMES))
def test_defect_is_there(night, name):
    assert CHECKS[name](Odd(night, name))


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
@pytest.mark.parametrize("name", sorted(set(BAD_FRAMES) - {"duplicate"}))
def test_a_regular_frame_has_no_such_defect(night, name):
    odd = Odd(night, name)
    odd.path = night.raw / night.frame("light_V_001")["path"]
    try:
        defect = CHECKS[name](odd)
    except (OSError, IndexError, KeyError, ValueError, StopIteration):
        defect = False
    assert not defect


@pytest.mark.parametrize("name", list(BAD_FRAMES))
def test_expectation_is_stated(night, name):
    entry = Odd(night, name).entry
    assert set(entry["expected"]["codes"]) <= set(CODES)
    statuses = set(entry["expected"]["statuses"])
    assert statuses <= {"ok", "degraded", "rejected", "failed", "blocked"}
    assert entry["good"] == (statuses == {"ok", "degraded"})
    assert entry["good"] or entry["expected"]["codes"]
    assert entry["why"] and entry["hazard"].startswith("H")


def test_good_odd_frames_have_their_truth(night):
    good = {bad["name"] for bad in night.bad if bad["good"]} - {"bias_without_exptime"}
    told = {frame["frame"].removeprefix("odd_") for frame in night.frames} - {"light_V_001"}
    assert good <= told
    assert night.image("odd_hostile").shape == (96, 80)
    assert set(night.positions()["frame"]) == {"light_V_001", *(f"odd_{name}" for name in good)}
    assert night.frame("odd_tiles")["path"] == "20260315/odd_tiles.fits.fz"


def test_bad_frames_leave_the_good_ones_as_they_are(night, tmp_path):
    clean = simulate_night(tmp_path, CONFIG.model_copy(update={"bad": ()}))
    for frame in clean.frames:
        path = frame["path"]
        assert (clean.raw / path).read_bytes() == (night.raw / path).read_bytes()


def test_each_bad_frame_adds_one_file(night):
    entries = sorted((night.raw / "20260315").iterdir())
    assert len(entries) == 2 + 1 + 2 + 1 + len(BAD_FRAMES)
    # A duplicate is found after its original, in the order of names.
    assert all(path.name.startswith("odd") for path in entries[-len(BAD_FRAMES) :])


def test_bad_frames_are_found_by_name_and_hazard():
    assert find_bad("truncated").hazard == "H004"
    assert find_bad("H004").name == "truncated"
    with pytest.raises(ConfigError, match="name one of faint_flat, saturated_flat, steep_flat"):
        find_bad("H153")
    with pytest.raises(ConfigError, match="no bad frame 'trunkated'; there are empty"):
        find_bad("trunkated")


def test_put_card_replaces_eighty_bytes_and_nothing_else():
    content = b"".join(card.ljust(80) for card in (b"SIMPLE  = T", b"AB      = 1", b"ABC     = 2"))
    changed = put_card(content, "ABC", "X")
    assert changed == content[:160] + b"X".ljust(80)
    with pytest.raises(ValueError, match="in place of NOPE"):
        put_card(content, "NOPE", "X")
