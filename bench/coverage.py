"""Which test covers which capability and which hazard: writes docs/coverage.md.

``python -m bench.coverage`` scans the tests. A test covers a row of the catalogue of
capabilities if its name or its docstring cites the id (``test_a12_...``, ``"E27: ..."``).
Hazards and their tests are those of tests/faults/registry.py.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from functools import cache

from bench.hazards import covered
from bench.runs import ROOT

__all__ = ["ROWS", "cited", "page"]

PAGE = ROOT / "docs" / "coverage.md"
TESTS = ROOT / "tests"

SYSTEMS = {
    "A": "Calibrator of AutoWISP (SuperPhotPipeline)",
    "E": "ezphot: masters and calibration",
    "O": "opticam: correctors and instrument",
    "S": "STDPipe: pre-processing",
}
#: Row to what it asks for.
ROWS = {
    "A1": "an object holds the parameters; attributes and single calls may replace them",
    "A2": "several overscan areas, half-open or as FITS sections, per amplifier, counted once",
    "A3": "overscan by mean, median, clipped; per frame, row or column; polynomials and splines",
    "A4": "masters given or none, with name and checksum in the header",
    "A5": "masters set after construction; flags of every mask file reach the product",
    "A6": "gain in electron/ADU, per amplifier and per call; camera settings are not gains",
    "A7": "image area, which must agree with the masters; masters cut for windows",
    "A8": "output names made of header values, safe",
    "A9": "distinct errors for areas, masters and gains; bad flat pixels are masked",
    "A10": "overscan methods of the user: function or object, with variance and header cards",
    "A11": "float32 image, error and mask in one file, all finite; pulls of width 1",
    "A12": "the example session: first rows are overscan, two gains, dark set later",
    "A13": "sequence of corrections by the noise model, darks scaled by exposure",
    "A14": "error of the flat with the corrected value, once",
    "A15": "saturation, and leaks in given directions",
    "A16": "eight-bit flags of masks and products",
    "A17": "iterated median of the overscan",
    "A18": "masters with SHA-256, areas and all parameters in the header",
    "A19": "colours of a mosaic sensor as frames and instruments of their own",
    "A20": "quantiles of the good pixels",
    "A21": "compression: lossless, or quantised with the added noise stated",
    "A22": "masters rejected against the noise model; the error belongs to the estimator",
    "A23": "master header: common cards, number and list of inputs, threshold, mean time",
    "A24": "selection of sky flats: pointing, saturation, clouds, high and low",
    "A25": "flats brought to one illumination before they are combined",
    "A26": "flat stack: stars rejected harder, high and low masters",
    "A27": "masters matched by camera, channel and time, nearest within a window",
    "A28": "sources above a threshold of the noise model, not above a quantile of the pixels",
    "A29": "local catalogue, tangential plane and polynomial, hold-out residuals",
    "A32": "magnitude fitting to a reference of many frames, with quality of every frame",
    "A33": "light curves on a common grid, one file per star, BJD_TDB per source",
    "A34": "decorrelation from external parameters that spares a transit",
    "A35": "trend filter with templates on a grid, star and neighbours left out",
    "A36": "terms of linear models in a small grammar",
    "E18": "bad-pixel bits made from masters: hot, dead, unstable, non-linear",
    "E23": "background noise from bias, dark, flat and their errors",
    "E24": "error of each pixel from bias, dark, flat and their errors",
    "E26": "master found by policy; window never exceeded; age and reason recorded",
    "E27": "master bias by read-out mode, clipped",
    "E28": "master darks by exposure, with or without the bias",
    "E29": "master flats per filter from frames of different level",
    "E30": "record of masters without a shared table",
    "E31": "calibration with identity of the masters; a second pass is refused",
    "E36": "which masters a frame used: name, checksum, rule and age, no path",
    "E46": "depth, seeing, zero point and its statistical error in the product, scatter apart",
    "E47": "gain of the detector, electron/ADU",
    "E48": "a camera setting is never used as gain",
    "E32": "reference image by filter, date, overlap, seeing and depth, relaxed in steps; groups",
    "E57": "number of combined frames in every master",
    "E68": "blind solver as one rung; residuals in the product; no working directory changed",
    "E64": "frames brought to one flux scale, the effective gain with them",
    "E65": "frames of unequal seeing: weights by seeing, cores survive clipping, none is smoothed",
    "E66": "stacks: outliers of few frames, holes, error of the valid values, median, header",
    "S8": "effective gain and correlated noise of stacks, and errors that masters share",
    "E67": "frames selected by limits and by a score that others do not change, with reasons",
    "E76": "one source in the catalogues of several filters",
    "O1": "instrument description as a file, with a check that lists what does not fit",
    "O2": "scan of a folder: every image a frame, unreadable files listed with a reason",
    "O3": "bias corrector: mean, its variance, clipping and mask",
    "O4": "dark corrector: exposure scaling, variance by estimator",
    "O5": "flat corrector: each frame scaled by itself, variance propagated",
    "O6": "master file with value, error, mask, number and provenance",
    "O7": "order of operations, with the gain",
    "O12": "transforms as 3 x 3 matrices, reference to image pixels, with unaligned frames",
    "O13": "few stars: robust shift by voting, half turn, residual of each frame recorded",
    "O14": "limits of rotation in degrees, of scale to both sides, of translation per axis",
    "O20": "film of the aligned frames",
    "O24": "frames that are not aligned stay known after a restart",
    "O27": "results of batches merged: transforms, and frames without one",
    "O29": "background of every frame as a table with units",
    "O33": "light curves per source with every epoch, in opticam's layout, too",
    "O34": "results of all frames as sources by frames",
    "A30": "PSF as splines on a fine grid, polynomial over the frame",
    "A31": "list of radii at once, errors with squared weights",
    "E69": "Kron fluxes with SExtractor's definition, and pixels of neighbours",
    "E70": "apertures with local sky, the sky's error counted once",
    "E71": "PSF photometry with groups and residuals, total fluxes",
    "E72": "zero point from isolated stars: statistical error, scatter and floor apart",
    "E73": "colour and position terms fitted together with the zero point, robust and weighted",
    "E74": "depth from random apertures and from planted stars",
    "O25": "orientation in radians from columns to rows, tested at 40 degrees",
    "O36": "elliptical apertures of several scales, growth curve",
    "O37": "optimal photometry with a normalised profile: total fluxes",
    "O40": "local sky of a ring, its error in that of the flux",
    "S16": "aperture, optimal and PSF fluxes with a documented flag table",
    "S17": "zero point with spatial and colour terms, outliers and intrinsic scatter; pulls",
    "S18": "depth against its theory",
    "O42": "barycentric time in the direction of each source",
    "O43": "differential photometry: ensemble, chosen comparisons, one number in all filters",
    "O44": "select, bin, fold, periods, power spectra, correlation, gaps",
    "O30": "list of unaligned frames with a reason each",
    "O15": "cells of the background drawn over the image",
    "O16": "growth curves of the sources asked for, by their labels",
    "O17": "profiles: contours, projections, Gaussian fits",
    "O18": "signal to noise of every catalogue source, in electron",
    "O19": "noise by its terms against the measured scatter",
    "O21": "apertures and annuli drawn over sources, with their orientation",
    "O22": "photometers of skymill and of one's own; curves kept unless overwritten",
    "O23": "forced positions follow each frame's transform; frames without detections do no harm",
    "O26": "selector over the PSF, circular mean of axes",
    "O28": "what the steps had to say, with a level",
    "O31": "a random frame of each key, seeded",
    "O32": "labels of all sources of each key",
    "O35": "catalogue of each key as ECSV with positions on the reference frame and the sky",
    "O38": "pixel variance of the calibration, each noise once",
    "O39": "nearest detection within the tolerance, else a row with a flag",
    "O41": "labels of photometers",
    "O45": "diagnostics: rms over flux with a power law, and a page for each run",
    "O8": "folder of raw files to keys camera:filter",
    "O9": "attributes of the run, read from the files of the workflow",
    "O11": "later runs with other parameters",
    "S1": "masks from saturation, low flat and hot dark as bits",
    "S6": "overscan and trim: any data type, reference pixel moved, input unchanged",
    "S9": "reprojection by SWarp with the calling convention of STDPipe",
    "S10": "reprojection by a Lanczos kernel with the calling convention of STDPipe",
    "S11": "flags of every touched pixel, over all and over any of the frames",
    "S12": "footprint: the known share of the kernel",
    "E63": "reprojection by SWarp that keeps the sky and leaves the input alone",
    "S14": "error maps without the absolute value, terms of masters included",
    "S15": "refinement by patterns, SIP and TPV and the way between them, hold-out residuals",
}
LATER = {
    "E75, S19": "image subtraction is not built",
}

HEAD = """\
# Coverage: what is tested where

