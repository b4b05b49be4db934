"""Small valid raw files of many kinds, and seeded ways to spoil them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Seed", "mutant", "seeds"]

BLOCK, CARD = 2880, 80
SHAPE = (20, 24)
Rng = np.random.Generator


@dataclass(frozen=True)
class Seed:
    """A valid file.

    Parameters
    ----------
    name : str
        What it stands for.
    content : bytes
        The file.
    heads : tuple of (int, int)
        Begin and end (first byte after the END card) of each header.
    data : tuple of (int, int)
        Begin and end of the pixels of each unit.
    """

    name: str
    content: bytes
    heads: tuple[tuple[int, int], ...]
    data: tuple[tuple[int, int], ...]


_COMMON: dict[str, Any] = {
    "IMAGETYP": "Light Frame",
    "INSTRUME": "test camera",
    "OBJECT": "field one",
    "FILTER": "R",
    "EXPTIME": 30.0,
    "DATE-OBS": "2024-01-02T03:04:05.000",
    "GAIN": 1.5,
    "RDNOISE": 5.0,
    "SATURATE": 60000,
    "SITELAT": 30.0,
    "SITELONG": -110.0,
    "SITEELEV": 2000.0,
    "RA": 150.01,
    "DEC": 2.01,
}
_WCS: dict[str, Any] = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 12.5,
    "CRPIX2": 10.5,
    "CD1_1": -2.8e-4,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 2.8e-4,
    "RADESYS": "ICRS",
}
#: Headers as programs and observatories write them (only the keywords that matter).
_VENDORS: dict[str, dict[str, Any]] = {
    "maxim": {
        "INSTRUME": "SBIG STX-16803", "IMAGETYP": "Light Frame", "SWCREATE": "MaxIm DL 6.26",
        "EXPTIME": 30.0, "EXPOSURE": 30.0, "SET-TEMP": -20.0, "CCD-TEMP": -19.9, "XBINNING": 1,
        "YBINNING": 1, "XORGSUBF": 0, "YORGSUBF": 0, "READOUTM": "Normal", "EGAIN": 1.3,
        "OBJCTRA": "10 00 00", "OBJCTDEC": "+02 00 00", "PEDESTAL": -100, "CALSTAT": "",
        "JD": 2460311.627, "BAYERPAT": None,
    },
    "nina": {
        "SWCREATE": "N.I.N.A. 3.1", "IMAGETYP": "LIGHT", "GAIN": 120, "OFFSET": 30, "EGAIN": 0.8,
        "CCD-TEMP": -10.0, "SET-TEMP": -10.0, "XPIXSZ": 3.76, "READOUTM": "High Gain",
        "ROWORDER": "TOP-DOWN", "FOCTEMP": 4.4, "USBLIMIT": 40,
    },
    "sharpcap": {
        "SWCREATE": "SharpCap v4.1", "EXPTIME": 5.0, "GAIN": 250, "BLKLEVEL": 10, "CAMERA": "ASI",
        "INSTRUME": "ZWO ASI294MM", "DATE-OBS": "2024-01-02T03:04:05.1234567",
        "DATE-END": "2024-01-02T03:04:10.1234567", "CCD-TEMP": "-10.1",
    },
    "indi": {
        "INSTRUME": "CCD Simulator", "FRAME": "Light", "IMAGETYP": None, "SWCREATE": "KStars 3.6",
        "XPIXSZ": 5.2, "XBINNING": 1, "YBINNING": 1, "CCD-TEMP": -9.7, "GAIN": 1.0,
        "OBJCTRA": "10 00 00.00", "OBJCTDEC": " 2 00 00.00",
    },
    "sbig": {
        "INSTRUME": "SBIG ST-7 Dual CCD Camera", "SWCREATE": "CCDOPS 5.4", "IMAGETYP": None,
        "EXPTIME": 60.0, "EGAIN": 2.3, "DATE-OBS": "02/01/99", "TIME-OBS": "03:04:05",
        "SBUUID": "{x}", "DATAMAX": 65535, "CBLACK": 100, "CWHITE": 900, "XPIXSZ": 9.0,
    },
    "lco": {
        "ORIGIN": "LCOGT", "TELID": "1m0a", "INSTRUME": "fa15", "OBSTYPE": "EXPOSE",
        "IMAGETYP": None, "CCDSUM": "1 1", "TRIMSEC": "[1:20,1:20]", "BIASSEC": "[21:24,1:20]",
        "CONFMODE": "full_frame", "CCDATEMP": -100.0, "RDNOISE": 7.8, "MAXLIN": 45000,
        "DATE-OBS": "2024-01-02T03:04:05.000", "UTSTART": "03:04:05.000", "RLEVEL": 0,
    },
    "noao": {
        "IMAGETYP": "object", "OBSTYPE": "object", "DETECTOR": "Mosaic", "CCDSUM": "1 1",
        "DATASEC": "[1:20,1:20]", "BIASSEC": "[21:24,1:20]", "TRIMSEC": "[1:20,1:20]",
        "CCDSEC": "[1:20,1:20]", "DETSEC": "[20:1,1:20]", "AMPSEC": "[20:1,1:20]",
        "TIME-OBS": "03:04:05.0", "DATE-OBS": "2024-01-02", "RADECSYS": "FK5", "EQUINOX": 2000.0,
        "FILTER1": "Open", "FILTER2": "R",
    },
    "eso": {
        "INSTRUME": "EFOSC", "IMAGETYP": None, "FILTER": None, "OBJECT": "NGC 1234",
        "MJD-OBS": 60311.1278356, "HIERARCH ESO DPR TYPE": "OBJECT",
        "HIERARCH ESO DPR CATG": "SCIENCE", "HIERARCH ESO INS FILT1 NAME": "R#642",
        "HIERARCH ESO DET OUT1 CONAD": 1.1, "HIERARCH ESO DET OUT1 RON": 9.0,
        "HIERARCH ESO DET WIN1 BINX": 2, "HIERARCH ESO TEL GEOLON": -70.7,
        "HIERARCH ESO TEL GEOLAT": -29.2, "HIERARCH ESO TEL GEOELEV": 2335.0,
    },
    "decam": {
        "INSTRUME": "DECam", "OBSTYPE": "object", "IMAGETYP": None, "DETSIZE": "[1:24,1:20]",
        "FILTER": "r DECam SDSS c0002 6415.0 1480.0", "CCDNUM": 3, "CCDSUM": "1 1",
        "DATASECA": "[1:10,1:20]", "DATASECB": "[13:22,1:20]", "BIASSECA": "[11:12,1:20]",
        "BIASSECB": "[23:24,1:20]", "GAINA": 4.0, "GAINB": 4.1, "RDNOISEA": 6.0, "RDNOISEB": 6.1,
        "SATURATA": 40000.0, "SATURATB": 41000.0, "DETSECA": "[1:10,1:20]",
        "DETSECB": "[11:20,1:20]", "TIMESYS": "TAI",
    },
    "tess": {
        "TIMESYS": "TDB", "DATE-OBS": None, "MJD-OBS": 60311.1278356, "EXPTIME": "30s",
        "FILTER": "caf", "OBJECT": "TW Hya",
    },
}  # fmt: skip


def _header(**cards: Any) -> fits.Header:
    header = fits.Header()
    for key, value in (_COMMON | cards).items():
        if value is not None:
            header[key] = value
    return header


def _seed(name: str, *hdus: Any) -> Seed:
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream, output_verify="ignore", checksum=name == "checksum")
    content = stream.getvalue()
    heads, data = [], []
    with fits.open(io.BytesIO(content), disable_image_compression=True) as opened:
        for hdu in opened:
            where = hdu.fileinfo()
            end = content.index(b"END".ljust(CARD), where["hdrLoc"]) + CARD
            heads.append((where["hdrLoc"], end))
            data.append((where["datLoc"], where["datLoc"] + where["datSpan"]))
    return Seed(name, content, tuple(heads), tuple(data))


def seeds() -> list[Seed]:
    """Return valid files: forms of pixels and containers, kinds of frames, vendors."""
    rng = np.random.default_rng(20260112)

    def sky(*shape: int, level: float = 1000.0) -> Any:
        return rng.normal(level, 12, shape or SHAPE).round().astype(np.uint16)

    def one(name: str, data: Any, **cards: Any) -> Seed:
        return _seed(name, fits.PrimaryHDU(data, _header(**cards)))

    found = [
        one("plain", sky()),
        one("wcs", sky(), **_WCS),
        one("sip", sky(), **_WCS, A_ORDER=2, B_ORDER=2, A_2_0=1e-6, PV1_1=1.0),
        one("fk4", sky(), **(_WCS | {"RADESYS": "FK4", "EQUINOX": 1950.0})),
        one("float", sky().astype(np.float32)),
        one("double", sky().astype(np.float64)),
        one("int32", sky().astype(np.int32)),
        one("bytes", (sky() % 256).astype(np.uint8), BLANK=3),
        one("bias", sky(level=300), IMAGETYP="Bias Frame", EXPTIME=0.0),
        one("dark", sky(level=310), IMAGETYP="Dark Frame"),
        one("flat", sky(level=30000), IMAGETYP="Flat Field"),
        one("plane", sky(1, *SHAPE)),
        one("cube", sky(4, *SHAPE)),
        one("rgb", sky(3, *SHAPE)),
        one("cfa", sky(40, 48), BAYERPAT="RGGB", XBAYROFF=0, YBAYROFF=0, ROWORDER="TOP-DOWN"),
        one("checksum", sky()),
        _seed("mef", fits.PrimaryHDU(header=_header()),
              *(fits.ImageHDU(sky(), fits.Header({"EXTNAME": f"im{i}", "CCDSEC": "[1:24,1:20]"}))
                for i in (1, 2))),
        _seed("lco4", fits.PrimaryHDU(header=_header(**(_VENDORS["lco"] | {"TRIMSEC": None}))),
              *(fits.ImageHDU(sky(), fits.Header({"EXTNAME": "SCI", "DATASEC": "[1:20,1:20]",
                                                  "BIASSEC": "[21:24,1:20]", "DETSEC": place}))
                for place in ("[1:20,1:20]", "[40:21,1:20]", "[40:21,40:21]", "[1:20,40:21]"))),
        _seed("extension", fits.PrimaryHDU(header=_header()), fits.ImageHDU(sky())),
        _seed("table", fits.PrimaryHDU(sky(), _header()),
              fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(5))])),
        _seed("fz", fits.PrimaryHDU(), fits.CompImageHDU(sky(), _header())),
        _seed("fz_float", fits.PrimaryHDU(),
              fits.CompImageHDU(sky().astype(np.float32), _header(), quantize_level=8)),
    ]  # fmt: skip
    return found + [one(name, sky(), **cards) for name, cards in _VENDORS.items()]


_NUMBERS = [
    "0", "-1", "1", "2", "3", "7", "24", "-32", "999", "1000000", "2147483648", "-2147483649",
    "9223372036854775808", "1" * 60, "-" + "9" * 40, "1E308", "1E999", "-1E-300", "NaN", "inf",
    "-Infinity", "1.0D400", "0x10", "1_000", "30,0", "1e", "+", "-0.0", "T", "F", "65535", "1E15",
]  # fmt: skip
_TEXTS: list[bytes] = [
    b"../../etc/x", b"/abs/path", b"..", b".", b"", b" ", b"con", b"NUL", b"-rf", b"--config",
    b"$(rm x)", b"`id`", b"; ls | a > b", b"{input}", b"{}", b"%s%n", b"$HOME", b"=1+1", b"@x",
    b"<script>", b'a"b', b"no", b"null", b"1e3", b"[", b"a\nERROR", b"a\rb", b"\x00", b"\x1b[31m",
    b"\xff\xfe", b"caf\xe9", "\u202egnp".encode(), "M31\u200b".encode(), "\U0001f300".encode(),
    "e\u0301".encode(), b"x" * 66, b"''''", b"it's", b"2024-02-30T00:00:00", b"24:00:00",
    b"99/99/99", b"0000-00-00", b"9999-12-31T23:59:60.999", b"0001-01-01T00:00:00",
    b"2024-01-02T03:04:05+99:99",
    b"12:34:56", b"[1:10,1:10]", b"[0:50,1:100]", b"[20:1,20:1]", b"[1:99999999999,1:2]", b"RGGB",
    b"BGXX", b"2 2", b"RGBW", b"GGRGGBGGBGGR", b"BOTTOM-UP", b"[40:1,1:20]",
    b"0x0", b"-5 999999999999", b"Bias Frame", b"Dark", b"flat", b"zero", b"object",
    b"arcsec", b"rad", b"RA---TAN", b"DEC--TAN", b"RA---ZPN", b"GLON-CAR", b"ELON-TAN", b"RA---TPV",
    b"FK4", b"FK5", b"GALACTIC", b"TDB", b"GPS", b"LOCAL", b"UT1", b"10:00:00", b"-90:00:00",
    b"S 91", b"nan", b"inf", b"1" * 50, b"+1e999",
]  # fmt: skip
_KEYS = [
    *_COMMON, *_WCS, "BZERO", "BSCALE", "BLANK", "CHECKSUM", "DATASUM", "PCOUNT", "GCOUNT",
    "GROUPS", "EXTEND", "INHERIT", "EXTNAME", "CCDSUM", "XBINNING", "YBINNING", "BINNING",
    "DATASEC", "BIASSEC", "TRIMSEC", "CCDSEC", "DETSEC", "XORGSUBF", "BAYERPAT", "XBAYROFF",
    "ROWORDER", "TIMESYS",
    "MJD-OBS", "JD", "TIME-OBS", "UT", "DATE", "AIRMASS", "CCD-TEMP", "SET-TEMP", "EGAIN", "OFFSET",
    "READOUTM", "CALSTAT", "SWCREATE", "PEDESTAL", "CDELT1", "CDELT2", "CROTA2", "PC1_1", "PC1_2",
    "LONPOLE", "LATPOLE", "WCSAXES", "CUNIT1", "CUNIT2", "EQUINOX", "EPOCH", "A_ORDER", "B_ORDER",
    "A_2_0", "B_0_2", "AP_ORDER", "PV1_0", "PV1_1", "PV2_1", "PV1_39", "CTYPE3", "NAXIS3", "NAXIS4",
    "ZIMAGE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZCMPTYPE", "ZTILE1", "ZQUANTIZ", "TFIELDS", "TFORM1",
    "SMSTEP", "NCOMBINE", "HISTORY", "COMMENT", "CONTINUE", "END", "SIMPLE", "XTENSION", "",
    "ESO DPR TYPE", "OBSTYPE", "FRAME", "FILTER1", "FILTER2", "INSTRUME", "ORIGIN", "TELESCOP",
]  # fmt: skip
_SHAPE_KEYS = (b"NAXIS   ", b"NAXIS1  ", b"NAXIS2  ", b"BITPIX  ", b"PCOUNT  ", b"NAXIS3  ",
               b"GCOUNT  ", b"TFORM1  ", b"ZNAXIS1 ", b"ZNAXIS2 ", b"ZBITPIX ", b"ZTILE1  ",
               b"ZTILE2  ", b"THEAP   ", b"TFIELDS ")  # fmt: skip


def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _value(rng: Rng) -> bytes:
    """Return the value part of a card: a number or a text, sometimes badly quoted."""
    if rng.random() < 0.45:
        return str(_pick(rng, _NUMBERS)).rjust(int(rng.integers(0, 21))).encode()
    text = _pick(rng, _TEXTS)
    form = rng.random()
    if form < 0.7:
        return b"'" + text + b"'"
    return b"'" + text if form < 0.85 else bytes(text)


def _card(rng: Rng, key: bytes | None = None) -> bytes:
    if key is None:
        name = _pick(rng, _KEYS)
        key = f"HIERARCH {name} ".encode() if " " in name else name.encode().ljust(8)
    sign = _pick(rng, (b"= ", b"= ", b"= ", b"= ", b"=", b"  "))
    comment = _pick(rng, (b"", b"", b" / [ms]", b" / [deg]", b" /", b" / \xb5s"))
    return bytes((key + sign + _value(rng) + comment)[:CARD].ljust(CARD))


def _cards_of(seed: Seed, rng: Rng) -> tuple[int, int]:
    """Return begin of the cards and number of cards of one header, END excluded."""
    begin, end = _pick(rng, seed.heads)
    return begin, (end - begin) // CARD - 1


def _where(seed: Seed, rng: Rng, *, keep_first: bool = True) -> int:
    begin, number = _cards_of(seed, rng)
    return begin + CARD * int(rng.integers(1 if keep_first and rng.random() < 0.9 else 0, number))


def _put(content: bytearray, where: int, card: bytes) -> None:
    content[where : where + len(card)] = card


def _flip_header(content: bytearray, seed: Seed, rng: Rng) -> None:
    begin, end = _pick(rng, seed.heads)
    for _ in range(int(rng.integers(1, 12))):
        content[int(rng.integers(begin, end))] = int(rng.integers(256))


def _flip_any(content: bytearray, _seed: Seed, rng: Rng) -> None:
    for _ in range(int(rng.integers(1, 40))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))


def _swap(content: bytearray, seed: Seed, rng: Rng) -> None:
    a, b = _where(seed, rng), _where(seed, rng)
    one, two = bytes(content[a : a + CARD]), bytes(content[b : b + CARD])
    _put(content, a, two)
    _put(content, b, one)


def _shuffle(content: bytearray, seed: Seed, rng: Rng) -> None:
    begin, number = _cards_of(seed, rng)
    cards = [bytes(content[begin + CARD * i : begin + CARD * (i + 1)]) for i in range(number)]
    _put(content, begin, b"".join(cards[i] for i in rng.permutation(number)))


def _copy_card(content: bytearray, seed: Seed, rng: Rng) -> None:
    a, b = _where(seed, rng), _where(seed, rng)
    _put(content, b, bytes(content[a : a + CARD]))


def _inject(content: bytearray, seed: Seed, rng: Rng) -> None:
    for _ in range(int(rng.integers(1, 5))):
        _put(content, _where(seed, rng), _card(rng))


def _absurd(content: bytearray, seed: Seed, rng: Rng) -> None:
    where = _where(seed, rng)
    _put(content, where, _card(rng, bytes(content[where : where + 8])))


def _named(content: bytearray, seed: Seed, rng: Rng) -> None:
    """Give a name that becomes part of paths a hostile value."""
    key = _pick(rng, (b"OBJECT  ", b"FILTER  ", b"INSTRUME", b"READOUTM", b"DETECTOR", b"IMAGETYP"))
    begin, number = _cards_of(seed, rng)
    where = content.find(key, begin, begin + CARD * number)
    where = where if where >= 0 and (where - begin) % CARD == 0 else _where(seed, rng)
    _put(content, where, (key + b"= '" + _pick(rng, _TEXTS) + b"'")[:CARD].ljust(CARD))


def _non_ascii(content: bytearray, seed: Seed, rng: Rng) -> None:
    where = _where(seed, rng) + int(rng.integers(0, 40))
    _put(content, where, bytes(rng.integers(128, 256, int(rng.integers(1, 8)), dtype=np.uint8)))


def _structure(content: bytearray, seed: Seed, rng: Rng) -> None:
    key = _pick(rng, _SHAPE_KEYS)
    begin, number = _cards_of(seed, rng)
    where = content.find(key, begin, begin + CARD * number)
    if where < 0 or (where - begin) % CARD:
        where = _where(seed, rng)
    _put(content, where, (key + b"= " + str(_pick(rng, _NUMBERS)).rjust(20).encode()).ljust(CARD))


def _delete(content: bytearray, seed: Seed, rng: Rng) -> None:
    _put(content, _where(seed, rng), _pick(rng, (b"", b"COMMENT")).ljust(CARD))


def _keyword(content: bytearray, seed: Seed, rng: Rng) -> None:
    content[_where(seed, rng) + int(rng.integers(0, 10))] = int(rng.integers(32, 127))


def _pixels(content: bytearray, seed: Seed, rng: Rng) -> None:
    """Fill the pixels, or part of them, with one byte or with noise."""
    begin, end = _pick(rng, seed.data)
    if end <= begin:
        return
    size = int(rng.integers(1, end - begin + 1))
    if rng.random() < 0.5:
        _put(content, begin, bytes([_pick(rng, (0, 0x7F, 0x80, 0xFF))]) * size)
    else:
        _put(content, begin, rng.bytes(size))


def _cut(content: bytearray, _seed: Seed, rng: Rng) -> None:
    if rng.random() < 0.5:
        del content[BLOCK * int(rng.integers(0, len(content) // BLOCK + 1)) :]
    else:
        del content[int(rng.integers(0, len(content))) :]


def _blocks(content: bytearray, _seed: Seed, rng: Rng) -> None:
    """Insert, remove or append a block."""
    where = BLOCK * int(rng.integers(0, len(content) // BLOCK + 1))
    what = rng.random()
    if what < 0.4:
        del content[where : where + BLOCK]
    elif what < 0.7:
        content[where:where] = _pick(rng, (b" ", b"\0", b"XTENSION= 'IMAGE   '".ljust(CARD))) * 2880
    else:
        content += rng.bytes(int(rng.integers(1, 4000)))


_IN_PLACE: list[Callable[[bytearray, Seed, Rng], None]] = [
    _flip_header, _flip_any, _swap, _shuffle, _copy_card, _inject, _inject, _absurd, _absurd,
    _named, _named, _non_ascii, _structure, _delete, _keyword, _pixels,
]  # fmt: skip
_RESIZING: list[Callable[[bytearray, Seed, Rng], None]] = [_cut, _blocks]
_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
}


def mutant(library: list[Seed], seed: int, number: int) -> tuple[str, bytes]:
    """Return the name suffix and the bytes of one spoilt file; the same for the same numbers.

    Parameters
    ----------
    library : list of Seed
        Of `seeds`.
    seed, number : int
        Which series, and which file of it.
    """
    rng = np.random.default_rng([seed, number])
    chosen = library[number % len(library)]
    content = bytearray(chosen.content)
    begin, end = chosen.data[-1]
    if end > begin and not chosen.name.startswith("fz"):
        # Other pixels in each file, lest most be told as copies of the first.
        content[begin + 8 : begin + 12] = number.to_bytes(4, "big")
    # Few faults at a time: a file with many is rejected for the first and tells little.
    for _ in range(min(4, int(rng.geometric(0.6)))):
        _pick(rng, _IN_PLACE)(content, chosen, rng)
    if rng.random() < 0.08:
        _pick(rng, _RESIZING)(content, chosen, rng)
    name, packed = ".fits", bytes(content)
    if rng.random() < 0.08:
        name = _pick(rng, list(_PACKERS))
        packed = _PACKERS[name](packed)
        if rng.random() < 0.5:
            spoilt = bytearray(packed)
            (_flip_any if rng.random() < 0.7 else _cut)(spoilt, chosen, rng)
            packed = bytes(spoilt)
        name = _pick(rng, (f".fits{name}", ".fits", ".fits.gz"))
    return name, packed
