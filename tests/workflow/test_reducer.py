"""The Reducer on a small night of two filters without world coordinates, reduced once."""

import numpy as np
import pytest

import skymill
from skymill.measure import PhotFlag
from skymill.reducer import AperturePhotometer, OptimalPhotometer
from skymill.simulate import NightConfig, simulate_night

N_LIGHT = 8


class BrightestPixelPhotometer:
    """Not forced: sources without a detection have no coordinates, and no flux."""

    forced = False

    def compute(self, image, error, mask, coordinates, psf):
        flux, noise = [], []
        for x, y in coordinates:
            known = np.isfinite(x)
            i, j = (int(x + 0.5), int(y + 0.5)) if known else (0, 0)
            flux.append(float(image[j, i]) if known else None)
            noise.append(float(error[j, i]) if known else None)
        return {"flux": flux, "flux_err": noise}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("reducer")
    config = NightConfig(
        seed=23, shape=(320, 320), filters=("V", "R"), n_bias=0, n_dark=0, n_flat=0,
        n_light=N_LIGHT, exptime_s=20.0, n_stars=70, mag_bright=12.5, mag_faint=17.5, wcs="none",
        meridian_flip_at=5, vignetting=0.0, prnu=0.0, n_dust=0, bias_structure_adu=0.0,
        dark_e_s=0.0, hot_fraction=0.0, dead_fraction=0.0, cosmic_rate_mpx_s=0.0, sky_gradient=0.0,
        fwhm_px=3.0, min_separation_px=16.0, truth_images=False,
    )  # fmt: skip
    simulate_night(place, config)
    return place


@pytest.fixture(scope="module")
def reducer(folder):
    out = skymill.Reducer(
        folder / "raw", folder / "out", align_only=True, number_of_processors=2, verbose=False
    )
    out.create_catalogs(max_catalog_sources=25)
    return out


@pytest.fixture(scope="module")
def curves(reducer):
    return reducer.photometry(AperturePhotometer())["skymill-sim"]


def test_o12_o13_o23_catalogue_positions_fall_on_the_detections_of_each_frame(reducer):
    """O12, O13, O23: transforms carry the catalogue into every frame, turned ones, too."""
    assert list(reducer.sequences) == ["skymill-sim:R", "skymill-sim:V"]
    assert len(reducer.transforms) == 2 * N_LIGHT
    turned = sum(m[0, 0] < -0.99 for m in reducer.transforms.values())
    assert 0 < turned < 2 * N_LIGHT
    for key, item in reducer.sequences.items():
        catalog = reducer.catalogs[key][:10]
        here = np.column_stack(
            [catalog["xcentroid"].value, catalog["ycentroid"].value, np.ones(10)]
        )
        for frame in item.frames:
            there = here @ reducer.transforms[frame][:2].T
            sources = reducer._load(key, frame).sources
            x, y = (np.asarray(sources[n], float) for n in "xy")
            inside = (there > 8).all(axis=1) & (there < 312).all(axis=1)
            off = [np.hypot(x - a, y - b).min() for a, b in there[inside]]
            assert np.median(off) < 0.3


def test_o26_o32_o35_catalogues_are_written_with_one_number_in_both_filters(reducer):
    """O25, O26, O32, O35: labels, PSF, ECSV."""
    from astropy.table import QTable

    for key in reducer.sequences:
        psf = reducer.psf_params[key]
        assert psf["fwhm_px"] == pytest.approx(3.0, rel=0.25)
        name = key.replace(":", "_") + "_catalog.ecsv"
        read = QTable.read(reducer.out_directory / "cat" / name)
        assert read["label"].tolist() == reducer.create_targets_dict()[key]
        assert len(read) <= 25
    one, two = reducer.catalogs.values()
    both = sorted(set(one["label"]) & set(two["label"]))
    assert len(both) > 10
    place = [
        np.array([[t["xcentroid"].value[k], t["ycentroid"].value[k]] for k in
                  (list(t["label"]).index(n) for n in both)])
        for t in (one, two)
    ]  # fmt: skip
    assert np.median(np.hypot(*(place[0] - place[1]).T)) < 0.2


def test_o33_o36_o40_every_source_has_every_frame_and_constant_stars_are_constant(reducer, curves):
    """O22, O23, O33, O36, O38, O40: forced apertures of unresampled frames, with annulus."""
    points = curves.points
    for name in curves.filters:
        mine = points[np.asarray(points["filter"]).astype(str) == name]
        counts = np.unique(np.asarray(mine["source"]), return_counts=True)[1]
        assert set(counts.tolist()) == {N_LIGHT}
    statistics = curves.statistics
    bright = np.asarray(statistics["expected_mmag"], float) < 20
    assert bright.sum() > 10
    excess = np.asarray(statistics["rms_mmag"], float) / np.asarray(statistics["expected_mmag"])
    # Each scatter of eight values is known to a quarter; the median of them all is asked for.
    assert 0.7 < np.nanmedian(excess[bright]) < 1.3
    files = sorted(
        p.name for p in (reducer.out_directory / "lcs" / "forced_aperture_annulus").glob("*.csv")
    )
    assert len(files) == len(statistics)
    text = (reducer.out_directory / "lcs" / "forced_aperture_annulus" / files[0]).read_text()
    assert text.splitlines()[0].split(",")[1:] == ["flux", "flux_err", "background", "flags"]
    assert len(text.splitlines()) == 1 + N_LIGHT
    drawn = reducer.out_directory / "diag" / "forced_aperture_annulus"
    assert len(list(drawn.glob("*_rms.pdf"))) == 2


