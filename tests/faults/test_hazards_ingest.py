"""Every hazard that ingest decides: one file each, its verdict and its code.

The ids are those of the catalogue of hazards: H001 to H040 structure, H041 to H068 values,
H069 to H084 times, H085 to H114 world coordinates, H115 to H142 vocabulary, H143 to H153
pixels, H169 to H176 identity, H178 to H187 header text, H191 to H199 file system.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

Build = Callable[[Any], Any]


def _cut(m: Any, keep: int) -> None:
    m.base()
    m.path.write_bytes(m.path.read_bytes()[:keep])


def _grown(m: Any, extra: bytes) -> None:
    m.base()
    m.path.write_bytes(m.path.read_bytes() + extra)


def _written(m: Any, content: bytes, name: str = "x.fits") -> None:
    (m.folder / name).write_bytes(content)


def _base_bytes(m: Any) -> bytes:
    m.base()
    content = m.path.read_bytes()
    m.path.unlink()
    return bytes(content)


def _hdus(m: Any, *hdus: Any) -> None:
    fits.HDUList(list(hdus)).writeto(m.path, output_verify="ignore")


def _with(**cards: Any) -> Build:
    return lambda m: m.base(**cards)


def _spoilt(*lines: str | bytes, **cards: Any) -> Build:
    def build(m: Any) -> None:
        m.base(**cards)
        for line in lines:
            m.card(line)

    return build


def _replaced(old: bytes, new: bytes) -> Build:
    def build(m: Any) -> None:
        m.base()
        m.raw(old, new)

    return build


def _data(make: Callable[[Any], Any], **cards: Any) -> Build:
    return lambda m: m.base(make(m), **cards)


def _no_padding(m: Any) -> None:
    m.base()
    m.path.write_bytes(m.path.read_bytes()[: 2880 + 20000])


def _inherit(m: Any) -> None:
    primary = fits.PrimaryHDU(header=m.header())
    image = fits.ImageHDU(m.pixels())
    image.header["INHERIT"] = True
    _hdus(m, primary, image)


def _checksum(m: Any) -> None:
    fits.PrimaryHDU(m.pixels(), m.header()).writeto(m.path, checksum=True)
    content = bytearray(m.path.read_bytes())
    content[2880 * (len(content) // 2880 - 4) + 100] ^= 0xFF
    m.path.write_bytes(content)


def _blank(m: Any) -> None:
    data = m.pixels().astype(np.int16)
    data.flat[::37] = -32768
    m.base(data)
    m.card("BLANK   =               -32768")


def _tar(m: Any) -> bytes:
    m.base()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(m.path, "x.fits")
    m.path.unlink()
    return stream.getvalue()


def _quantised(m: Any, **cards: Any) -> None:
    image = fits.CompImageHDU(
        m.pixels().astype(np.float32),
        m.header(**cards),
        compression_type="RICE_1",
        quantize_level=4,
    )
    _hdus(m, fits.PrimaryHDU(), image)


def _signed(m: Any) -> None:
    m.base(m.pixels(30000, 4000))
    m.raw(b"BZERO   ", b"BZEROX  ")


def _wrapped(m: Any) -> Any:
    data = m.pixels(1000, 12).astype(np.int64)
    y, x = np.mgrid[:100, :100]
    for cy, cx in ((20, 30), (50, 60), (75, 25), (80, 80)):
        data += (60000 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 18)).astype(np.int64)
    return ((data + 40000) % 65536).astype(np.uint16)


def _half_dead(m: Any) -> Any:
    data = m.pixels()
    data[:50] = 0
    return data


def _invalid(m: Any) -> Any:
    data = m.pixels().astype(np.float32)
    data[:1] = np.nan
    data[5, 5:8] = np.inf
    return data


#: id, maker, verdict, code ('' for none): rejections and flags are in `code`, repairs in `fixes`.
CASES: list[tuple[str, Build, str, str]] = [
    ("H001", lambda m: _written(m, b""), "rejected", "EMPTY"),
    ("H002", lambda m: _cut(m, 1000), "rejected", "HEADER_TRUNCATED"),
    ("H003", _replaced(b"END".ljust(80), b" " * 80), "rejected", "NO_END"),
    ("H004", lambda m: _cut(m, 2880 + 17280), "rejected", "TRUNCATED"),
    ("H004b", lambda m: _cut(m, 2880), "rejected", "TRUNCATED"),
    ("H005", _no_padding, "ok", "PADDING"),
    ("H006", lambda m: _grown(m, b"junk" * 100), "degraded", "TRAILING"),
    ("H007", lambda m: _written(m, b"<html><body>404</body></html>"), "rejected", "NOT_FITS"),
    ("H008", lambda m: _written(m, b"\xef\xbb\xbf" + _base_bytes(m)), "rejected", "NOT_FITS"),
    (
        "H009",
        _replaced(b"=                    T", b"=                    F"),
        "rejected",
        "NOT_STANDARD",
    ),
    ("H010", _spoilt("NAXIS1  =                    0"), "rejected", "ZERO_SIZE"),
    ("H011", _spoilt("NAXIS1  =                 -100"), "rejected", "BAD_STRUCTURE"),
    ("H012", _replaced(b"NAXIS2  ", b"NAXISX  "), "rejected", "BAD_STRUCTURE"),
    ("H013", _spoilt("BITPIX  =                   24"), "rejected", "BAD_STRUCTURE"),
    (
        "H014",
        _spoilt("NAXIS1  =              1000000", "NAXIS2  =              1000000"),
        "rejected",
        "TRUNCATED",
    ),
    ("H015", _spoilt("NAXIS2  =                   50"), "rejected", "BAD_STRUCTURE"),
    ("H016", lambda m: _hdus(m, fits.PrimaryHDU()), "rejected", "NO_IMAGE"),
    (
        "H017",
        lambda m: _hdus(m, fits.PrimaryHDU(), fits.ImageHDU(m.pixels(), m.header())),
        "ok",
        "",
    ),
    (
        "H018",
        lambda m: _hdus(
            m, fits.PrimaryHDU(header=m.header()), *(fits.ImageHDU(m.pixels()) for _ in range(4))
        ),
        "rejected",
        "AMBIGUOUS_HDU",
    ),
    ("H019", _inherit, "ok", "INHERIT"),
    (
        "H020",
        lambda m: _hdus(
            m,
            fits.PrimaryHDU(),
            fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])]),
        ),
        "rejected",
        "NO_IMAGE",
    ),
    ("H021", _data(lambda m: m.pixels(shape=(1, 100, 100))), "ok", "SQUEEZED"),
    ("H022", _data(lambda m: m.pixels(shape=(3, 100, 100))), "rejected", "RGB_CUBE"),
    ("H023", _data(lambda m: m.pixels(shape=(20, 64, 64))), "rejected", "CUBE"),
    ("H024", _data(lambda m: m.pixels(shape=(1, 1, 9, 9))), "rejected", "BAD_SHAPE"),
    ("H024b", _data(lambda m: m.pixels(shape=(100,))), "rejected", "BAD_SHAPE"),
    ("H024c", _data(lambda m: m.pixels(shape=(1, 1))), "rejected", "BAD_SHAPE"),
    ("H024d", _data(lambda m: m.pixels(shape=(2, 2))), "rejected", "BAD_SHAPE"),
    ("H025", lambda m: _written(m, gzip.compress(_base_bytes(m))), "ok", "COMPRESSED"),
    ("H026", lambda m: _written(m, _base_bytes(m), "x.fits.gz"), "ok", "NAME_MISMATCH"),
    (
        "H027",
        lambda m: _written(m, gzip.compress(_base_bytes(m))[:2000], "x.fits.gz"),
        "rejected",
        "TRUNCATED_GZ",
    ),
    (
        "H028",
        lambda m: _written(m, gzip.compress(gzip.compress(_base_bytes(m))), "x.fits.gz"),
        "rejected",
        "DOUBLE_COMPRESSED",
    ),
    ("H029", lambda m: _written(m, bz2.compress(_base_bytes(m)), "x.fits.bz2"), "ok", ""),
    ("H029b", lambda m: _written(m, lzma.compress(_base_bytes(m)), "x.fits.xz"), "ok", ""),
    (
        "H030",
        lambda m: _written(m, b"PK\x03\x04" + b"\0" * 100, "x.fits.zip"),
        "rejected",
        "ARCHIVE",
    ),
    ("H030b", lambda m: _written(m, _tar(m), "x.fits.tar"), "rejected", "ARCHIVE"),
    (
        "H031",
        lambda m: _hdus(m, fits.PrimaryHDU(), fits.CompImageHDU(m.pixels(), m.header())),
        "ok",
        "",
    ),
    ("H032", _quantised, "degraded", "QUANTISED"),
    (
        "H033",
        lambda m: _quantised(m, HISTORY="compressed by astropy 5.0"),
        "degraded",
        "QUANTISED",
    ),
    ("H034", _checksum, "rejected", "CHECKSUM"),
    ("H036", _spoilt("PCOUNT  =     1000000000000000"), "rejected", "BAD_STRUCTURE"),
    ("H036b", _spoilt("PCOUNT  =                    2"), "rejected", "BAD_STRUCTURE"),
    ("H036c", _spoilt("GCOUNT  =                    2"), "rejected", "BAD_STRUCTURE"),
    ("H039", lambda m: m.base(path=m.folder / "a" / "X.FTS"), "ok", ""),
    ("H040", lambda m: _written(m, b"II*\x00" + b"\0" * 100, "x.cr2"), "rejected", "UNSUPPORTED"),
    (
        "H040b",
        lambda m: _written(m, b"LUCAM-RECORDER" + b"\0" * 99, "x.ser"),
        "rejected",
        "UNSUPPORTED",
    ),
    ("H040c", lambda m: _written(m, b"XISF0100" + b"\0" * 99, "x.xisf"), "rejected", "UNSUPPORTED"),
    (
        "H040d",
        lambda m: _written(m, b"\x89PNG" + b"\0" * 99, "x.png"),
        "rejected",
        "UNSUPPORTED",
    ),
    ("H040e", lambda m: _written(m, b"MM\x00*" + b"\0" * 99, "x.tif"), "rejected", "UNSUPPORTED"),
    ("H041", _signed, "rejected", "SUSPECT_BZERO"),
    (
        "H042",
        lambda m: (m.base(m.pixels().astype(np.int16)), m.card("BSCALE  =                  0.5")),
        "ok",
        "",
    ),
    ("H043", _blank, "ok", "BLANK_FIXED"),
    (
        "H044",
        lambda m: (m.base(m.pixels().astype(np.float32)), m.card("BLANK   =               -32768")),
        "degraded",
        "BAD_BLANK",
    ),
    (
        "H045",
        lambda m: (
            m.base(),
            m.raw(b"OBJECT  = 'field one'".ljust(80), b"EXPTIME =                 60.0".ljust(80)),
        ),
        "degraded",
        "DUPLICATE_KEY",
    ),
    ("H046", _spoilt("EXPTIME ="), "rejected", "MISSING_EXPTIME"),
    ("H047", _spoilt("EXPTIME   30.0"), "rejected", "MISSING_EXPTIME"),
    ("H047b", _spoilt("GAIN      1.5"), "degraded", "BAD_CARD"),
    ("H048", _spoilt("GAIN    =                  NaN"), "degraded", "BAD_CARD"),
    ("H048b", _spoilt("GAIN    =                 -inf"), "degraded", "BAD_CARD"),
    ("H049", _spoilt("EXPTIME =                 30,0"), "ok", "DECIMAL_COMMA"),
    ("H050", _spoilt("EXPTIME =               3.0D+1"), "ok", ""),
    ("H051", _with(EXPTIME="30s"), "ok", "STRING_NUMBER"),
    ("H051b", _with(EXPTIME="30.0"), "ok", "STRING_NUMBER"),
    ("H052", _with(EXPTIME=True), "rejected", "BAD_EXPTIME"),
    ("H053", _spoilt("FILTER  = 'R\t'"), "ok", "BAD_CARD"),
    ("H054", _spoilt("FILTER  = 'R"), "ok", "BAD_CARD"),
    ("H055", _spoilt(b"OBJECT  = 'caf\xe9'"), "ok", "NON_ASCII"),
    ("H056", _spoilt("exptime =                 30.0", EXPTIME=None), "ok", ""),
    ("H057", _with(FILTER="N/A"), "degraded", "MISSING_FILTER"),
    ("H057b", _with(EXPTIME=-999.0), "rejected", "MISSING_EXPTIME"),
    ("H057c", _with(FILTER="nan"), "degraded", "MISSING_FILTER"),
    ("H058", _with(FILTER="  R "), "ok", ""),
    ("H059", lambda m: m.base(**{"HIERARCH ESO DET NAME": "ccd one"}), "ok", ""),
    ("H060", _spoilt("EXPTIME =                 30.0 / [ms] exposure"), "degraded", "UNIT"),
    ("H061", _with(EXPTIME=None), "rejected", "MISSING_EXPTIME"),
    ("H061b", _with(DATE__OBS=None), "rejected", "MISSING_TIME"),
    ("H061c", _with(FILTER=None), "degraded", "MISSING_FILTER"),
    ("H062", _with(IMAGETYP="Bias Frame", EXPTIME=None), "ok", "MISSING_EXPTIME"),
    ("H063", _with(EXPTIME=-30.0), "rejected", "BAD_EXPTIME"),
    ("H063b", _with(EXPTIME=0.0), "rejected", "BAD_EXPTIME"),
    ("H063c", _with(EXPTIME=90000.0), "rejected", "BAD_EXPTIME"),
    ("H064", _with(IMAGETYP="Bias Frame"), "rejected", "BIAS_EXPOSURE"),
    ("H064b", _with(IMAGETYP="Dark Frame", EXPTIME=0.0), "rejected", "DARK_EXPOSURE"),
    ("H065", _with(EXPOSURE=60.0), "degraded", "CONFLICT"),
    ("H066", _with(FILTER=3), "degraded", "FILTER_INDEX"),
    ("H067", _spoilt("CONTINUE  'more'"), "ok", "BAD_CARD"),
    ("H069", _with(DATE__OBS="2024-01-02T03:04:05.0Z"), "ok", ""),
    ("H069b", _with(DATE__OBS="2024-1-2 3:4:5"), "ok", ""),
    ("H069c", _with(DATE__OBS="2024-01-02T03:04"), "ok", ""),
    ("H069d", _with(DATE__OBS="2024-01-02T03:04:05."), "ok", ""),
    ("H070", _with(DATE__OBS="2024-01-02", UT="03:04:05"), "ok", "DATE_PLUS_TIME"),
    ("H070b", _with(DATE__OBS="2024-01-02"), "rejected", "NO_TIME"),
    ("H071", _with(DATE__OBS="31/12/99 03:04:05"), "ok", "DATE_FORMAT"),
    ("H071b", _with(DATE__OBS="2024/01/02 03:04:05"), "ok", "DATE_FORMAT"),
    ("H071c", _with(DATE__OBS="02/01/2024 03:04:05"), "rejected", "BAD_TIME"),
    ("H072", _with(DATE__OBS="20240102T030405"), "ok", "DATE_FORMAT"),
    ("H072b", _with(DATE__OBS="2024-01-02T03:04:05+00:00"), "ok", "DATE_FORMAT"),
    ("H072c", _with(DATE__OBS="2024-01-02T03:04:05 UTC"), "ok", "DATE_FORMAT"),
    ("H072d", _with(DATE__OBS="2024-01-02T03:04:05,5"), "ok", "DECIMAL_COMMA"),
    ("H072e", _with(DATE__OBS="yesterday"), "rejected", "BAD_TIME"),
    ("H073", _with(DATE__OBS="2024-02-30T00:00:00"), "rejected", "BAD_TIME"),
    ("H073b", _with(DATE__OBS="2024-01-02T24:00:00"), "rejected", "BAD_TIME"),
    ("H073c", _with(DATE__OBS="0000-00-00T00:00:00"), "rejected", "BAD_TIME"),
    ("H074", _with(DATE__OBS="2024-01-02T03:04:60.0"), "ok", "TIME_ROLLOVER"),
    ("H075", _with(DATE__OBS="2016-12-31T23:59:60", SITELONG=10.0), "ok", ""),
    ("H076", _with(DATE__OBS="1970-01-01T03:00:00"), "degraded", "CLOCK"),
    ("H077", _with(DATE__OBS="2024-01-02T19:00:00"), "degraded", "CLOCK"),
    ("H079", _with(DATE__OBS=None, DATE="2024-01-02T05:00:00"), "rejected", "NO_TIME"),
    ("H076b", _with(DATE__OBS="1924-01-02T03:00:00"), "degraded", "CLOCK"),
    ("H076c", _with(DATE__OBS=None, MJD__OBS=1e15), "rejected", "BAD_TIME"),
    ("H076d", _with(DATE__OBS=None, MJD__OBS=-1e7), "rejected", "BAD_TIME"),
    ("H080", _with(MJD__OBS=60312.0), "degraded", "CONFLICT"),
    ("H081", _with(DATE__OBS=None, HJD=2460311.628), "rejected", "MISSING_TIME"),
    ("H081b", _with(DATE__OBS=None, BJD=2460311.628), "rejected", "MISSING_TIME"),
    ("H084", _with(SITELAT=None), "degraded", "NO_SITE"),
    ("H115", _with(IMAGETYP="Tricolor Image"), "ok", ""),
    ("H117", _with(IMAGETYP="focus"), "rejected", "NOT_SCIENCE"),
    ("H117b", _with(IMAGETYP="comp"), "rejected", "NOT_SCIENCE"),
    ("H120", _with(OBJECT="bias frame 3"), "degraded", "KIND_SUSPECT"),
    ("H121", _with(IMAGETYP="Master Bias"), "rejected", "IS_MASTER"),
    ("H121b", _with(IMAGETYP="masterDark"), "rejected", "IS_MASTER"),
    ("H122", _with(CALSTAT="BDF"), "rejected", "ALREADY_CALIBRATED"),
    ("H122b", _with(BIASCOR=True), "rejected", "ALREADY_CALIBRATED"),
    ("H122c", _with(SWMODIFY="reduced", BIASCOR="T"), "rejected", "ALREADY_CALIBRATED"),
    ("H123", _with(IMAGETYP=None), "rejected", "KIND_UNKNOWN"),
    ("H125", _spoilt("EXPTIME =                 30.0 / exposure in us"), "degraded", "UNIT"),
    ("H128", _with(FILTER="3"), "degraded", "FILTER_INDEX"),
    ("H129", _with(GAIN=120), "degraded", "GAIN_SUSPECT"),
    ("H130", _with(GAIN=None), "degraded", "NO_GAIN"),
    (
        "H133",
        lambda m: m.base(**{"CCD-TEMP": -5.0, "SET-TEMP": -10.0}),
        "degraded",
        "TEMP_UNSTABLE",
    ),
    ("H139", _with(OBJECT="flat"), "degraded", "KIND_SUSPECT"),
    ("H140", _with(INSTRUME=None), "ok", ""),
    ("H136", _with(BIASSEC="[0:50,1:100]"), "rejected", "BAD_SECTION"),
    ("H136b", _with(TRIMSEC="[100:1,1:100]"), "rejected", "BAD_SECTION"),
    ("H136c", _with(TRIMSEC="[1:101,1:100]"), "rejected", "BAD_SECTION"),
    ("H136d", _with(TRIMSEC="[1:100 1:100]"), "rejected", "BAD_SECTION"),
    ("H138", _with(BAYERPAT="GGRGGBGGBGGRBRGRBG"), "rejected", "MOSAIC_CFA"),
    (
        "H142",
        _data(lambda m: (m.pixels(600, 12) * 16).astype(np.uint16)),
        "degraded",
        "SHIFTED_BITS",
    ),
    ("H143", _data(lambda m: np.full((100, 100), np.nan, np.float32)), "rejected", "ALL_NAN"),
    ("H144", _data(lambda m: np.full((100, 100), 1000, np.uint16)), "rejected", "CONSTANT"),
    ("H145", _data(_invalid), "ok", "NO_DATA"),
    ("H144b", _data(lambda m: np.zeros((100, 100), np.uint16)), "rejected", "CONSTANT"),
    ("H144c", _data(lambda m: np.full((100, 100), 65535, np.uint16)), "rejected", "CONSTANT"),
    ("H146", _data(lambda m: m.pixels(500, 5).astype(np.int16) - 520), "ok", ""),
    ("H147", _data(_wrapped), "degraded", "WRAP"),
    ("H148", _with(SATURATE=None), "degraded", "SATURATION_GUESSED"),
    ("H151", _data(_half_dead), "degraded", "DEAD_AREA"),
]


@pytest.mark.parametrize(
    ("build", "verdict", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_hazard_has_its_verdict_and_code(
    build: Build, verdict: str, code: str, maker: Any, rows_of: Any
) -> None:
    build(maker)
    rows = rows_of(maker)
    assert len(rows) == 1
    row = rows[0]
    told = f"{row['verdict']} {row['code']} | {row['message']} | {row['fixes']}"
    assert row["verdict"] == verdict, told
    if verdict == "ok":
        fixes = {fix.split(" ")[0] for fix in row["fixes"].split("; ")} - {""}
        assert fixes == ({code} if code else set()), told
    else:
        # A reading that gives up one value may flag what follows from it, but the cause is named.
        assert code in row["code"].split(";"), told
    if verdict == "rejected":
        assert row["code"] == code, told
        assert row["message"], told


# --- world coordinates ------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 50.5,
    "CRPIX2": 50.5,
    "CD1_1": -2.8e-4,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 2.8e-4,
    "RADESYS": "ICRS",
    "RA": 150.01,
    "DEC": 2.01,
}
_CDELT = {
    "CD1_1": None,
    "CD1_2": None,
    "CD2_1": None,
    "CD2_2": None,
    "CDELT1": -2.8e-4,
    "CDELT2": 2.8e-4,
}

WCS_CASES: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("H085", {"CDELT1": 1.0, "CDELT2": 1.0}, "degraded", "WCS_MIXED", "ok"),
    ("H085b", {"CDELT1": -2.8e-4, "CDELT2": 2.8e-4, "CROTA2": 40.0}, "degraded", "WCS_MIXED", "ok"),
    ("H086", {**_CDELT, "PC1_1": 1.0, "PC2_2": 1.0, "CROTA2": 30.0}, "degraded", "WCS_MIXED", "ok"),
    ("H086b", {**_CDELT, "CROTA2": 30.0}, "ok", "", "ok"),
    ("H087", {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6}, "degraded", "SIP_CTYPE", "ok"),
    (
        "H088",
        {"PV1_0": 1e-5, "PV1_1": 1.0, "PV1_2": 1e-5, "PV2_0": 0.0, "PV2_1": 1.0, "PV2_2": 0.0},
        "ok",
        "PV_ON_TAN",
        "ok",
    ),
    (
        "H089",
        {
            "CTYPE1": "RA---TAN-SIP",
            "CTYPE2": "DEC--TAN-SIP",
            "A_ORDER": 2,
            "B_ORDER": 2,
            "A_2_0": 1e-6,
            "PV1_1": 1.0,
        },
        "degraded",
        "PV_DROPPED",
        "ok",
    ),
    ("H090", {"CD1_1": 0.0, "CD2_2": 0.0}, "degraded", "NO_WCS", "NO_WCS"),
    ("H091", {"CD2_2": None}, "degraded", "NO_WCS", "NO_WCS"),
    ("H092", {"CD1_2": None, "CD2_1": None}, "ok", "", "ok"),
    ("H093", {"CRVAL1": "10:00:00"}, "ok", "SEXAGESIMAL", "ok"),
    ("H094", {"CRVAL1": 10.0}, "degraded", "WCS_POINTING", "WCS_POINTING"),
    ("H095", {"CRVAL1": 1e300}, "degraded", "NO_WCS", "NO_WCS"),
    ("H095b", {"CRVAL1": -10.0, "RA": 350.0}, "ok", "", "ok"),
    ("H096", {"CRVAL2": 95.0}, "degraded", "NO_WCS", "NO_WCS"),
    ("H097", {**_CDELT, "CDELT1": -1.0, "CDELT2": 1.0}, "degraded", "WCS_SCALE", "WCS_SCALE"),
    ("H098", {"CUNIT1": "arcsec", "CUNIT2": "arcsec"}, "degraded", "WCS_SCALE", "WCS_SCALE"),
    ("H099", {"CUNIT1": "degs"}, "degraded", "NO_WCS", "NO_WCS"),
    ("H100", {"CRPIX1": None}, "degraded", "NO_WCS", "NO_WCS"),
    ("H101", {"CTYPE1": "RA--TAN"}, "degraded", "NO_WCS", "NO_WCS"),
    ("H102", {"CTYPE2": "DEC--SIN"}, "degraded", "NO_WCS", "NO_WCS"),
    ("H102b", {"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, "degraded", "NO_WCS", "NO_WCS"),
    (
        "H103",
        {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.0, "CRVAL2": 150.0},
        "ok",
        "",
        "ok",
    ),
    (
        "H104",
        {"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR", "RADESYS": None, "RA": None, "DEC": None},
        "ok",
        "FRAME",
        "ok",
    ),
    ("H105", {"A_ORDER": 2, "A_2_0": 1e-6}, "degraded", "NO_WCS", "NO_WCS"),
    (
        "H106",
        {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2},
        "ok",
        "",
        "ok",
    ),
    ("H107", {"LONPOLE": 0.0}, "ok", "", "ok"),
    ("H108", {"RADESYS": None, "EQUINOX": 1950.0}, "ok", "FRAME", "ok"),
    (
        "H108b",
        {"RADESYS": None, "RADECSYS": "FK4", "EQUINOX": 1950.0},
        "ok",
        "FRAME",
        "ok",
    ),
    ("H108c", {"RADESYS": "MYFRAME"}, "degraded", "WCS_MIXED", "ok"),
    ("H109", {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"}, "ok", "", "ok"),
    ("H109b", {"CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN"}, "degraded", "NO_WCS", "NO_WCS"),
    ("H110", {"WCSAXES": 3}, "ok", "", "ok"),
    ("H111", {"CRVAL1": 359.999, "RA": 0.001}, "ok", "", "ok"),
    ("H111b", {"CRVAL2": 89.999, "DEC": 89.9}, "ok", "", "ok"),
    ("H111c", {"CRVAL2": -89.999, "DEC": -89.9}, "ok", "", "ok"),
    (
        "H114",
        {"CTYPE1": None, "CTYPE2": None, "CTYPE1A": "RA---TAN", "CTYPE2A": "DEC--TAN"},
        "degraded",
        "NO_WCS",
        "NO_WCS",
    ),
]


@pytest.mark.parametrize(
    ("cards", "verdict", "code", "wcs"), [c[1:] for c in WCS_CASES], ids=[c[0] for c in WCS_CASES]
)
def test_world_coordinates_are_believed_only_if_sane(
    cards: dict[str, Any], verdict: str, code: str, wcs: str, maker: Any, rows_of: Any
) -> None:
    maker.base(**{**PLAIN, **cards})
    (row,) = rows_of(maker)
    told = f"{row['verdict']} {row['code']} | {row['message']} | {row['fixes']}"
    assert (row["verdict"], row["wcs"]) == (verdict, wcs), told
    if verdict == "ok":
        assert re.findall(r"[A-Z_]{5,}", row["fixes"].split(" ")[0]) == ([code] if code else []), (
            told
        )
    else:
        assert row["code"] == code, told


# --- several files ----------------------------------------------------------------


def test_h038_cut_file_that_is_young_is_growing(maker: Any, rows_of: Any) -> None:
    _cut(maker, 2880 + 8000)
    assert rows_of(maker)[0]["code"] == "TRUNCATED"
    assert rows_of(maker, settle_s=3600.0)[0]["code"] == "GROWING"


def test_h035_compressed_bomb_stops_at_the_limit(maker: Any, rows_of: Any) -> None:
    _written(maker, gzip.compress(bytes(20_000_000)), "x.fits.gz")
    (row,) = rows_of(maker, max_file_mb=5)
    assert (row["code"], row["verdict"]) == ("TOO_LARGE", "rejected")


def test_h037_very_long_header_is_flagged_and_read(maker: Any, rows_of: Any) -> None:
    header = maker.header()
    for number in range(1200):
        header.add_comment(f"line {number}")
    fits.PrimaryHDU(maker.pixels(), header).writeto(maker.path)
    assert rows_of(maker)[0]["verdict"] == "ok"
    assert rows_of(maker, max_cards=1000)[0]["code"] == "HEADER_LARGE"


def test_h034_wrong_checksum_may_be_a_flag(maker: Any, rows_of: Any) -> None:
    _checksum(maker)
    assert rows_of(maker, checksum="flag")[0]["verdict"] == "degraded"


def test_h068_equal_times_are_flagged(maker: Any, rows_of: Any) -> None:
    for name in "ab":
        maker.base(path=maker.folder / f"{name}.fits")
    first, second = rows_of(maker)
    assert (first["code"], second["code"]) == ("", "DUPLICATE_TIME")


def test_h082_night_does_not_break_at_utc_midnight(maker: Any, rows_of: Any) -> None:
    for number, text in enumerate(
        ("2024-01-02T23:50:00", "2024-01-03T00:10:00", "2024-01-03T13:00:00")
    ):
        maker.base(path=maker.folder / f"{number}.fits", DATE__OBS=text, IMAGETYP="Flat Field")
    assert [row["night"] for row in rows_of(maker)] == ["2024-01-02"] * 3


def test_h169_h170_copies_are_rejected_whatever_their_compression(maker: Any, rows_of: Any) -> None:
    maker.base(path=maker.folder / "b.fits")
    content = (maker.folder / "b.fits").read_bytes()
    (maker.folder / "a.fits").write_bytes(content)
    (maker.folder / "c.fits.gz").write_bytes(gzip.compress(content))
    assert [row["code"] for row in rows_of(maker)] == ["", "DUPLICATE", "DUPLICATE"]


def test_h169_a_broken_file_is_no_original(maker: Any, rows_of: Any) -> None:
    maker.base(path=maker.folder / "a.fits", EXPTIME=-1.0)
    maker.base(maker.pixels(), path=maker.folder / "b.fits")
    first, second = rows_of(maker)
    assert (first["code"], second["code"]) == ("BAD_EXPTIME", "")


def test_h172_equal_pixels_under_another_header_are_flagged(maker: Any, rows_of: Any) -> None:
    data = maker.pixels()
    maker.base(data, path=maker.folder / "a.fits")
    maker.base(data, path=maker.folder / "b.fits", OBJECT="other", DATE__OBS="2024-01-02T04:00:00")
    assert [row["code"] for row in rows_of(maker)] == ["", "DUPLICATE_PIXELS"]


def test_h171_h176_equal_names_and_times_of_two_cameras_are_two_frames(
    maker: Any, rows_of: Any
) -> None:
    for folder, camera in (("one", "red arm"), ("two", "blue arm")):
        maker.base(path=maker.folder / folder / "x.fits", INSTRUME=camera)
    first, second = rows_of(maker)
    assert first["frame_id"] != second["frame_id"]
    assert {first["verdict"], second["verdict"]} == {"ok"}
    assert (first["detector"], second["detector"]) == ("red_arm", "blue_arm")


def test_h152_light_that_looks_like_bias_is_flagged(maker: Any, rows_of: Any) -> None:
    for number in range(4):
        maker.base(
            maker.pixels(300, 4),
            path=maker.folder / f"b{number}.fits",
            IMAGETYP="Bias Frame",
            EXPTIME=0.0,
        )
    maker.base(maker.pixels(300, 4), path=maker.folder / "dark_sky.fits")
    maker.base(
        maker.pixels(340, 7), path=maker.folder / "sky.fits", DATE__OBS="2024-01-02T04:00:00"
    )
    codes = {row["path"]: row["code"] for row in rows_of(maker)}
    assert (codes["dark_sky.fits"], codes["sky.fits"], codes["b0.fits"]) == ("NO_SKY", "", "")


def test_h134_half_size_frame_with_the_same_binning_is_flagged(maker: Any, rows_of: Any) -> None:
    maker.base(path=maker.folder / "a.fits")
    maker.base(
        maker.pixels(shape=(50, 50)), path=maker.folder / "b.fits", DATE__OBS="2024-01-02T04:00:00"
    )
    assert [row["code"] for row in rows_of(maker)] == ["", "BINNING_CONFLICT"]


@pytest.mark.parametrize(
    "text",
    [
        "../../x",
        "/abs/path",
        "NGC 1234",
        "$(rm x)",
        "`id`",
        "; ls | a > b",
        "-rf",
        "--config",
        "{input}",
        "%s",
        "$HOME",
        "",
        "   ",
        ".",
        "..",
        "con",
        "nul",
        "=1+1",
        "<script>",
        'a"b',
        "no",
        "1e3",
        "[",
        "*" * 60,
    ],
)
def test_h178_to_h189_header_text_never_becomes_a_path(text: str, maker: Any, rows_of: Any) -> None:
    maker.base(OBJECT=text, FILTER=text or "R")
    (row,) = rows_of(maker)
    for name in ("target", "filter", "frame_id"):
        assert re.fullmatch(r"([A-Za-z0-9_+][A-Za-z0-9._+-]{0,72})?", row[name]), row[name]
    assert row["target"].lower() not in ("con", "nul", ".", "..", "")
    if re.search(r"[^A-Za-z0-9 ]", text):
        assert row["target"] != text


def test_h183_control_characters_do_not_reach_the_sheet(maker: Any, rows_of: Any) -> None:
    maker.base()
    maker.card(b"OBJECT  = 'a\nERROR \x1b[31m \x00 b'")
    (row,) = rows_of(maker)
    assert row["object"] == "a ERROR [31m b"
    assert not re.search(r"[\x00-\x1f]", "".join(str(v) for v in row.values()))


# --- file system ------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_h191_h192_unreadable_file_and_folder(maker: Any, rows_of: Any) -> None:
    maker.base()
    maker.path.chmod(0)
    (maker.folder / "closed").mkdir(mode=0)
    codes = {row["path"]: row["code"] for row in rows_of(maker)}
    assert codes == {"x.fits": "UNREADABLE", "closed": "UNREADABLE_DIR"}


def test_h192_unreadable_folder_is_told(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from skymill.ingest import ingest, scan, summary

    maker.base()
    (maker.folder / "closed").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(scan.os, "scandir", scandir)
    found = ingest(maker.folder)
    assert found.unreadable_dirs == ["closed"]
    assert [row["code"] for row in found.rows] == ["UNREADABLE_DIR", ""]
    assert "closed" in summary(found)


def test_h193_links_are_followed_only_inside_or_on_request(maker: Any, rows_of: Any) -> None:
    outside = maker.folder.parent / "outside"
    maker.base(path=outside / "far.fits")
    (maker.folder / "away.fits").symlink_to(outside / "far.fits")
    (maker.folder / "dangling.fits").symlink_to(maker.folder / "nothing")
    (maker.folder / "loop.fits").symlink_to(maker.folder / "loop.fits")
    (maker.folder / "round").symlink_to(maker.folder)
    assert {row["code"] for row in rows_of(maker)} == {"BAD_LINK"}
    assert len(rows_of(maker)) == 4
    followed = {row["path"]: row["code"] for row in rows_of(maker, follow_links=True)}
    assert followed == {"away.fits": "", "dangling.fits": "BAD_LINK", "loop.fits": "BAD_LINK"}


def test_h194_pipes_and_folders_never_block(maker: Any, rows_of: Any) -> None:
    os.mkfifo(maker.folder / "pipe.fits")
    (maker.folder / "folder.fits").mkdir()
    assert [row["code"] for row in rows_of(maker)] == ["NOT_A_FILE", "NOT_A_FILE"]


def test_h195_h196_odd_names_are_accepted_or_rejected(maker: Any, rows_of: Any) -> None:
    maker.base(path=maker.folder / '- it\'s "a" {name}.fits')
    maker.base(path=maker.folder / f"{'a' * 245}.fits", DATE__OBS="2024-01-02T04:00:00")
    for name in (b"new\nline.fits", b"latin\xe9.fits"):
        odd = maker.folder / os.fsdecode(name)
        odd.write_bytes((maker.folder / '- it\'s "a" {name}.fits').read_bytes())
    rows = rows_of(maker)
    assert sorted(row["code"] for row in rows) == ["", "", "BAD_NAME", "BAD_NAME"]
    for row in rows:
        row["path"].encode("utf-8")
        assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9._+-]*", row["frame_id"])
        assert len(row["frame_id"]) <= 73


def test_h198_h199_file_that_vanishes_or_changes_is_told_at_reading(
    maker: Any, rows_of: Any
) -> None:
    from skymill.errors import FrameRejected
    from skymill.io_raw import read_raw

    maker.base()
    (row,) = rows_of(maker)
    data, _ = read_raw(maker.path, 0, row["sha256"])
    assert data.shape == (100, 100)
    content = bytearray(maker.path.read_bytes())
    content[-3000] ^= 1
    maker.path.write_bytes(content)
    with pytest.raises(FrameRejected, match="CHANGED"):
        read_raw(maker.path, 0, row["sha256"])
    maker.path.unlink()
    with pytest.raises(FrameRejected, match="VANISHED"):
        read_raw(maker.path, 0, row["sha256"])


# --- policy -----------------------------------------------------------------------


def test_nothing_is_lost_in_a_mixed_folder(maker: Any, rows_of: Any) -> None:
    """O2."""
    n_good = 30
    for number in range(n_good):
        maker.base(
            maker.pixels(),
            path=maker.folder / f"good{number:02d}.fits",
            DATE__OBS=f"2024-01-02T03:{number:02d}:00",
        )
    bad = [case for case in CASES if case[2] == "rejected" and case[0] < "H041"]
    for name, build, _, _ in bad:
        inner = type(maker)(maker.folder / name)
        inner.folder.mkdir()
        build(inner)
    rows = rows_of(maker)
    assert len(rows) == n_good + len(bad)
    assert [row["verdict"] for row in rows if row["path"].startswith("good")] == ["ok"] * n_good
    expected = {name: code for name, _, _, code in bad}
    assert {
        row["path"].split("/")[0]: row["code"] for row in rows if "/" in row["path"]
    } == expected


def test_random_damage_never_raises(maker: Any, rows_of: Any) -> None:
    maker.base()
    content = maker.path.read_bytes()
    maker.path.unlink()
    rng = np.random.default_rng(7)
    n_files = 300
    for number in range(n_files):
        spoilt = bytearray(content)
        for _ in range(int(rng.integers(1, 12))):
            spoilt[int(rng.integers(0, 2880))] = int(rng.integers(0, 256))
        (maker.folder / f"{number:04d}.fits").write_bytes(spoilt)
    rows = rows_of(maker)
    assert len(rows) == n_files
    assert all(row["verdict"] in ("ok", "degraded", "rejected") for row in rows)
    assert all(row["message"] and row["code"] for row in rows if row["verdict"] != "ok")


def test_raw_files_are_never_written(maker: Any, rows_of: Any) -> None:
    maker.base(EXPTIME="30s")
    before = (maker.path.read_bytes(), maker.path.stat().st_mtime_ns)
    rows_of(maker)
    assert (maker.path.read_bytes(), maker.path.stat().st_mtime_ns) == before
    assert [p.name for p in maker.folder.iterdir()] == ["x.fits"]
