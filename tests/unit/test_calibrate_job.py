"""The calibrate job: files in, files out, and what the plan has to say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from skymill import io
from skymill.errors import ConfigError
from skymill.frame import Master
from skymill.io_raw import hash_file
from skymill.jobs.calibrate import calibrate_block
from skymill.settings import Calibrate
from skymill.sheet import empty_row

NY, NX, STRIP = 40, 50, 12
INSTRUMENT = {"wcs": "header", "remove": [], "electronics": {"linearity": {}, "crosstalk": {}}}


@pytest.fixture
def night(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, value, unit in (("bias", 10.0, "adu"), ("dark", 40.0, "adu"), ("flat", 0.5, "")):
        master = Master(
            np.full((NY, NX), value, np.float32), np.full((NY, NX), 0.01, np.float32),
            np.zeros((NY, NX), np.uint16), fits.Header({"EXPTIME": 60.0, "MASTERID": kind}),
            unit=unit, nused=np.ones((NY, NX), np.uint16),
        )  # fmt: skip
        io.write_master(tmp_path / f"{kind}.fits", master, {})
    return tmp_path


def frame(folder, name, hdus=1, **cards):
    """A raw file; with two HDUs each holds one half of the detector."""
    rng = np.random.default_rng(5)
    raw = rng.normal(1000, 3, (NY, NX + STRIP)).round().astype(np.uint16)
    raw[:, :NX] += 500
    header = fits.Header({"OBJECT": "M 1", **cards})
    units = [fits.PrimaryHDU(raw, header=header)]
    row = empty_row(
        frame_id=f"{name}-00000000", path=f"{name}.fits", hdu=0, instrument="sim", nx=NX + STRIP,
        ny=NY, datasec=f"[1:{NX},1:{NY}]", biassec=f"[{NX + 1}:{NX + STRIP},1:{NY}]",
        gain_e_adu=2.0, read_noise_e=6.0, saturation_adu=60_000.0, exptime_s=60.0, binning="1x1",
        object="M 1",
    )  # fmt: skip
    if hdus == 2:
        half = NX // 2
        parts = [np.hstack([raw[:, x : x + half], raw[:, NX:]]) for x in (0, half)]
        units = [fits.PrimaryHDU(header=header), *(fits.ImageHDU(part) for part in parts)]
        entries = [
            {
                "name": f"A{n}", "hdu": n, "data": f"[1:{half},1:{NY}]",
                "bias": [f"[{half + 1}:{half + STRIP},1:{NY}]"],
                "place": f"[{x + 1}:{x + half},1:{NY}]", "gain": 2.0, "noise": 6.0,
                "saturation": 60_000.0, "linear_max": None,
            }
            for n, x in ((1, 0), (2, half))
        ]  # fmt: skip
        row |= {
            "hdu": 1, "nx": NX, "ny": NY, "biassec": "", "datasec": f"[1:{NX},1:{NY}]",
            "amplifiers": json.dumps(entries),
        }  # fmt: skip
    fits.HDUList(units).writeto(folder / f"{name}.fits")
    row["sha256"] = hash_file(folder / f"{name}.fits")
    return row


def run(folder, rows, *, choices=None, kinds=("bias", "dark", "flat"), **settings):
    options = Calibrate().model_dump(mode="json") | settings
    calibrate_block(
        raw=folder, rows=rows, inputs={kind: str(folder / f"{kind}.fits") for kind in kinds},
        missing={}, choices=choices, instrument=INSTRUMENT, frames=folder / "out",
        outcomes=folder / "out.csv", settings=options, code="0" * 12,
    )  # fmt: skip
    return {one.frame_id.split("-")[0]: one for one in io.read_outcomes(folder / "out.csv")}


def test_amplifiers_in_extensions_give_the_frame_of_a_single_image(night):
    rows = [frame(night, "a"), frame(night, "b", hdus=2)]
    outcomes = run(night, rows)
    assert {one.status for one in outcomes.values()} == {"ok"}
    one, two = (io.read_frame(night / "out" / f"{name}-00000000.fits") for name in "ab")
    np.testing.assert_allclose(one.sci, two.sci, rtol=1e-6)
    assert float(np.median(one.sci)) == pytest.approx(2 * (500 - 40) / 0.5, rel=2e-3)
    assert one.header["BIASSHA"] == two.header["BIASSHA"]
    assert outcomes["a"].numbers["q999_e"] > outcomes["a"].numbers["q10_e"]


def test_a_frame_that_was_calibrated_before_does_not_stop_the_others(night):
    """E31: the raw header is asked, before it is cleaned."""
    rows = [frame(night, "a", BUNIT="electron"), frame(night, "b")]
    outcomes = run(night, rows)
    assert (outcomes["a"].status, outcomes["a"].code) == ("rejected", "ALREADY_CALIBRATED")
    assert outcomes["b"].status == "ok"


@pytest.mark.parametrize("compression", ["lossless", "quantised"])
def test_products_are_stored_as_the_settings_say(night, compression):
    """A21."""
    run(night, [frame(night, "a")], compression=compression)
    path = night / "out" / "a-00000000.fits"
    with fits.open(path, disable_image_compression=True) as hdus:
        expected = "RICE_1" if compression == "quantised" else "GZIP_2"
        assert hdus["SCI"].header["ZCMPTYPE"] == expected
    header = io.read_frame(path).header
    assert ("QNOISE" in header) == (compression == "quantised")


def test_choices_of_the_plan_are_told_and_obeyed(night):
    """E26, E36."""
    row = frame(night, "a") | {"exptime_s": 120.0}
    bias = {"master": "bias", "age": 1, "rule": "nearest", "flag": []}
    shorter = {"master": "dark", "age": -2, "rule": "shorter", "flag": []}
    outcomes = run(night, [row], choices={"bias": bias, "dark": shorter})
    assert outcomes["a"].code == "DARK_SCALED_UP"
    header = io.read_frame(night / "out" / "a-00000000.fits").header
    assert (header["DARKRULE"], header["DARKAGE"], header["DARKTAU"]) == ("shorter", -2, 2.0)
    none = {"master": "", "age": None, "rule": "bias_only", "flag": []}
    outcomes = run(night, [row], choices={"dark": none}, kinds=("bias", "flat"))
    assert outcomes["a"].status == "ok"


def test_the_same_job_writes_the_same_bytes(night):
    row = frame(night, "a")
    contents = []
    for _ in range(2):
        run(night, [row], compression="quantised")
        contents.append((night / "out" / "a-00000000.fits").read_bytes())
    assert contents[0] == contents[1]
    assert str(night).encode() not in contents[0]


def test_a_file_of_the_sheet_that_is_no_master_is_told_by_name(night):
    fits.PrimaryHDU(np.ones((NY, NX), np.float32)).writeto(night / "flat.fits", overwrite=True)
    with pytest.raises(ConfigError, match=r"use_flat = .*flat\.fits is not a master of skymill"):
        run(night, [frame(night, "a")])
    bare = io.read_master(night / "dark.fits")
    io.write_master(night / "dark.fits", bare.replace(header=fits.Header()), {})
    with pytest.raises(ConfigError, match=r"use_dark = .* has no card EXPTIME"):
        run(night, [frame(night, "b")], kinds=("bias", "dark"), missing_flat="skip")


def test_a_master_of_the_sheet_without_checksums_and_name_is_taken(night):
    """A file that another program wrote again."""
    with fits.open(night / "flat.fits") as hdus:
        hdus[0].header.remove("MASTERID")
        for hdu in hdus:
            for keyword in ("CHECKSUM", "DATASUM"):
                hdu.header.remove(keyword, ignore_missing=True)
        hdus.writeto(night / "again.fits")
    (night / "again.fits").replace(night / "flat.fits")
    row = frame(night, "a")
    run(night, [row])
    header = fits.getheader(night / "out" / f"{row['frame_id']}.fits")
    assert header["FLATID"] == "flat"
