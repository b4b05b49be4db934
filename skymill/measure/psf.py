"""The effective point-spread function of a frame, varying over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.kernels.apertures import overlap_area
from skymill.kernels.circles import aperture_sums
from skymill.kernels.psf import fit_groups, improve_tables, psf_stamp
from skymill.measure.rings import local_sky, mask_sources
from skymill.measure.stars import choose_stars

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["PSFModel"]

#: Radius within which the light of the model is 1, in FWHM.
_RADIUS_FWHM = 4.0
#: Rounds of conjugate gradients between two fits of the stars, and such cycles.
_ROUNDS, _CYCLES = 10, 5
#: How far the tables may lie from the profile they begin with: part of its value there, and
#: of its peak. Where stars say little, in the wings, the profile stays.
_PRIOR_LOCAL, _PRIOR_PEAK = 0.3, 0.003
#: The same for what varies over the frame, smaller.
_VARIATION = 0.25
#: Relative error of a profile that keeps the brightest star from ruling.
_SHAPE_ERROR = 0.01
#: Stars for each degree of the polynomial over the frame.
_STARS_FOR_DEGREE = (1, 20, 80)
#: A star is no star if its chi-square is this many times the median of all.
_BAD_CHI2 = 4.0


@dataclass(frozen=True, eq=False)
class PSFModel:
    """An effective PSF: what part of a star's light each pixel holds.

    Parameters
    ----------
    tables : ndarray of float64, shape (k, m, m)
        Coefficients of cubic B-splines with ``oversampling`` nodes per px, one table for
        each term of a polynomial of the position on the frame.
    oversampling : int
        Nodes per px.
    degree : int
        Degree of the polynomial: 0, 1 or 2.
    shape : (int, int)
        Shape (ny, nx) of the frame.
    radius_px : float
        At every position the light within this radius is 1: fluxes are total fluxes in the
        sense of an aperture of this radius.
    fwhm_px : float
        FWHM that the model began with.
    scale, scale_err : float
        Flux of an aperture of ``radius_px`` over that of the fit, of the stars of the
        model, and its error. Fluxes are multiplied by the scale; the error, common to all
        sources of the frame, is that of the modelling and no part of ``flux_err``.
    n_stars : int
        Stars behind the model; 0 for an analytic profile.
    """

    tables: Floats
    oversampling: int
    degree: int
    shape: tuple[int, int]
    radius_px: float
    fwhm_px: float
    scale: float = 1.0
    scale_err: float = 0.0
    n_stars: int = 0

    def basis(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return the terms of the polynomial at positions, normalised, shape (n, k).

        ``tensordot(basis, tables)`` is then a table with light 1 within ``radius_px``.
        """
        terms = _polynomial(x, y, self.shape, self.degree)
        return np.asarray(terms / (terms @ self._light)[:, None])

    def stamp(self, x: float, y: float, half: int | None = None) -> Floats:
        """Return the effective PSF at a position: a square about its central pixel.

        Parameters
        ----------
        x, y : float
            0-based position on the frame.
        half : int, optional
            The square has ``2 half + 1`` px a side; by default it holds ``radius_px``.
        """
        reach = self.half if half is None else half
        table = np.tensordot(self.basis(x, y)[0], self.tables, axes=1)
        out = [np.empty((2 * reach + 1,) * 2) for _ in range(3)]
        dx, dy = x - np.floor(x + 0.5), y - np.floor(y + 0.5)
        psf_stamp(table, self.oversampling, dx, dy, reach, *out)
        return out[0]

    @property
    def half(self) -> int:
        """Half side of stamps in px."""
        return int(np.ceil(self.radius_px)) + 1

    def photutils(self) -> Any:
        """Return the model as `photutils.psf.ImagePSF` or `GriddedPSFModel`.

        A model that varies is sampled on 4 x 4 positions. The fluxes of photutils are those
        of this model; the errors are not: it adds ``sum(w V)`` for apertures, and weighs
        pixels by their own variance in fits, which biases faint stars.
        """
        from astropy.nddata import NDData
        from photutils.psf import GriddedPSFModel, ImagePSF

        ny, nx = self.shape
        if self.degree == 0:
            return ImagePSF(self._nodes((nx - 1) / 2, (ny - 1) / 2), oversampling=self.oversampling)
        grid = [(x, y) for y in np.linspace(0, ny - 1, 4) for x in np.linspace(0, nx - 1, 4)]
        data = np.stack([self._nodes(x, y) for x, y in grid])
        meta = {"grid_xypos": grid, "oversampling": self.oversampling}
        return GriddedPSFModel(NDData(data, meta=meta))

    def _nodes(self, x: float, y: float) -> Floats:
        """Values of the spline at its nodes."""
        return _at_nodes(np.tensordot(self.basis(x, y)[0], self.tables, axes=1))

    @cached_property
    def _light(self) -> Floats:
        """Light within the radius of each table."""
        m = self.tables.shape[1]
        offsets = (np.arange(m) - (m - 1) // 2) / self.oversampling
        inside = np.array(
            [[overlap_area(dx, dy, self.radius_px) for dx in offsets] for dy in offsets]
        )
        return np.array(
            [
                float((inside * _at_nodes(table)).sum()) / self.oversampling**2
                for table in self.tables
            ]
        )

    @classmethod
    def from_profile(
        cls,
        fwhm_px: float,
        shape: tuple[int, int],
        *,
        beta: float | None = 3.5,
        ellipticity: float = 0.0,
        theta: float = 0.0,
        radius_px: float | None = None,
    ) -> PSFModel:
        """Return an analytic profile, integrated over the pixels.

        Parameters
        ----------
        fwhm_px : float
            FWHM (geometric mean of the axes) in px.
        shape : (int, int)
            Shape (ny, nx) of the frame.
        beta : float or None
            Exponent of a Moffat profile; None for a Gaussian.
        ellipticity, theta : float
            ``1 - b/a`` and angle of the major axis from +x towards +y in radians.
        radius_px : float, optional
            Radius that holds light 1; by default 4 FWHM.
        """
        radius = _RADIUS_FWHM * fwhm_px if radius_px is None else float(radius_px)
        over = 4 if fwhm_px < 2 else (3 if fwhm_px < 3 else 2)
        half = int(np.ceil(radius)) + 1
        reach = half * over + over + 2
        offsets = np.arange(-reach, reach + 1) / over
        nodes, weights = np.polynomial.legendre.leggauss(6)
        value = np.zeros((offsets.size, offsets.size))
        ratio = 1.0 - ellipticity
        wide, narrow = fwhm_px / np.sqrt(ratio), fwhm_px * np.sqrt(ratio)
        cos, sin = np.cos(theta), np.sin(theta)
        for v, wv in zip(0.5 * nodes, 0.5 * weights, strict=True):
            for u, wu in zip(0.5 * nodes, 0.5 * weights, strict=True):
                dx, dy = (offsets + u)[None, :], (offsets + v)[:, None]
                # Distance squared in half widths.
                r2 = (2 * (dx * cos + dy * sin) / wide) ** 2
                r2 = r2 + (2 * (dy * cos - dx * sin) / narrow) ** 2
                light = (
                    np.exp(-np.log(2) * r2)
                    if beta is None
                    else (1 + r2 * (2 ** (1 / beta) - 1)) ** -beta
                )
                value += wu * wv * light
        from scipy.ndimage import spline_filter

        table = np.asarray(spline_filter(value, order=3, mode="mirror"), np.float64)
        raw = cls(table[None] / table.sum() * over**2, over, 0, shape, radius, float(fwhm_px))
        return cls(raw.tables / raw._light[0], over, 0, shape, radius, float(fwhm_px))

    @classmethod
    def fit(
        cls,
        sci: NDArray[np.float32],
        err: NDArray[np.float32],
        mask: NDArray[np.uint16] | None,
        x: ArrayLike,
        y: ArrayLike,
        *,
        fwhm_px: float,
        usable: ArrayLike | None = None,
        stars: ArrayLike | None = None,
        degree: int | None = None,
        beta: float = 3.5,
        radius_px: float | None = None,
        minimum_snr: float = 50.0,
        maximum: int = 200,
    ) -> PSFModel | None:
        """Build the effective PSF of a frame from its bright, isolated stars.

        It starts from a Moffat profile. Fluxes and positions of the stars are fitted with
        the present model, then the tables to the residuals of all stars, in turn (Anderson &
        King 2000); pixels of neighbours are left out.

        Parameters
        ----------
        sci, err, mask, x, y
            As for `measure_apertures`, with all sources of the frame.
        fwhm_px : float
            FWHM of the frame.
        usable : array_like of bool, optional
            Sources that may be stars of the model.
        stars : array_like of int, optional
            Indices of the stars, instead of a choice.
        degree : int, optional
            Degree of the polynomial over the frame, 0 to 2; by default what the number of
            stars allows (20 for 1, 80 for 2).
        beta : float
            Exponent of the Moffat profile to start from.
        radius_px : float, optional
            Radius that holds light 1; by default 4 FWHM.
        minimum_snr, maximum : float, int
            Choice of the stars.

        Returns
        -------
        PSFModel or None
            None without a star.
        """
        shape = (np.shape(sci)[0], np.shape(sci)[1])
        bits = np.zeros(shape, np.uint16) if mask is None else mask
        px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
        start = cls.from_profile(fwhm_px, shape, beta=beta, radius_px=radius_px)
        small = aperture_sums(sci, err, bits, px, py, [1.25 * fwhm_px])
        light, error = small.flux[:, 0], small.flux_err[:, 0]
        chosen = (
            choose_stars(
                shape, px, py, light, error, separation_px=start.radius_px + fwhm_px,
                margin_px=float(start.half), usable=usable, minimum_snr=minimum_snr,
                maximum=maximum,
            )
            if stars is None
            else np.atleast_1d(np.asarray(stars, np.int64))
        )  # fmt: skip
        if not chosen.size:
            return None
        if degree is None:
            degree = max(d for d in range(3) if chosen.size >= _STARS_FOR_DEGREE[d])
        sample = _Sample.of(sci, err, bits, px, py, light / error, chosen, start)
        return _build(start, sample, degree)


@dataclass(frozen=True, eq=False)
class _Sample:
    """The stars of a model: stamps, variances and positions."""

    stamps: Floats
    variance: Floats
    good: NDArray[np.bool_]
    x: Floats
    y: Floats
    flux: Floats
    flux_err: Floats
    sky_variance: float

    @classmethod
    def of(
        cls,
        sci: NDArray[np.float32],
        err: NDArray[np.float32],
        mask: NDArray[np.uint16],
        x: Floats,
        y: Floats,
        snr: Floats,
        stars: NDArray[np.int64],
        model: PSFModel,
    ) -> _Sample:
        """Cut the stamps, without the local sky; neighbours are masked."""
        others = np.ones(x.size, bool)
        others[stars] = False
        fwhm, radius = model.fwhm_px, model.radius_px
        hidden = mask_sources(mask, x[others], y[others], snr[others], fwhm)
        quiet = mask_sources(hidden, x[stars], y[stars], snr[stars], fwhm)
        ring = (radius + fwhm, radius + 4 * fwhm)
        sky = local_sky(sci, quiet, x[stars], y[stars], ring)
        total = aperture_sums(sci, err, hidden, x[stars], y[stars], [radius], bad_bits=0xFFFF)
        flux = total.flux[:, 0] - total.area[:, 0] * sky.level
        flux_err = np.hypot(total.flux_err[:, 0], total.area[:, 0] * sky.level_err)
        half, n = model.half, stars.size
        side = 2 * half + 1
        planes = (np.zeros((n, side, side)), np.ones((n, side, side)))
        good = np.zeros((n, side, side), bool)
        ny, nx = sci.shape
        for k, star in enumerate(stars):
            ci, cj = int(np.floor(x[star] + 0.5)), int(np.floor(y[star] + 0.5))
            y0, y1, x0, x1 = max(cj - half, 0), min(cj + half + 1, ny), max(ci - half, 0), min(
                ci + half + 1, nx)  # fmt: skip
            here = (slice(y0, y1), slice(x0, x1))
            there = (
                k,
                slice(y0 - cj + half, y1 - cj + half),
                slice(x0 - ci + half, x1 - ci + half),
            )
            value, sigma = sci[here].astype(np.float64), err[here].astype(np.float64)
            fine = (hidden[here] == 0) & np.isfinite(value) & np.isfinite(sigma) & (sigma > 0)
            planes[0][there] = np.where(fine, value - sky.level[k], 0.0)
            planes[1][there] = np.where(fine, sigma**2, 1.0)
            good[there] = fine
        sane = np.isfinite(err) & (err > 0) & (quiet == 0)
        variance = float(np.median(err[sane].astype(np.float64) ** 2)) if sane.any() else 1.0
        return cls(planes[0], planes[1], good, x[stars], y[stars], flux, flux_err, variance)

    def take(self, keep: NDArray[np.bool_]) -> _Sample:
        return _Sample(
            self.stamps[keep], self.variance[keep], self.good[keep], self.x[keep], self.y[keep],
            self.flux[keep], self.flux_err[keep], self.sky_variance,
        )  # fmt: skip


def _build(start: PSFModel, sample: _Sample, degree: int) -> PSFModel | None:
    """Improve the tables and refit the stars in turn; then measure the scale."""
    keep = np.isfinite(sample.flux) & (sample.flux > 0) & sample.good.any(axis=(1, 2))
    sample = sample.take(keep)
    if not len(sample.x):
        return None
    terms = _polynomial(sample.x, sample.y, start.shape, degree).shape[1]
    tables = np.zeros((terms, *start.tables.shape[1:]))
    tables[0] = start.tables[0]
    prior = tables.copy()
    peak = float(start.tables.max())
    spread = _PRIOR_LOCAL * np.abs(start.tables[0]) + _PRIOR_PEAK * peak
    certainty = np.broadcast_to(1 / spread**2, tables.shape).copy()
    certainty[1:] /= _VARIATION**2
    model = _with(start, tables, degree, len(sample.x))
    flux, x, y, chi2 = sample.flux, sample.x, sample.y, np.zeros(len(sample.x))
    for cycle in range(_CYCLES):
        flux, _, x, y, chi2 = _fit_stars(model, sample, sample.x, sample.y)
        fine = (flux > 0) & (chi2 <= _BAD_CHI2 * max(float(np.median(chi2)), 1.0))
        if not fine.any():
            return None
        if cycle == 1 and not fine.all():
            sample = sample.take(fine)
            flux, x, y = flux[fine], x[fine], y[fine]
        # Nothing but the positions that were given says where the middle of a star is.
        x, y = x - np.median(x - sample.x), y - np.median(y - sample.y)
        half = model.half
        dx, dy = x - np.floor(sample.x + 0.5), y - np.floor(sample.y + 0.5)
        basis = model.basis(sample.x, sample.y)
        profile = np.stack([model.stamp(a, b, half) for a, b in zip(x, y, strict=True)])
        smooth = sample.sky_variance + np.maximum(flux[:, None, None] * profile, 0.0)
        smooth += (_SHAPE_ERROR * flux[:, None, None] * profile) ** 2
        weights = np.where(sample.good, flux[:, None, None] ** 2 / smooth, 0.0)
        tables = model.tables.copy()
        improve_tables(
            tables, prior, certainty, model.oversampling, sample.stamps, weights, flux, dx, dy,
            basis, _ROUNDS,
        )  # fmt: skip
        model = _with(start, tables, degree, len(sample.x))
    flux, flux_err, *_ = _fit_stars(model, sample, sample.x, sample.y)
    scale, scale_err = _scale(sample, flux, flux_err)
    return PSFModel(
        model.tables, model.oversampling, degree, model.shape, model.radius_px, model.fwhm_px,
        scale, scale_err, len(sample.x),
    )  # fmt: skip


def _with(start: PSFModel, tables: Floats, degree: int, stars: int) -> PSFModel:
    return PSFModel(
        tables, start.oversampling, degree, start.shape, start.radius_px, start.fwhm_px,
        n_stars=stars,
    )  # fmt: skip


def _fit_stars(
    model: PSFModel, sample: _Sample, x0: Floats, y0: Floats
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Fit flux and position of every star on its own stamp."""
    n, half = len(x0), model.half
    side = 2 * half + 1
    basis = model.basis(x0, y0)
    base_x, base_y = np.floor(x0 + 0.5) - half, np.floor(y0 + 0.5) - half
    new = {name: np.zeros(n) for name in ("flux", "err", "x", "y", "chi2")}
    for k in range(n):
        rest = sample.stamps[k].copy()
        one = {name: np.zeros(1) for name in ("err", "xe", "ye", "gain", "chi2")}
        x, y = np.array([x0[k] - base_x[k]]), np.array([y0[k] - base_y[k]])
        light, count, status = np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64)
        fit_groups(
            rest, sample.variance[k], sample.good[k], np.array([sample.sky_variance]), 0.0,
            model.tables, model.oversampling, basis[k : k + 1], np.zeros(1, np.int64),
            np.ones(1, np.int64), x, y, light, np.zeros(1), True,
            min(2.0 * model.fwhm_px, side / 2), half, 12, model.fwhm_px, 5.0, x.copy(), y.copy(),
            one["err"], one["xe"], one["ye"], one["gain"], one["chi2"], count, status,
        )  # fmt: skip
        new["flux"][k], new["err"][k] = light[0], one["err"][0]
        new["x"][k], new["y"][k] = x[0] + base_x[k], y[0] + base_y[k]
        new["chi2"][k] = one["chi2"][0] / max(int(count[0]) - 3, 1)
    return new["flux"], new["err"], new["x"], new["y"], new["chi2"]


def _scale(sample: _Sample, flux: Floats, flux_err: Floats) -> tuple[float, float]:
    """Ratio of aperture to fitted flux of the stars: clipped weighted mean and its error."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sample.flux / flux
        # The aperture holds most of the noise, and that of the fit within it.
        variance = np.maximum(sample.flux_err**2 - flux_err**2, 0.04 * sample.flux_err**2) / flux**2
    fine = np.isfinite(ratio) & np.isfinite(variance) & (variance > 0)
    if not fine.any():
        return 1.0, float("nan")
    ratio, variance = ratio[fine], variance[fine]
    centre = np.median(ratio)
    scatter = 1.4826 * np.median(np.abs(ratio - centre))
    kept = np.abs(ratio - centre) <= 4 * np.sqrt(variance + scatter**2)
    weight = 1 / (variance[kept] + max(scatter**2 - np.median(variance[kept]), 0.0))
    mean = float((weight * ratio[kept]).sum() / weight.sum())
    spread = float((weight * (ratio[kept] - mean) ** 2).sum()) / max(int(kept.sum()) - 1, 1)
    return mean, float(np.sqrt(max(spread, 1.0) / weight.sum()))


def _polynomial(x: ArrayLike, y: ArrayLike, shape: tuple[int, int], degree: int) -> Floats:
    """Terms 1, u, v, u^2, u v, v^2 with u, v from -1 to 1 over the frame, shape (n, k)."""
    ny, nx = shape
    u = 2 * np.atleast_1d(np.asarray(x, np.float64)) / max(nx - 1, 1) - 1
    v = 2 * np.atleast_1d(np.asarray(y, np.float64)) / max(ny - 1, 1) - 1
    # Beyond the frame the model stays as it is at the edge.
    u, v = np.clip(np.nan_to_num(u), -1, 1), np.clip(np.nan_to_num(v), -1, 1)
    powers = [(p - q, q) for p in range(degree + 1) for q in range(p + 1)]
    return np.stack([u**p * v**q for p, q in powers], axis=1)


def _at_nodes(table: Floats) -> Floats:
    """Values of a cubic B-spline at its nodes, from its coefficients."""
    padded = np.pad(table, 1)
    along = (padded[:, :-2] + 4 * padded[:, 1:-1] + padded[:, 2:]) / 6
    return np.asarray((along[:-2] + 4 * along[1:-1] + along[2:]) / 6)
