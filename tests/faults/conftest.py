"""Makers of bad files for the hazard tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from astropy.io import fits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK = 2880


class Maker:
    """Writes one file and spoils it.

    The frame is sound before it is spoilt: a light frame of 100 x 100 pixels whose header
    leaves nothing to repair, so that whatever ingest reports is due to the fault.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "x.fits"
        self.rng = np.random.default_rng(20260112)

    def pixels(self, level: float = 1000.0, noise: float = 12.0, shape: Any = (100, 100)) -> Any:
        """Return a noisy sky."""
        return np.clip(np.round(self.rng.normal(level, noise, shape)), 0, 65535).astype(np.uint16)

    def header(self, **cards: Any) -> fits.Header:
        """Return the cards of a light frame; None deletes one."""
        header = fits.Header()
        header["IMAGETYP"] = "Light Frame"
        header["INSTRUME"] = "test camera"
        header["OBJECT"] = "field one"
        header["FILTER"] = "R"
        header["EXPTIME"] = 30.0
        header["DATE-OBS"] = "2024-01-02T03:04:05.000"
        header["GAIN"] = (1.5, "[electron/ADU]")
        header["RDNOISE"] = 5.0
        header["SATURATE"] = 60000
        header["SITELAT"] = 30.0
        header["SITELONG"] = -110.0
        header["SITEELEV"] = 2000.0
        for key, value in cards.items():
            name = key.replace("__", "-")
            if value is None:
                header.remove(name, ignore_missing=True)
            else:
                header[name] = value
        return header

    def base(self, data: Any = None, path: Path | None = None, **cards: Any) -> Path:
        """Write the sound frame, with other pixels or cards."""
        data = self.pixels() if data is None else data
        path = path or self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(data, self.header(**cards)).writeto(path, output_verify="ignore")
        return path

    def raw(self, old: bytes, new: bytes) -> None:
        """Replace bytes of equal length, once."""
        content = self.path.read_bytes()
        assert len(old) == len(new) and content.count(old) >= 1, (old, content[:BLOCK])
        self.path.write_bytes(content.replace(old, new, 1))

    def card(self, text: str | bytes) -> None:
        """Replace the card of the same keyword, or the last blank one, by this text."""
        line = (text if isinstance(text, bytes) else text.encode("ascii")).ljust(80)
        assert len(line) == 80
        content = bytearray(self.path.read_bytes())
        key = line[:8]
        for start in range(0, len(content), 80):
            if content[start : start + 8] == key:
                content[start : start + 80] = line
                self.path.write_bytes(content)
                return
            if content[start : start + 8] == b"END     ":
                assert (start + 80) % BLOCK, "no room in the header block"
                content[start + 80 : start + 160] = content[start : start + 80]
                content[start : start + 80] = line
                self.path.write_bytes(content)
                return
        raise AssertionError("no END card")


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """A maker in an empty raw folder."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return Maker(folder)


@pytest.fixture
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    """Return a function that ingests the folder of a maker."""
    from skymill.ingest import ingest

    def run(maker: Maker, **settings: Any) -> list[dict[str, Any]]:
        return list(ingest(maker.folder, **settings).rows)

    return run