def test_o22_curves_that_fit_are_kept_and_a_restart_goes_on(reducer, curves, folder):
    """O22, O24: a second call and a second session read what is there."""
    path = reducer.out_directory / "lcs" / "forced_aperture_annulus" / f"{curves.field}.parquet"
    before = path.stat().st_mtime_ns
    later = skymill.Reducer(folder / "raw", folder / "out", align_only=True, verbose=False)
    assert later.transforms.keys() == reducer.transforms.keys()
    again = later.photometry(AperturePhotometer())["skymill-sim"]
    assert path.stat().st_mtime_ns == before
    assert len(again) == len(curves)


def test_o22_o39_photometers_of_ones_own_and_matched_detections(reducer, curves):
    """O22, O39, O41: a function of one's own; what is not matched is a row with a flag."""
    mine = reducer.photometry(BrightestPixelPhotometer())["skymill-sim"]
    assert len(mine) == len(curves)
    flux, flags = np.asarray(mine.points["flux"]), np.asarray(mine.points["flags"])
    lost = ~np.isfinite(flux)
    assert (flags[lost] & int(PhotFlag.NO_FLUX) > 0).all()
    assert (~lost).mean() > 0.6
    matched = reducer.photometry(AperturePhotometer(match_sources=True, elliptical=True))
    other = np.asarray(matched["skymill-sim"].points["flux"])
    both = np.isfinite(other) & np.isfinite(np.asarray(curves.points["flux"]))
    ratio = other[both] / np.asarray(curves.points["flux"])[both]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)


def test_o37_optimal_fluxes_are_total(reducer, curves):
    """O37: a little more than an aperture of 1.5 FWHM holds, not a tenth of it."""
    optimal = reducer.photometry(OptimalPhotometer())["skymill-sim"]
    ratio = np.asarray(optimal.points["flux"]) / np.asarray(curves.points["flux"])
    bright = np.asarray(curves.points["flux"]) > 500.0  # electron / s; S/N above 100
    assert bright.sum() > 100
    assert 1.0 < np.nanmedian(ratio[bright]) < 1.15


def test_o24_o30_excluded_frames_are_rows_with_flags(reducer, curves):
    """O24, O28, O30: a frame left out by hand has a reason, and no fluxes."""
    frame = reducer.camera_files["skymill-sim:V"][2]
    reducer.update_unaligned_files([reducer.paths[frame].name], "a lamp in the dome")
    text = (reducer.out_directory / "diag" / "unaligned_files.txt").read_text()
    assert f"{frame}\ta lamp in the dome\n" in text
    part = reducer.photometry(BrightestPixelPhotometer())["skymill-sim"].points
    rows = np.asarray(part["frame_id"]).astype(str) == frame
    assert rows.sum() > 0
    assert not np.isfinite(np.asarray(part["flux"])[rows]).any()
    assert (np.asarray(part["flags"])[rows] != 0).all()
    assert all(level in ("warning", "error") for level, _ in reducer.messages)


def test_o15_to_o21_plots_are_of_what_was_asked_for(reducer, curves):
    """O15, O16, O17, O18, O19, O21, O31: figures and numbers of each key."""
    key = "skymill-sim:V"
    label = reducer.create_targets_dict()[key][4]
    grown = reducer.plot_growth_curves({key: label}, save=True)
    assert list(grown) == [key]
    assert grown[key].numbers["labels"] == [label]
    assert (reducer.out_directory / "diag" / "skymill-sim_V_growth_curves.pdf").is_file()
    assert reducer.plot_background_meshes(seed=1)[key].numbers["n_cells"] > 1
    assert reducer.random_files(1) == reducer.random_files(1)
    width = reducer.plot_psfs({key: [label]})[key].numbers["fwhm_x_px"][0]
    assert width == pytest.approx(3.0, rel=0.3)
    assert np.nanmax(reducer.plot_snrs()[key].numbers["snr"]) > 100
    noise = reducer.plot_noise(curves={"skymill-sim": curves})[key].numbers
    assert noise["error_over_model"] == pytest.approx(1.0, abs=0.05)
    assert 0.6 < noise["scatter_over_model"] < 1.4
    drawn = reducer.plot_apertures(AperturePhotometer(elliptical=True), {key: [label]})[key]
    assert drawn.numbers["n_drawn"] == 1


def test_o20_films_of_each_key(reducer):
    """O20: one film for each key; pictures are kept if asked for."""
    films = reducer.create_gifs(keep_frames=True)
    assert all(path.read_bytes()[:4] == b"GIF8" for path in films.values())
    pictures = sorted((reducer.out_directory / "diag" / "skymill-sim_R_gif").glob("*.png"))
    assert len(pictures) == N_LIGHT
    before = {key: path.stat().st_mtime_ns for key, path in films.items()}
    reducer.create_gifs()
    assert {key: path.stat().st_mtime_ns for key, path in films.items()} == before
