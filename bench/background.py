"""The background against known skies, and its cost beside sep's in the same run.

The skies are simulated here, apart from skymill's own simulator: Poisson counts of a level,
Moffat stars and exponential discs, with read noise.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from bench.runs import BUILD, Figure, publish
from skymill.frame import Frame
from skymill.kernels.apertures import aperture_sum
from skymill.kernels.cells import cell_statistics
from skymill.kernels.mesh import expand_spline
from skymill.steps.background import background

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

READ_NOISE_E = 5.0
BOX_PX = 64
#: Stars that are measured: their light, the FWHM (Gaussian) and the aperture.
STAR_E, STAR_FWHM_PX, APERTURE_PX = 1e5, 3.0, 8.0


@dataclass(frozen=True)
class Scene:
    """A sky with what lies on it.

    ``tilt`` and ``bow`` are parts of the level from side to side; ``galaxy`` the half-light
    radius of an exponential disc in px, of ``galaxy_sigma`` sky sigma at that radius.
    """

    name: str
    sky_e: float = 400.0
    n_stars: int = 1500
    tilt: float = 0.0
    bow: float = 0.0
    galaxy: float = 0.0
    galaxy_sigma: float = 2.0
    galaxy_at: tuple[float, float] = (0.55, 0.47)
    shape: tuple[int, int] = (2048, 2048)


@dataclass(frozen=True)
class Simulated:
    """A frame, its true sky, the other light on it, and where the stars of known light are."""

    frame: Frame
    sky: NDArray[np.float64]
    others: NDArray[np.float64]
    x: NDArray[np.float64] = field(repr=False)
    y: NDArray[np.float64] = field(repr=False)


SCENES = (
    Scene("stars"),
    Scene("low_sky", sky_e=25.0),
    Scene("gradient", tilt=0.4, bow=0.1),
    Scene("galaxy_1_box", galaxy=BOX_PX),
    Scene("galaxy_2_boxes", galaxy=2 * BOX_PX),
    Scene("galaxy_4_boxes", galaxy=4 * BOX_PX, galaxy_sigma=1.0),
    Scene("galaxy_on_gradient", galaxy=2 * BOX_PX, tilt=0.4, bow=0.1),
    Scene("crowded", n_stars=12_000),
)


def _add_moffat(
    image: NDArray[np.float64], x: float, y: float, flux: float, fwhm: float, half: int = 60
) -> None:
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    ny, nx = image.shape
    y0, y1 = max(0, int(y) - half), min(ny, int(y) + half)
    x0, x1 = max(0, int(x) - half), min(nx, int(x) + half)
    r2 = (np.arange(y0, y1)[:, None] - y) ** 2 + (np.arange(x0, x1)[None, :] - x) ** 2
    image[y0:y1, x0:x1] += flux * 2 / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -3.0


def _add_gaussian(image: NDArray[np.float64], x: float, y: float, flux: float) -> None:
    """Add a star that lies inside the aperture as a whole."""
    s2 = (STAR_FWHM_PX / 2.3548) ** 2
    y0, x0 = int(y) - 12, int(x) - 12
    dy, dx = np.arange(25)[:, None] + y0 - y, np.arange(25)[None, :] + x0 - x
    image[y0 : y0 + 25, x0 : x0 + 25] += (
        flux / (2 * np.pi * s2) * np.exp(-0.5 * (dx**2 + dy**2) / s2)
    )


def simulate(scene: Scene, seed: int) -> Simulated:
    """Simulate a frame of a scene."""
    rng = np.random.default_rng(seed)
    ny, nx = scene.shape
    u, v = (np.arange(nx) + 0.5) / nx - 0.5, (np.arange(ny) + 0.5) / ny - 0.5
    form = scene.tilt * (u[None, :] + 0.5 * v[:, None]) + 4 * scene.bow * (
        u[None, :] ** 2 - v[:, None] ** 2
    )
    sky = scene.sky_e * (1 + form)
    others = np.zeros(scene.shape)
    if scene.galaxy:
        gx, gy = scene.galaxy_at[0] * nx, scene.galaxy_at[1] * ny
        r = np.hypot((np.arange(ny)[:, None] - gy) / 0.7, np.arange(nx)[None, :] - gx)
        edge = scene.galaxy_sigma * np.sqrt(scene.sky_e + READ_NOISE_E**2)
        others = edge * np.exp(-1.678 * (r / scene.galaxy - 1))
    low, high = 200.0**-0.6, 3e5**-0.6
    fluxes = (low + rng.uniform(size=scene.n_stars) * (high - low)) ** (-1 / 0.6)
    for f in fluxes:
        _add_moffat(others, rng.uniform(0, nx), rng.uniform(0, ny), f, 3.0)
    mean = sky + others
    # A lattice of known stars up to the edges.
    places = np.arange(16, min(ny, nx) - 16, 97.0)
    x, y = (a.ravel() for a in np.meshgrid(places, places))
    x, y = x + rng.uniform(-1, 1, x.size), y + rng.uniform(-1, 1, y.size)
    for cx, cy in zip(x, y, strict=True):
        _add_gaussian(mean, cx, cy, STAR_E)
    raw = rng.poisson(mean) + rng.normal(0, READ_NOISE_E, scene.shape)
    err = np.sqrt(np.maximum(raw, 0) + READ_NOISE_E**2)
    frame = Frame(
        raw.astype(np.float32),
        err.astype(np.float32),
        np.zeros(scene.shape, np.uint16),
        fits.Header(),
    )
    return Simulated(frame, sky, others, x, y)


def bias_of(scene: Scene, seed: int) -> tuple[float, float, float]:
    """Return the bias of level (sky sigma), of stars (mmag) and of the rms map (part).

    The bias of the stars is the median over those of the lattice, the light of the galaxy
    and of other stars taken off: it is not sky.
    """
    made = simulate(scene, seed)
    value = background(made.frame).value
    level, rms = value.level_map(), value.rms_map()
    sigma = np.sqrt(made.sky + READ_NOISE_E**2)
    offset = float(np.mean((level - made.sky) / sigma))
    rest = np.ascontiguousarray(made.frame.sci - level - made.others, np.float32)
    sums = aperture_sum(rest, made.frame.err, made.frame.mask, made.x, made.y, APERTURE_PX)
    stars = float(np.median(-2500 * np.log10(sums.flux / STAR_E)))
    return offset, stars, float(np.mean(rms / sigma) - 1)


def truth_figures() -> list[Figure]:
    """Return the rows of the accuracy table, the worst scene first."""
    found = {scene.name: bias_of(scene, 700 + k) for k, scene in enumerate(SCENES)}
    worst = max(found, key=lambda name: abs(found[name][0]))
    rms = max(found, key=lambda name: abs(found[name][2]))
    star = max(found, key=lambda name: abs(found[name][1]))
    listed = "; ".join(f"{name} {values[0]:+.4f}" for name, values in found.items())
    return [
        Figure("background_bias_sky_sigma", abs(found[worst][0]), "<= 0.02", "sigma", len(found),
               f"mean of map less truth, worst of the scenes ({worst}): {listed}"),
        Figure("background_star_bias_mmag", abs(found[star][1]), "< 1", "mmag", len(found),
               f"median of 441 stars of 1e5 electron in a radius of 8 px, worst scene ({star})"),
        Figure("background_rms_bias", abs(found[rms][2]), "<= 0.02", "", len(found),
               f"mean of rms map over the true noise less 1, worst scene ({rms})"),
    ]  # fmt: skip


def _cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _mesh_pass(frame: Frame, state: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """One pass over the pixels and both maps: what `sep.Background` does."""
    s = cell_statistics(frame.sci, None, state, BOX_PX)
    maps = (expand_spline(m, frame.shape, BOX_PX, extrapolate=True) for m in (s.mean, s.scatter))
    level, rms = maps
    return level, rms


def speed_figures(side: int = 4096, rounds: int = 5) -> list[Figure]:
    """Return costs of one frame of ``side`` px, in turn with sep's; the results must agree."""
    import sep

    made = simulate(Scene("bench", n_stars=side * side // 1700, shape=(side, side)), 31)
    frame, state = made.frame, np.zeros((side, side), np.uint8)
    image = frame.sci.copy()

    def theirs() -> tuple[NDArray[Any], NDArray[Any]]:
        found = sep.Background(image, bw=BOX_PX, bh=BOX_PX)
        return found.back(), found.rms()

    _mesh_pass(frame, state), theirs(), background(frame)  # compiled, pages touched
    ratios, costs, whole = [], [], []
    for _ in range(rounds):
        ours_s, ours = _cpu(lambda: _mesh_pass(frame, state))
        sep_s, peer = _cpu(theirs)
        whole_s, result = _cpu(lambda: background(frame))
        ratios.append(sep_s / ours_s)
        costs.append(sep_s)
        whole.append(whole_s)
    _check_agreement(ours, peer, result.value.level_map(), made)
    name = f"{side // 1024}k"
    spread = f"paired ratios {min(ratios):.2f} to {max(ratios):.2f}"
    return [
        Figure(f"background_{name}_speedup_sep", statistics.median(ratios), ">= 1", "", rounds,
               f"one pass with map and rms against sep.Background + back + rms; {spread}"),
        Figure(f"background_{name}_cpu_s", statistics.median(whole), "", "CPU s", rounds,
               "the whole step: sources masked in two rounds, extended objects, flags"),
        Figure(f"background_{name}_sep_cpu_s", statistics.median(costs), "", "CPU s", rounds,
               "sep.Background + back + rms, which masks nothing"),
    ]  # fmt: skip


def _check_agreement(
    ours: tuple[NDArray[Any], NDArray[Any]],
    peer: tuple[NDArray[Any], NDArray[Any]],
    final: NDArray[np.float32],
    made: Simulated,
) -> None:
    """Raise if a fast answer is a wrong one."""
    sigma = float(np.sqrt(np.median(made.sky) + READ_NOISE_E**2))
    level = float(np.median(np.abs(ours[0] - peer[0]))) / sigma
    rms = float(np.median(ours[1] / peer[1]))
    bias = float(np.mean(final - made.sky)) / sigma
    # With sources in, a mean and a mode differ by a part of the noise.
    if level > 0.1 or abs(rms - 1) > 0.05 or abs(bias) > 0.02:
        raise AssertionError(
            f"background: level differs from sep's by {level:.3f} sigma, rms by {rms - 1:+.3f}, "
            f"the step from the truth by {bias:+.4f} sigma"
        )


def figures() -> list[Figure]:
    """Return the rows of the speed table."""
    return speed_figures(2048) + speed_figures(4096)


def main() -> None:
    """Measure, print and write."""
    publish(truth_figures() + figures(), BUILD / "background.json")


if __name__ == "__main__":
    main()