Written by `python -m bench.coverage`; a test fails if this page is not up to date.

Other systems for the reduction of images offer much that skymill must offer, too. Their
capabilities have stable ids, A for AutoWISP, E for ezphot, O for opticam, S for STDPipe; here are
those of detector, masters and calibration, in our words. A test covers a row if its name or its
docstring cites the id; a file, if only that of the file does. The second part does the same for the
[hazards](hazards.md) of raw data.
"""


@cache
def cited() -> dict[str, list[str]]:
    """Return rows with the tests that cite them, ``file::function`` relative to tests/.

    Files whose docstring cites a row count where no single test does.
    """
    single: dict[str, list[str]] = defaultdict(list)
    whole: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        name = path.relative_to(TESTS).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for row in _ids(ast.get_docstring(tree) or ""):
            whole[row].append(name)
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            text = " ".join(node.name.upper().split("_")) + " " + (ast.get_docstring(node) or "")
            for row in _ids(text):
                single[row].append(f"{name}::{node.name}")
    return {row: single.get(row) or whole.get(row, []) for row in ROWS}


def _ids(text: str) -> set[str]:
    """Rows in a text; ``A1-A20`` and ``E27 to E29`` are ranges."""
    found = set(re.findall(r"\b[AEOS]\d{1,2}\b", text))
    for letter, first, last in re.findall(r"\b([AEOS])(\d{1,2})(?: to |-)\1(\d{1,2})\b", text):
        found |= {f"{letter}{n}" for n in range(int(first), int(last) + 1)}
    return found & set(ROWS)


def _nodes(nodes: list[str] | tuple[str, ...]) -> str:
    """Tests for a cell of a table: file once, then its functions."""
    files: dict[str, list[str]] = {}
    for node in nodes:
        file, _, function = node.partition("::")
        files.setdefault(file, []).append(function.replace("|", "\\|"))
    cells = []
    for file, functions in files.items():
        names = ", ".join(f"`{name}`" for name in functions if name)
        cells.append(f"[{file}](../tests/{file})" + (f": {names}" if names else ""))
    return "<br>".join(cells)


def _what() -> dict[str, str]:
    """Hazards as docs/hazards.md describes them."""
    text = (ROOT / "docs" / "hazards.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| (H\d{3}) \| (.*?) \| [^|]* \|$", text, re.MULTILINE))


def page() -> str:
    """Return the text of docs/coverage.md."""
    lines, tests = [HEAD, "## Capabilities"], cited()
    for letter, system in SYSTEMS.items():
        lines += ["", f"### {system}", "", "| row | capability | tests |", "|---|---|---|"]
        for row, what in ROWS.items():
            if row[0] == letter:
                lines.append(f"| {row} | {what} | {_nodes(tests[row]) or '**none**'} |")
    lines += ["", *(f"Not yet: {rows}; {why}." for rows, why in LATER.items())]
    hazards, waiting = covered()
    what = _what()
    lines += ["", "## Hazards", "", "| id | input or situation | tests |", "|---|---|---|"]
    for name in sorted({*hazards, *waiting}):
        cell = _nodes(hazards[name]) if name in hazards else f"later: {waiting[name]}"
        lines.append(f"| {name} | {what.get(name, '')} | {cell} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page and say which rows have no test."""
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    bare = [row for row, nodes in cited().items() if not nodes]
    print(f"{PAGE.relative_to(ROOT)}: {len(ROWS) - len(bare)} of {len(ROWS)} rows have a test")
    if bare:
        sys.exit(f"no test cites {', '.join(bare)}")


if __name__ == "__main__":
    main()
