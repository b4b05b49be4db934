"""Reference catalogues: what is recognised, derived, and never trusted blindly."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from skymill.catalogs import RefCatalog, read_catalog
from skymill.errors import ConfigError

LANDOLT_LIKE = """Name,RA,DEC,V,B-V,U-B,V-R,R-I,V-I,Nobs,e_V,e_B-V
PG1 A,00:30:04.593,-46:28:10.17,14.820,0.764,0.338,0.422,0.395,0.817,25,0.0026,0.0032
PG1 B,12:00:00.0,-00:30:00.0,12.000,-0.300,-1.1,-0.1,-0.2,-0.3,1,,
"""


def _write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_sexagesimal_right_ascension_is_hours_and_minus_zero_degrees_is_south(tmp_path):
    catalog = read_catalog(_write(tmp_path, "c.csv", LANDOLT_LIKE))
    assert catalog.ra == pytest.approx([15 * (30 / 60 + 4.593 / 3600), 180.0], abs=1e-9)
    assert catalog.dec == pytest.approx([-(46 + 28 / 60 + 10.17 / 3600), -0.5], abs=1e-9)
    assert list(catalog.name) == ["PG1 A", "PG1 B"]
    assert catalog.label == "c.csv"


def test_bands_are_derived_from_colours_with_their_errors(tmp_path):
    catalog = read_catalog(_write(tmp_path, "c.csv", LANDOLT_LIKE))
    assert catalog.bands == ("B", "I", "R", "U", "V")
    assert catalog.band("B")[0] == pytest.approx([15.584, 11.7])
    assert catalog.band("R")[0] == pytest.approx([14.398, 12.1])
    assert catalog.band("I")[0] == pytest.approx([14.003, 12.3])
    assert catalog.band("U")[0] == pytest.approx([15.922, 10.6])
    assert catalog.band("B")[1][0] == pytest.approx(np.hypot(0.0026, 0.0032))
    assert catalog.derived["B"] == "V + (B-V)"


def test_a_star_without_error_gets_the_stated_one_not_infinite_weight(tmp_path):
    catalog = read_catalog(_write(tmp_path, "c.csv", LANDOLT_LIKE))
    _, err = catalog.band("V", missing_error_mag=0.05)
    assert err == pytest.approx([0.0026, 0.05])
    text = "ra,dec,V,V_err\n1,2,10,0\n1,3,11,-1\n1,4,12,nan\n1,5,,0.1\n"
    mag, err = read_catalog(_write(tmp_path, "z.csv", text)).band("V", 0.02)
    assert err[:3] == pytest.approx([0.02] * 3)
    assert np.isnan(mag[3])
    assert np.isnan(err[3])


@pytest.mark.parametrize(
    ("magnitude", "error", "band"),
    [
        ("V", "e_V", "V"),
        ("V_mag", "V_err", "V"),
        ("Vmag", "e_Vmag", "V"),
        ("mag_r", "magerr_r", "r"),
        ("phot_g_mean_mag", "phot_g_mean_mag_error", "G"),
        ("gMeanPSFMag", "gMeanPSFMagErr", "g"),
        ("Ksmag", "e_Ksmag", "Ks"),
    ],
)
def test_common_spellings_of_bands_and_errors(tmp_path, magnitude, error, band):
    catalog = read_catalog(
        _write(tmp_path, "c.csv", f"ra,dec,{magnitude},{error}\n10,20,12.5,0.01\n")
    )
    assert catalog.bands == (band,)
    assert catalog.band(band)[1] == pytest.approx([0.01])


def test_case_of_a_band_counts_where_both_exist(tmp_path):
    both = read_catalog(_write(tmp_path, "c.csv", "ra,dec,r,R\n10,20,12.5,12.3\n"))
    assert (both.find_band("r"), both.find_band("R")) == ("r", "R")
    one = read_catalog(_write(tmp_path, "d.csv", "ra,dec,V\n10,20,12.5\n"))
    assert one.find_band("v") == "V"
    assert one.find_band("B") is None
    with pytest.raises(KeyError, match="no band 'B'"):
        one.band("B")


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "fits", "parquet", "vot"])
def test_every_format_gives_the_same_stars(tmp_path, suffix):
    table = Table({"ra": [359.9, 0.1], "dec": [-1.0, 2.0], "V": [12.0, 13.0], "e_V": [0.01, 0.02]})
    path = tmp_path / f"c.{suffix}"
    table.write(path, **({"format": "votable"} if suffix == "vot" else {}))
    catalog = read_catalog(path)
    assert catalog.ra == pytest.approx([359.9, 0.1])
    assert catalog.band("V")[1] == pytest.approx([0.01, 0.02])


def test_units_of_the_columns_are_obeyed(tmp_path):
    table = Table({"ra": [10.0], "dec": [-5.0]}, units={"ra": "hourangle", "dec": "deg"})
    table.write(tmp_path / "c.ecsv")
    assert read_catalog(tmp_path / "c.ecsv").ra == pytest.approx([150.0])


def test_a_column_map_names_what_is_not_recognised(tmp_path):
    path = _write(tmp_path, "c.csv", "alpha,delta,brightness,sd\n10,20,12.5,0.02\n")
    with pytest.raises(ConfigError, match="no column for ra among alpha, delta"):
        read_catalog(path)
    columns = {"ra": "alpha", "dec": "delta", "V": "brightness", "e_V": "sd"}
    catalog = read_catalog(path, columns=columns)
    assert catalog.band("V") == (pytest.approx([12.5]), pytest.approx([0.02]))
    with pytest.raises(ConfigError, match="no column 'beta'"):
        read_catalog(path, columns={"ra": "beta"})


def test_files_that_cannot_be_used_are_named_in_the_error(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.csv: there is no such file"):
        read_catalog(tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match="suffix tells no format"):
        read_catalog(_write(tmp_path, "c.doc", "x"))
    with pytest.raises(ConfigError, match="cannot be read as fits"):
        read_catalog(_write(tmp_path, "c.fits", "not a table"))


def test_sentinels_and_unreadable_positions_are_no_stars(tmp_path):
    text = "ra,dec,V\n10,20,99.999\n,20,12\n10,95,12\n11,21,13\n"
    catalog = read_catalog(_write(tmp_path, "c.csv", text))
    assert len(catalog) == 2
    assert np.isnan(catalog.band("V")[0][0])


def test_near_is_right_at_zero_hours_and_at_the_pole():
    catalog = RefCatalog(
        "c", np.array([359.99, 0.01, 180.0]), np.zeros(3), np.array(["a", "b", "c"])
    )
    assert list(catalog.near(0.0, 0.0, 0.02).name) == ["a", "b"]
    polar = RefCatalog(
        "p",
        np.array([0.0, 90.0, 180.0, 0.0]),
        np.array([89.99, 89.99, 89.99, 89.9]),
        np.array(["a", "b", "c", "d"]),
    )
    assert list(polar.near(270.0, 89.999, 0.02).name) == ["a", "b", "c"]


def test_proper_motion_moves_along_the_great_circle():
    year, mas = 20.0, 500.0
    still = RefCatalog("c", np.array([359.9999]), np.array([60.0]), np.array(["a"]))
    moving = RefCatalog(
        "c",
        np.array([359.9999]),
        np.array([60.0]),
        np.array(["a"]),
        pmra=np.array([mas]),
        pmdec=np.array([-mas]),
        epoch=2000.0,
    )
    assert still.at_epoch(2020.0) is still
    later = moving.at_epoch(2000.0 + year)
    east = ((later.ra[0] - 359.9999 + 180) % 360 - 180) * np.cos(np.radians(60.0)) * 3.6e6
    # 10 arcsec: second order terms are below 1 mas.
    assert east == pytest.approx(year * mas, abs=1.0)
    assert (later.dec[0] - 60.0) * 3.6e6 == pytest.approx(-year * mas, abs=1.0)
    assert later.epoch == 2020.0


def test_the_landolt_table_is_understood(shared_data):
    catalog = read_catalog(shared_data("landolt") / "landolt.csv")
    assert len(catalog) == 930
    star = int(np.flatnonzero(catalog.name == "PG1323-086A")[0])
    assert catalog.band("V")[0][star] == pytest.approx(13.591)
    assert catalog.band("V")[1][star] == pytest.approx(0.0257)
    assert catalog.band("B")[0][star] == pytest.approx(13.984)
    lonely = int(np.flatnonzero(catalog.name == "PG1530+057")[0])
    assert catalog.band("V", 0.02)[1][lonely] == 0.02
