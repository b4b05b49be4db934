"""Reference catalogues: what is recognised, derived, and never trusted blindly."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from skymill import io
from skymill.catalog_tables import Region
from skymill.catalogs import RefCatalog, as_table, join, read_catalog
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


# --- units, epochs, proper motions ---


def test_proper_motion_of_the_coordinate_is_multiplied_by_cos_dec(tmp_path):
    text = "ra,dec,pmra,pmdec\n10,60,100,-50\n"
    with_cos = read_catalog(_write(tmp_path, "a.csv", text))
    assert with_cos.pmra == pytest.approx([100.0])
    without = read_catalog(_write(tmp_path, "b.csv", text), columns={"pmra_coordinate": "pmra"})
    assert without.pmra == pytest.approx([50.0])
    assert without.pmdec == pytest.approx([-50.0])


@pytest.mark.parametrize(
    ("unit", "factor"), [("mas / yr", 1.0), ("arcsec / yr", 1e3), ("deg / yr", 3.6e6)]
)
def test_units_of_proper_motions_are_obeyed(tmp_path, unit, factor):
    table = Table({"ra": [10.0], "dec": [0.0], "pmra": [2.0], "pmdec": [3.0]})
    table["pmra"].unit = table["pmdec"].unit = unit
    table.write(tmp_path / "c.ecsv")
    catalog = read_catalog(tmp_path / "c.ecsv")
    assert catalog.pmra == pytest.approx([2.0 * factor])
    assert catalog.pmdec == pytest.approx([3.0 * factor])


def test_proper_motion_in_seconds_of_time_and_in_wrong_units(tmp_path):
    table = Table({"ra": [10.0], "dec": [60.0], "pmra": [0.01], "pmdec": [3.0]})
    table["pmra"].unit, table["pmdec"].unit = "s / yr", "mas / yr"
    table.write(tmp_path / "c.ecsv")
    # 0.01 s of time a year at declination 60: 0.01 * 15000 mas * cos(60) = 75 mas.
    assert read_catalog(tmp_path / "c.ecsv").pmra == pytest.approx([75.0])
    table["pmra"].unit = "km / s"
    table.write(tmp_path / "d.ecsv")
    with pytest.raises(ConfigError, match="pmra is in km / s; expected an angle per time"):
        read_catalog(tmp_path / "d.ecsv")


@pytest.mark.parametrize(
    ("written", "year"),
    [("2016.0", 2016.0), ("J2015.5", 2015.5), ("57388.5", 2016.0), ("2457389.0", 2016.0)],
)
def test_epochs_are_years_or_julian_dates(tmp_path, written, year):
    text = f"ra,dec,epoch\n10,20,{written}\n11,20,{written}\n"
    # Within a day: 2016.0 is MJD 57388.5.
    assert read_catalog(_write(tmp_path, "c.csv", text)).epoch == pytest.approx(year, abs=0.003)


def test_stars_of_different_epochs_are_brought_to_one(tmp_path):
    text = "ra,dec,pmra,pmdec,epoch\n10,0,0,1000,2016\n11,0,0,1000,2016\n12,0,0,1000,2000\n"
    catalog = read_catalog(_write(tmp_path, "c.csv", text))
    assert catalog.epoch == 2016.0
    assert catalog.dec * 3600 == pytest.approx([0.0, 0.0, 16.0], abs=1e-6)
    with pytest.raises(ConfigError, match="is no epoch of a position"):
        read_catalog(_write(tmp_path, "d.csv", "ra,dec,epoch\n10,0,17\n"))


def test_hours_without_a_unit_are_named_in_the_column_map(tmp_path):
    path = _write(tmp_path, "c.csv", "alpha,dec\n10.5,-0.25\n")
    assert read_catalog(path, columns={"ra_hours": "alpha"}).ra == pytest.approx([157.5])
    named = read_catalog(_write(tmp_path, "d.csv", "ra_hours,dec\n10.5,-0.25\n"))
    assert named.ra == pytest.approx([157.5])


@pytest.mark.parametrize("text", ["-00:30:00", "-0 30 00", "- 00 30 00", "-00d30m00s", "-0.5"])
def test_minus_zero_degrees_is_south_however_it_is_written(tmp_path, text):
    catalog = read_catalog(_write(tmp_path, "c.csv", f"ra,dec\n12:00:00,{text}\n"))
    assert catalog.dec == pytest.approx([-0.5])


def test_position_in_columns_of_hours_minutes_and_seconds_keeps_the_sign_of_zero(tmp_path):
    text = "RAh,RAm,RAs,DE-,DEd,DEm,DEs,Vmag\n12,30,0,-,0,30,0,11\n1,0,0,+,10,0,36,12\n"
    catalog = read_catalog(_write(tmp_path, "c.csv", text))
    assert catalog.ra == pytest.approx([187.5, 15.0])
    assert catalog.dec == pytest.approx([-0.5, 10.01])


def test_columns_that_are_no_angles_are_refused(tmp_path):
    path = _write(tmp_path, "c.csv", "ra,dec\n1200.5,800.2\n1900.1,30.0\n1700,500\n")
    with pytest.raises(ConfigError, match="positions are no degrees.*right columns"):
        read_catalog(path)
    with pytest.raises(ConfigError, match="no row has a position that can be read"):
        read_catalog(_write(tmp_path, "d.csv", "ra,dec\nabc,def\n"))


def test_an_empty_table_is_refused_with_its_name(tmp_path):
    with pytest.raises(ConfigError, match=r"empty\.csv: the table has no row"):
        read_catalog(_write(tmp_path, "empty.csv", "ra,dec,V\n"))


def test_masked_values_are_unknown_not_zero(tmp_path):
    from astropy.table import MaskedColumn

    table = Table({"ra": [10.0, 11.0, 12.0], "dec": [1.0, 2.0, 3.0]})
    table["V"] = MaskedColumn([12.0, 0.0, 13.0], mask=[False, True, False])
    table["pmra"] = MaskedColumn([5.0, 0.0, 6.0], mask=[False, True, False])
    table["pmdec"] = [1.0, 1.0, 1.0]
    table["name"] = MaskedColumn(["a", "b", "c"], mask=[False, True, False])
    for suffix in ("ecsv", "fits", "parquet"):
        table.write(tmp_path / f"c.{suffix}")
        catalog = read_catalog(tmp_path / f"c.{suffix}")
        assert np.isnan(catalog.band("V")[0][1]), suffix
        assert np.isnan(catalog.pmra[1]), suffix
        assert list(catalog.name) == ["a", "", "c"], suffix


def test_rows_that_stand_twice_are_one_star_and_close_doubles_are_two(tmp_path):
    text = "ra,dec,V,B\n10,20,12.0,\n10,20,12.0,12.5\n10.0003,20,13,13.5\n"
    catalog = read_catalog(_write(tmp_path, "c.csv", text))
    assert len(catalog) == 2
    assert catalog.n_duplicates == 1
    assert catalog.mags["B"][0] == 12.5  # the row that says more


def test_parts_of_a_catalogue_are_joined_with_each_star_once(tmp_path):
    text = "ra,dec,V\n10,20,12.0\n11,20,12.0\n12,20,13\n"
    whole = read_catalog(_write(tmp_path, "c.csv", text))
    again = join([whole.take(np.array([0, 1])), whole.take(np.array([1, 2]))])
    assert again.ra == pytest.approx(whole.ra)


# --- large files ---


def _large(n=200_000):
    rng = np.random.default_rng(3)
    ra = np.sort(rng.uniform(0, 360, n))
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    return Table({"ra": ra, "dec": dec, "V": rng.uniform(8, 16, n), "source_id": np.arange(n)})


@pytest.mark.parametrize(
    "region",
    [Region(120.0, 10.0, 1.5), Region(0.2, -30.0, 2.0), Region(200.0, 89.5, 1.5)],
    ids=["plain", "zero hours", "pole"],
)
def test_a_region_of_a_file_is_the_whole_file_cut(tmp_path, region, monkeypatch):
    import pyarrow.parquet as pq

    import skymill.catalog_tables as tables

    table = _large()
    table.write(tmp_path / "c.fits")
    io.write_table(tmp_path / "one.parquet", table, {})
    pq.write_table(pq.read_table(tmp_path / "one.parquet"), tmp_path / "c.parquet",
                   row_group_size=10_000)  # fmt: skip
    wanted = region.inside(np.asarray(table["ra"]), np.asarray(table["dec"]))
    monkeypatch.setattr(tables, "LARGE_FITS", 0)
    for suffix in ("fits", "parquet"):
        catalog = read_catalog(tmp_path / f"c.{suffix}", region=region)
        assert 5 < len(catalog) < 1000
        assert sorted(catalog.name) == sorted(str(v) for v in table["source_id"][wanted]), suffix
        assert catalog.n_rows == len(table)


def test_only_the_row_groups_near_the_field_are_read(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    import skymill.catalog_tables as tables

    io.write_table(tmp_path / "one.parquet", _large(), {})
    pq.write_table(pq.read_table(tmp_path / "one.parquet"), tmp_path / "c.parquet",
                   row_group_size=10_000)  # fmt: skip
    read: list[int] = []
    real = tables._near
    monkeypatch.setattr(tables, "_near", lambda *a: read.extend(real(*a)) or read)
    read_catalog(tmp_path / "c.parquet", region=Region(120.0, 10.0, 1.5))
    assert 1 <= len(read) <= 2  # of 20


def test_a_catalogue_is_written_and_read_back_as_it_was(tmp_path):
    first = read_catalog(_write(tmp_path, "c.csv", LANDOLT_LIKE))
    io.write_table(tmp_path / "field.parquet", as_table(first), {})
    again = read_catalog(tmp_path / "field.parquet")
    assert again.label == "c.csv"
    assert again.bands == first.bands
    assert again.derived == first.derived
    for band in first.bands:
        assert np.array_equal(again.errs[band], first.errs[band], equal_nan=True)
    empty = first.take(np.zeros(0, int))
    io.write_table(tmp_path / "none.parquet", as_table(empty), {})
    assert len(read_catalog(tmp_path / "none.parquet")) == 0
