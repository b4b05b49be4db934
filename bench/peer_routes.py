"""The usual ways to reduce a night, as scripts that an observer would write.

``python -m bench.peer_routes A|B RAW OUT`` runs one of them in a process of its own:

* A, a straightforward composition: ccdproc, astroscrappy, photutils, reproject.
* B, the best composition of existing tools: numpy in float32, astroscrappy, sep, SWarp with
  weight maps and clipping.

Both make masters, calibrate, find cosmic rays, subtract the background, list the sources, measure
six apertures and stack. Neither solves positions, checks its input, fits zero points, makes light
curves, tracks masks by name or carries complete errors: all that skymill does beside is in its own
time and not in theirs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

RADII = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
BOX = 64


def by_kind(raw: Path) -> dict[str, list[Path]]:
    """Sort the files by IMAGETYP."""
    found: dict[str, list[Path]] = {"Bias": [], "Dark": [], "Flat": [], "Light": []}
    for path in sorted(raw.rglob("*.fits")):
        found[str(fits.getheader(path)["IMAGETYP"]).split()[0]].append(path)
    return found


def slices(section: str) -> tuple[slice, slice]:
    """Return the slices (y, x) of a FITS section."""
    x, y = (part.split(":") for part in section.strip("[]").split(","))
    return slice(int(y[0]) - 1, int(y[1])), slice(int(x[0]) - 1, int(x[1]))


# --- A ---


def route_a(raw: Path, out: Path) -> None:
    """Reduce with ccdproc, astroscrappy, photutils and reproject."""
    import ccdproc
    from astropy import units as u
    from astropy.stats import SigmaClip
    from photutils.aperture import CircularAperture, aperture_photometry
    from photutils.background import Background2D, SExtractorBackground
    from photutils.segmentation import SourceCatalog, SourceFinder
    from photutils.utils import calc_total_error
    from reproject import reproject_interp
    from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd

    files = by_kind(raw)

    def prepared(path: Path) -> Any:
        ccd = ccdproc.CCDData.read(path, unit="adu")
        header = ccd.header
        ccd = ccdproc.subtract_overscan(
            ccd, fits_section=header["BIASSEC"], overscan_axis=1, median=True
        )
        return ccdproc.trim_image(ccd, fits_section=header["TRIMSEC"])

    clip = {
        "method": "average", "sigma_clip": True, "sigma_clip_low_thresh": 3,
        "sigma_clip_high_thresh": 3, "sigma_clip_func": np.ma.median, "dtype": "float32",
    }  # fmt: skip
    bias = ccdproc.combine([prepared(path) for path in files["Bias"]], **clip)
    darks = [ccdproc.subtract_bias(prepared(path), bias) for path in files["Dark"]]
    dark = ccdproc.combine(darks, **clip)
    dark.header["EXPTIME"] = darks[0].header["EXPTIME"]
    seconds = {"exposure_time": "EXPTIME", "exposure_unit": u.s, "scale": True}
    flats = [
        ccdproc.subtract_dark(ccdproc.subtract_bias(prepared(path), bias), dark, **seconds)
        for path in files["Flat"]
    ]
    flat = ccdproc.combine(flats, scale=lambda image: 1 / np.median(image), **clip)
    stackable = []
    for path in files["Light"]:
        ccd = prepared(path)
        gain, noise = ccd.header["GAIN"], ccd.header["RDNOISE"]
        per_adu = gain * u.electron / u.adu
        ccd = ccdproc.create_deviation(ccd, gain=per_adu, readnoise=noise * u.electron)
        ccd = ccdproc.subtract_dark(ccdproc.subtract_bias(ccd, bias), dark, **seconds)
        ccd = ccdproc.gain_correct(ccdproc.flat_correct(ccd, flat), per_adu)
        ccd = ccdproc.cosmicray_lacosmic(ccd, readnoise=noise, gain_apply=False)
        sky = Background2D(
            ccd.data, BOX, mask=ccd.mask, filter_size=3, sigma_clip=SigmaClip(3.0),
            bkg_estimator=SExtractorBackground(),
        )  # fmt: skip
        image = ccd.data - sky.background
        error = calc_total_error(image, sky.background_rms, 1.0)
        segments = SourceFinder(n_pixels=5, progress_bar=False)(image, 2 * sky.background_rms)
        table = SourceCatalog(image, segments, error=error, mask=ccd.mask).to_table()
        places = np.transpose([table["x_centroid"], table["y_centroid"]])
        sums = aperture_photometry(
            image, [CircularAperture(places, r) for r in RADII], error=error, mask=ccd.mask
        )
        sums.write(out / f"{path.stem}.ecsv", overwrite=True)
        ccd.data = np.where(ccd.mask, np.nan, image)
        ccd.write(out / path.name, overwrite=True)
        stackable.append((ccd.data, ccd.wcs.celestial))
    target, shape = find_optimal_celestial_wcs([(im.shape, wcs) for im, wcs in stackable])
    coadd, _ = reproject_and_coadd(
        stackable, target, shape_out=shape, reproject_function=reproject_interp,
        combine_function="mean", roundtrip_coords=False,
    )  # fmt: skip
    fits.writeto(out / "stack.fits", coadd.astype("f4"), target.to_header(), overwrite=True)


# --- B ---


def clipped_mean(cube: Any) -> Any:
    """Mean without values beyond 3 standard deviations of the median, as is usual."""
    middle = np.median(cube, axis=0)
    good = np.abs(cube - middle) <= 3 * cube.std(axis=0) + 1e-6
    return ((cube * good).sum(axis=0) / np.maximum(good.sum(axis=0), 1)).astype(np.float32)


def trimmed(path: Path) -> tuple[Any, Any]:
    """Return an image without its overscan, and its header."""
    with fits.open(path, memmap=False) as hdus:
        header, image = hdus[0].header, hdus[0].data.astype(np.float32)
    image -= np.median(image[slices(header["BIASSEC"])], axis=1, keepdims=True)
    return image[slices(header["TRIMSEC"])], header


def route_b(raw: Path, out: Path) -> None:
    """Reduce with numpy, astroscrappy, sep and SWarp."""
    import sep
    from astroscrappy import detect_cosmics

    files = by_kind(raw)
    bias = clipped_mean(np.stack([trimmed(path)[0] for path in files["Bias"]]))
    darks = [trimmed(path) for path in files["Dark"]]
    rate = clipped_mean(np.stack([image - bias for image, _ in darks])) / darks[0][1]["EXPTIME"]
    flats = []
    for path in files["Flat"]:
        image, header = trimmed(path)
        image = image - bias - rate * header["EXPTIME"]
        flats.append(image / np.median(image))
    flat = np.maximum(clipped_mean(np.stack(flats)), 0.05)
    names, weights = [], []
    for path in files["Light"]:
        image, header = trimmed(path)
        gain, noise = header["GAIN"], header["RDNOISE"]
        image = ((image - bias - rate * header["EXPTIME"]) / flat * gain).astype(np.float32)
        hits, _ = detect_cosmics(image, gain=1.0, readnoise=noise, satlevel=np.inf)
        bad = hits | (image > 0.9 * header["SATURATE"] * gain)
        sky = sep.Background(image, mask=bad, bw=BOX, bh=BOX)
        rms = sky.rms().astype(np.float32)
        image -= sky.back()
        error = np.sqrt(rms**2 + np.maximum(image, 0))
        sources = sep.extract(image, 2.0, err=rms, mask=bad, minarea=5)
        table = Table(sources)
        for r in RADII:
            flux, flux_err, _ = sep.sum_circle(
                image, sources["x"], sources["y"], r, err=error, mask=bad
            )
            table[f"flux_{r:g}"], table[f"flux_err_{r:g}"] = flux, flux_err
        table.write(out / f"{path.stem}.cat.fits", overwrite=True)
        image[bad] = 0
        weight = np.where(bad, 0, 1 / rms**2).astype(np.float32)
        header = WCS(header).celestial.to_header(relax=True)
        names.append(out / path.name)
        weights.append(out / f"{path.stem}.weight.fits")
        fits.writeto(names[-1], image, header, overwrite=True)
        fits.writeto(weights[-1], weight, header, overwrite=True)
    swarp(names, weights, out)


def swarp(names: list[Path], weights: list[Path], out: Path) -> None:
    """Stack with clipping against the noise."""
    empty = out / "empty.swarp"
    empty.write_text("", encoding="utf-8")
    options = {
        "IMAGEOUT_NAME": "stack.fits", "WEIGHTOUT_NAME": "stack.weight.fits",
        "WEIGHT_TYPE": "MAP_WEIGHT", "WEIGHT_IMAGE": ",".join(path.name for path in weights),
        "RESCALE_WEIGHTS": "N", "COMBINE_TYPE": "CLIPPED", "CLIP_SIGMA": "4",
        "GAIN_DEFAULT": "1e6", "SUBTRACT_BACK": "N", "RESAMPLING_TYPE": "LANCZOS3",
        "FSCALASTRO_TYPE": "VARIABLE", "BLANK_BADPIXELS": "Y", "NTHREADS": "1",
        "WRITE_XML": "N", "VERBOSE_TYPE": "QUIET",
    }  # fmt: skip
    command = ["SWarp", *(path.name for path in names), "-c", empty.name]
    for key, value in options.items():
        command += [f"-{key}", value]
    subprocess.run(command, cwd=out, check=True)


if __name__ == "__main__":
    route, raw_folder, out_folder = sys.argv[1:]
    Path(out_folder).mkdir(parents=True, exist_ok=True)
    {"A": route_a, "B": route_b}[route](Path(raw_folder), Path(out_folder))
