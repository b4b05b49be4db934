"""A bounded run of the fuzz, and one test for each defect that a long run found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from bench import fuzz
from bench.fuzz_files import mutant, seeds

SEED, NUMBER = 2026, 2000


def test_h214_no_spoilt_file_escapes(tmp_path: Path) -> None:
    """Warnings are errors here: nothing may leak from a harmless header either."""
    tally = fuzz.fuzz(NUMBER, SEED, tmp_path / "work")
    assert tally.done == NUMBER
    assert tally.uncaught == 0, tally.findings[:3]
    usable = tally.verdicts["ok"] + tally.verdicts["degraded"]
    # The run tests little if nearly all files are rejected or nearly none.
    assert 0.1 * NUMBER < usable < 0.7 * NUMBER, tally.verdicts


def test_mutants_are_the_same_again() -> None:
    for number in (0, 17, 1234):
        assert mutant(seeds(), 1, number) == mutant(seeds(), 1, number)
    assert mutant(seeds(), 1, 17) != mutant(seeds(), 2, 17)


def test_unspoilt_files_are_accepted_unless_their_form_is_refused(tmp_path: Path) -> None:
    from skymill.ingest import ingest

    vendors = {"sbig", "lco", "lco4", "noao", "decam", "eso", "indi", "maxim", "nina"}
    refused = {"cube": "CUBE", "rgb": "RGB_CUBE", "mef": "AMBIGUOUS_HDU"}
    for seed in seeds():
        (tmp_path / seed.name).mkdir()
        (tmp_path / seed.name / "x.fits").write_bytes(seed.content)
        rows = ingest(tmp_path / seed.name, min_side_px=8).rows
        for row in rows:
            if seed.name in refused:
                assert row["code"] == refused[seed.name]
            elif row["verdict"] == "rejected":
                # The headers of vendors here are short: not every one tells kind and sections.
                assert seed.name in vendors, (seed.name, row["code"], row["message"])


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ({"target": "../x"}, "target"),
        ({"frame_id": "-x"}, "frame id"),
        ({"message": "a\nb"}, "control"),
        ({"mjd_start": float("nan")}, "nan"),
        ({"verdict": "odd"}, "verdict"),
        ({"path": "other.fits"}, "lost"),
    ],
)
def test_the_check_sees_a_broken_rule(
    change: dict[str, Any], stage: str, maker: Any, rows_of: Any
) -> None:
    maker.base()
    (row,) = rows_of(maker)
    fuzz.check_rows([row], {"x.fits"})
    with pytest.raises(fuzz.Violation, match=stage):
        fuzz.check_rows([{**row, **change}], {"x.fits"})


# --- what long runs found ---------------------------------------------------------


def test_group_counts_beside_an_image_are_refused(maker: Any, rows_of: Any) -> None:
    """PCOUNT = 2 made the data longer than the image: reshape failed."""
    maker.base()
    maker.card("PCOUNT  =                    2")
    assert rows_of(maker)[0]["code"] == "BAD_STRUCTURE"


def test_values_beyond_float32_are_masked_not_raised(maker: Any, rows_of: Any) -> None:
    """A scale of 1e300 overflows the pixels' type."""
    maker.base(maker.pixels().astype(np.int32))
    maker.card("BSCALE  =               1.0E300")
    (row,) = rows_of(maker)
    assert (row["verdict"], row["code"]) == ("rejected", "ALL_NAN")


@pytest.mark.parametrize("value", ["1E15", "-1E7", "9999999999999999999"])
def test_time_outside_every_calendar_is_a_bad_time(value: str, maker: Any, rows_of: Any) -> None:
    """No leap seconds and no airmass exist for such a day."""
    maker.base(DATE__OBS=None, RA=150.0, DEC=2.0)
    maker.card(f"MJD-OBS = {value:>20}")
    (row,) = rows_of(maker)
    assert (row["verdict"], row["code"]) == ("rejected", "BAD_TIME")


def test_absurd_exposure_does_not_move_the_time(maker: Any, rows_of: Any) -> None:
    """Half of 1e300 s after the start is outside every calendar."""
    maker.base(RA=150.0, DEC=2.0)
    maker.card("EXPTIME =                1E300")
    (row,) = rows_of(maker)
    assert (row["verdict"], row["code"]) == ("rejected", "BAD_EXPTIME")


def test_tiles_that_disagree_with_their_header_are_unreadable(maker: Any, rows_of: Any) -> None:
    """A table whose image has other axes than ZNAXISn say."""
    image = fits.CompImageHDU(maker.pixels(), maker.header())
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(maker.path)
    maker.raw(b"ZNAXIS2 =                  100", b"ZNAXIS2 =                   99")
    (row,) = rows_of(maker)
    assert row["verdict"] in ("rejected", "ok")
    if row["verdict"] == "rejected":
        assert row["code"] == "UNREADABLE"
    else:
        assert (row["nx"], row["ny"]) == (100, 99)


def test_pixel_that_overflows_in_electrons_is_no_data(maker: Any, rows_of: Any) -> None:
    """A finite raw value of -2.4e38 times the gain is not finite and had no mask bit."""
    from skymill.frame import MaskBit
    from skymill.io_raw import read_frame
    from skymill.steps.calibrate import Masters, calibrate

    data = maker.pixels().astype(np.float32)
    data[10, 20] = -2.4e38
    maker.base(data)
    (row,) = rows_of(maker)
    images, _ = read_frame(maker.path, row)
    frame = calibrate(
        images, row, Masters(), missing_bias="skip", missing_dark="skip", missing_flat="skip"
    ).value
    assert np.isnan(frame.sci[10, 20])
    assert np.isnan(frame.err[10, 20])
    assert frame.mask[10, 20] & int(MaskBit.NO_DATA)
    assert np.isfinite(frame.sci).sum() == frame.sci.size - 1


def test_scale_that_makes_no_counts_has_no_common_factor(maker: Any, rows_of: Any) -> None:
    """Signed integers times 1e25 do not fit into an integer any more."""
    maker.base(maker.pixels(1000).astype(np.int16))
    maker.card("BSCALE  =                1.0E25")
    (row,) = rows_of(maker)
    assert "SHIFTED_BITS" not in row["code"]
