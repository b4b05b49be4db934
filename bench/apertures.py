"""Aperture sums with errors: speed against sep, on the same image, sources and radii.

Ours is one call for all radii; sep is called once a radius with ``err`` and exact overlap
(``subpix=0``). Fluxes must agree to 1e-6 of the largest. sep's errors are not those of ours:
it adds ``sum(w V)``, which is too large by the factors of docs/measure.md.

``python -m bench.apertures``
"""

from __future__ import annotations

import gc
import time

import numpy as np

from bench.runs import BUILD, Figure, publish
from skymill.kernels.circles import aperture_sums

__all__ = ["apertures"]

RADII = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def apertures(n: int = 10_000, side: int = 2048, pairs: int = 9) -> list[Figure]:
    """Return the figures of one comparison.

    Parameters
    ----------
    n, side : int
        Sources, and side of the image in px.
    pairs : int
        Paired measurements of CPU time; the median of the ratios is the figure.

    Raises
    ------
    AssertionError
        If the fluxes differ.
    """
    import sep

    rng = np.random.default_rng(20)
    sci = rng.normal(0, 10, (side, side)).astype(np.float32)
    err = rng.uniform(8, 12, sci.shape).astype(np.float32)
    mask = np.zeros(sci.shape, np.uint16)
    x, y = rng.uniform(20, side - 20, (2, n))
    aperture_sums(sci, err, mask, x[:10], y[:10], RADII)
    ours, theirs = np.empty(pairs), np.empty(pairs)
    for k in range(pairs):
        gc.collect()
        start = time.process_time()
        found = aperture_sums(sci, err, mask, x, y, RADII)
        middle = time.process_time()
        peer = [sep.sum_circle(sci, x, y, r, err=err, subpix=0) for r in RADII]
        ours[k], theirs[k] = middle - start, time.process_time() - middle
    flux = np.stack([row[0] for row in peer], axis=1)
    off = float(np.max(np.abs(found.flux - flux)) / np.max(np.abs(flux)))
    if off > 1e-6:
        raise AssertionError(f"fluxes differ from sep's by {off:.1e}")
    note = f"{n} sources x {len(RADII)} radii with errors, CPU, median of pairs"
    return [
        Figure("aperture_speedup_sep", float(np.median(theirs / ours)), ">= 1", "", pairs, note),
        Figure("aperture_cpu_s", float(np.median(ours)), "", "s", pairs, note),
        Figure("aperture_flux_difference", off, "< 1e-6", "", n, "against sep, of the largest"),
    ]


if __name__ == "__main__":
    publish(apertures(), BUILD / "apertures.json")
