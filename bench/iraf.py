"""Masters and processed frames in the conventions of IRAF, as plain FITS images.

``python -m bench.iraf RAW OUT`` reduces the SBIG night with the recipe ``iraf`` and writes
what IRAF's ccdproc, zerocombine and flatcombine would be asked for, so that the images can
be compared one by one: ``Zero.fits`` (ADU), ``Flat<filter>.fits`` (mean 1) and each
processed frame (ADU; overscan, zero and flat corrected, the flat scaled by its mean).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.io import fits

from bench.runs import project, skymill
from bench.truth_real import SBIG_OVERRIDES


def reduce(raw: Path, place: Path) -> Path:
    """Calibrate the night with the recipe and return the project folder."""
    project(place, raw, instrument="sbig_st7", recipe="iraf")
    (place / "config" / "overrides.yaml").write_text(SBIG_OVERRIDES, encoding="utf-8")
    skymill("ingest", "-d", place)
    # by name also masters of filters without light frames, which calibrate does not ask for
    skymill("run", "-d", place, "--cores", 1, "--until", "calibrate", "master_flat")
    return place


def export(place: Path, out: Path) -> list[Path]:
    """Write the masters and the processed frames of a project as plain images."""
    from skymill import io

    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    means: dict[str, float] = {}

    def write(name: str, image: np.ndarray, comment: str) -> None:
        hdu = fits.PrimaryHDU(image.astype(np.float32))
        hdu.header["COMMENT"] = comment
        written.append(out / name)
        hdu.writeto(written[-1], overwrite=True)

    for path in sorted((place / "results" / "masters").glob("*.fits")):
        master = io.read_master(path)
        if path.name.startswith("bias"):
            write("Zero.fits", master.sci, "average, highest value rejected; ADU")
        elif path.name.startswith("flat"):
            # over all pixels, as ccdproc takes the mean of the combined flat
            means[path.stem] = float(np.nanmean(master.sci.astype(np.float64)))
            name = next(p for p in path.stem.split("-") if p in ("Blue", "Green", "Red"))
            write(f"Flat{name}.fits", master.sci / means[path.stem], "mean 1")
    for path in sorted((place / "results" / "calibrated").rglob("*.fits")):
        frame = io.read_frame(path)
        adu = frame.sci / float(frame.header["GAIN"]) * means[str(frame.header["FLATID"])]
        name = path.stem.rpartition("-")[0]
        write(f"{name}.fits", adu, "overscan, zero and flat corrected; ADU")
    return written


def main() -> None:
    """Reduce and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="folder of the SBIG night")
    parser.add_argument("out", type=Path, help="folder for the images")
    arguments = parser.parse_args()
    place = reduce(arguments.raw, arguments.out / "project")
    for path in export(place, arguments.out):
        print(path)


if __name__ == "__main__":
    main()
