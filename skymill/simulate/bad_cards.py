"""Bad frames whose header is wrong, odd or hostile; the pixels are good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skymill.simulate.bad_kit import DEGRADED, Kit, put_card, recipe
from skymill.simulate.pointing import iso

if TYPE_CHECKING:
    from pathlib import Path

__all__: list[str] = []


def _with_card(kit: Kit, keyword: str, card: bytes | str) -> Path:
    """Write a light frame, one of whose cards is replaced byte by byte."""
    return kit.save(put_card(kit.light().bytes(), keyword, card))


def _with_value(kit: Kit, keyword: str, value: Any) -> Path:
    """Write a light frame with another value; None removes the card."""
    frame = kit.light()
    if value is None:
        del frame.header[keyword]
    else:
        frame.header[keyword] = value
    return kit.save(frame)


@recipe("H041", "SUSPECT_BZERO")
def no_bzero(kit: Kit) -> Path:
    """Unsigned integers whose BZERO card was lost."""
    return _with_card(kit, "BZERO", "COMMENT lost")


@recipe("H045", "DUPLICATE_KEY", good=True)
def duplicate_key(kit: Kit) -> Path:
    """EXPTIME twice; the second value is wrong."""
    wrong = f"EXPTIME = {kit.config.exptime_s + 30:20.1f}"
    return _with_card(kit, "SITEELEV", wrong)


@recipe("H046", "MISSING_EXPTIME")
def undefined_exptime(kit: Kit) -> Path:
    """EXPTIME has no value."""
    return _with_card(kit, "EXPTIME", "EXPTIME =")


@recipe("H047", "MISSING_EXPTIME", "BAD_CARD", "BAD_EXPTIME")
def no_equals(kit: Kit) -> Path:
    """EXPTIME without its equals sign."""
    return _with_card(kit, "EXPTIME", f"EXPTIME   {kit.config.exptime_s:20.1f}")


@recipe("H048", "MISSING_EXPTIME", "BAD_EXPTIME", "BAD_CARD")
def nan_exptime(kit: Kit) -> Path:
    """EXPTIME = NaN."""
    return _with_card(kit, "EXPTIME", "EXPTIME =                  NaN")


@recipe("H049", "DECIMAL_COMMA", good=True)
def decimal_comma(kit: Kit) -> Path:
    """EXPTIME with a decimal comma."""
    value = f"{kit.config.exptime_s:.1f}".replace(".", ",")
    return _with_card(kit, "EXPTIME", f"EXPTIME = {value:>20s}")


@recipe("H050", good=True)
def d_exponent(kit: Kit) -> Path:
    """EXPTIME with a D exponent."""
    return _with_card(kit, "EXPTIME", f"EXPTIME = {kit.config.exptime_s / 10:18.4f}D1")


@recipe("H051", "STRING_NUMBER", good=True)
def string_number(kit: Kit) -> Path:
    """EXPTIME as text with a unit."""
    return _with_value(kit, "EXPTIME", f"{kit.config.exptime_s:g}s")


@recipe("H052", "BAD_EXPTIME", "MISSING_EXPTIME")
def boolean_exptime(kit: Kit) -> Path:
    """EXPTIME = T."""
    return _with_value(kit, "EXPTIME", True)


@recipe("H054", "BAD_CARD", good=True)
def open_quote(kit: Kit) -> Path:
    """OBJECT without its closing quote."""
    return _with_card(kit, "OBJECT", f"OBJECT  = '{kit.config.target}")


@recipe("H055", "NON_ASCII", good=True)
def non_ascii(kit: Kit) -> Path:
    """TELESCOP holds bytes outside ASCII."""
    return _with_card(kit, "TELESCOP", b"TELESCOP= 'T\xe9lescope'")


@recipe("H057", "MISSING_FILTER", "NO_FLAT", statuses=DEGRADED)
def sentinel_filter(kit: Kit) -> Path:
    """FILTER = 'N/A'."""
    return _with_value(kit, "FILTER", "N/A")


@recipe("H058", good=True)
def padded_filter(kit: Kit) -> Path:
    """FILTER with blanks around it."""
    return _with_card(kit, "FILTER", f"FILTER  = '  {kit.band} '")


@recipe("H061", "MISSING_EXPTIME")
def missing_exptime(kit: Kit) -> Path:
    """No EXPTIME."""
    return _with_value(kit, "EXPTIME", None)


@recipe("H061", "MISSING_TIME", "NO_TIME")
def no_time(kit: Kit) -> Path:
    """No DATE-OBS."""
    return _with_value(kit, "DATE-OBS", None)


@recipe("H061", "MISSING_FILTER", "NO_FLAT", statuses=DEGRADED)
def missing_filter(kit: Kit) -> Path:
    """No FILTER."""
    return _with_value(kit, "FILTER", None)


@recipe("H062", good=True)
def bias_without_exptime(kit: Kit) -> Path:
    """A bias frame without EXPTIME."""
    frame = kit.bias()
    del frame.header["EXPTIME"]
    return kit.save(frame)


@recipe("H063", "BAD_EXPTIME")
def bad_exptime(kit: Kit) -> Path:
    """EXPTIME is negative."""
    return _with_value(kit, "EXPTIME", -kit.config.exptime_s)


@recipe("H064", "BIAS_EXPOSURE")
def bias_exposure(kit: Kit) -> Path:
    """A bias frame of 30 s."""
    frame = kit.bias()
    frame.header["EXPTIME"] = 30.0
    return kit.save(frame)


@recipe("H065", "CONFLICT", good=True)
def conflict(kit: Kit) -> Path:
    """EXPTIME and EXPOSURE disagree; EXPTIME is right."""
    return _with_value(kit, "EXPOSURE", 2.0 * kit.config.exptime_s)


@recipe("H069", good=True)
def date_blank(kit: Kit) -> Path:
    """DATE-OBS with a blank instead of T."""
    return _with_value(kit, "DATE-OBS", iso(kit.start).replace("T", " "))


@recipe("H070", "NO_TIME", "MISSING_TIME")
def date_only(kit: Kit) -> Path:
    """DATE-OBS holds the date only."""
    return _with_value(kit, "DATE-OBS", iso(kit.start)[:10])


@recipe("H070", "DATE_PLUS_TIME", good=True)
def split_time(kit: Kit) -> Path:
    """Date in DATE-OBS, time in TIME-OBS."""
    frame = kit.light()
    frame.header["DATE-OBS"], frame.header["TIME-OBS"] = iso(kit.start).split("T")
    return kit.save(frame)


@recipe("H071", "DATE_FORMAT", good=True)
def date_slashes(kit: Kit) -> Path:
    """DATE-OBS with slashes."""
    return _with_value(kit, "DATE-OBS", iso(kit.start).replace("-", "/"))


@recipe("H073", "BAD_TIME")
def bad_time(kit: Kit) -> Path:
    """DATE-OBS on the 30th of February."""
    return _with_value(kit, "DATE-OBS", f"{kit.start.year}-02-30T00:00:00")


@recipe("H076", "CLOCK", "NO_BIAS", "NO_FLAT", "NO_DARK", statuses=DEGRADED)
def clock(kit: Kit) -> Path:
    """DATE-OBS of a clock that was never set."""
    return _with_value(kit, "DATE-OBS", "1970-01-01T00:00:00.000")


@recipe("H117", "NOT_SCIENCE")
def focus(kit: Kit) -> Path:
    """A focus frame."""
    return _with_value(kit, "IMAGETYP", "focus")


@recipe("H121", "IS_MASTER")
def master(kit: Kit) -> Path:
    """A combined bias among the raw frames."""
    frame = kit.bias()
    frame.header["IMAGETYP"] = "Master Bias"
    return kit.save(frame)


@recipe("H122", "ALREADY_CALIBRATED")
def calibrated(kit: Kit) -> Path:
    """CALSTAT says that bias, dark and flat were applied."""
    return _with_value(kit, "CALSTAT", "BDF")


@recipe("H136", "BAD_SECTION")
def bad_section(kit: Kit) -> Path:
    """TRIMSEC counts from zero."""
    ny, nx = kit.config.shape
    return _with_value(kit, "TRIMSEC", f"[0:{nx - 1},0:{ny - 1}]")


@recipe("H180", good=True)
def hostile(kit: Kit) -> Path:
    """OBJECT is a path, a command and a wildcard."""
    return kit.save(kit.light(target="../../$(rm x){wild}"))


@recipe("H187", good=True)
def hostile_html(kit: Kit) -> Path:
    """OBJECT is a script for a browser."""
    return kit.save(kit.light(target="<script>alert(1)</script>"))


@recipe("H222", "NO_FLAT", statuses=("degraded", "rejected", "failed", "blocked"))
def missing_flat(kit: Kit) -> Path:
    """A light frame in a filter without flats."""
    band = next(name for name in ("Halpha", "OIII", "SII") if name not in kit.config.filters)
    return kit.save(kit.light(band=band))
