"""What is measured of each source: apertures, optimal weights, a PSF, or what one likes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "AperturePhotometer",
    "OptimalPhotometer",
    "PSFPhotometer",
    "Photometer",
    "label_of",
    "workflow_settings",
]

_RING_FWHM = (4.0, 7.0)


@runtime_checkable
class Photometer(Protocol):
    """What a photometer of one's own must have.

    Optional attributes: ``forced`` (bool, default True), ``tolerance`` (float, for matching),
    ``local_background`` (anything, for the label), ``label`` (str).
    """

    def compute(
        self,
        image: NDArray[np.float32],
        error: NDArray[np.float32],
        mask: NDArray[np.uint16],
        coordinates: Floats,
        psf: Mapping[str, float],
    ) -> Mapping[str, Any]:
        """Measure sources on one frame.

        Parameters
        ----------
        image, error : ndarray of float32, shape (ny, nx)
            Background-subtracted frame in electron and its one-sigma error. Read-only.
        mask : ndarray of uint16, shape (ny, nx)
            `skymill.frame.MaskBit`; 0 is good.
        coordinates : ndarray of float64, shape (n, 2)
            0-based x and y on this frame; NaN for a source that is not to be measured.
        psf : mapping
            fwhm_px, semimajor_sigma, semiminor_sigma (px), orientation (degree, from x towards
            y), level_err (electron, error of the subtracted level) of this frame.

        Returns
        -------
        mapping of str to array_like, shape (n,)
            ``flux`` and ``flux_err``; further columns as wanted, for example ``sky``,
            ``sky_err`` and ``flags`` (`skymill.measure.PhotFlag`).
        """
        ...


@dataclass(frozen=True)
class _Common:
    """What the photometers of skymill share.

    Parameters
    ----------
    forced : bool
        Measure at the positions of the catalogue, carried into each frame; otherwise at the
        nearest detection of the frame, and sources without one are rows with a flag.
    match_sources : bool, optional
        The opposite of `forced`, by its other name.
    local_background : (float, float), optional
        Radii of the annulus of the local sky, in FWHM; None: the background of the frame only.
    tolerance : float
        Detections further than this times ``sqrt(sa**2 + sb**2)`` (sigma of the PSF along its
        axes) are not the source.
    """

    forced: bool = True
    match_sources: bool | None = None
    local_background: tuple[float, float] | None = _RING_FWHM
    tolerance: float = 3.0

    def __post_init__(self) -> None:
        if self.match_sources is not None:
            object.__setattr__(self, "forced", not self.match_sources)
        ring = self.local_background
        if ring is not None and not 0 < ring[0] < ring[1]:
            raise ConfigError(f"photometer: local_background must be (inner, outer), got {ring}")
        if not self.tolerance > 0:
            raise ConfigError(f"photometer: tolerance must be positive, got {self.tolerance}")

    @property
    def label(self) -> str:
        """Name of the folder of its light curves."""
        return label_of(self)

    def _sky(
        self, image: Any, error: Any, mask: Any, x: Floats, y: Floats, psf: Mapping[str, float]
    ) -> dict[str, Any]:
        """Annulus in px and the mask for it, without the light of the sources."""
        if self.local_background is None:
            return {"level_err": float(psf.get("level_err", 0.0))}
        from skymill.measure import mask_sources, measure_apertures

        fwhm = psf["fwhm_px"]
        small = measure_apertures(image, error, mask, x, y, [1.25 * fwhm])
        with np.errstate(invalid="ignore", divide="ignore"):
            snr = np.asarray(small["flux_0"] / small["flux_err_0"])
        return {
            "annulus": [float(r) * fwhm for r in self.local_background],
            "sky_mask": mask_sources(mask, x, y, snr, fwhm),
        }


@dataclass(frozen=True)
class AperturePhotometer(_Common):
    """Sums in circles or ellipses.

    Parameters
    ----------
    radius_fwhm : float
        Radius of a circle in FWHM of each frame.
    semimajor_px, semiminor_px : float, optional
        Fixed semi-axes of an ellipse in px, in place of the radius.
    elliptical : bool
        An ellipse with the axis ratio and the orientation of the PSF of each frame, and the
        area of the circle.
    orientation_deg : float, optional
        Angle of the long axis from the x axis towards the y axis; by default that of the PSF of
        the frame.
    """

    radius_fwhm: float = 1.5
    semimajor_px: float | None = None
    semiminor_px: float | None = None
    elliptical: bool = False
    orientation_deg: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = [self.radius_fwhm, self.semimajor_px or 1.0, self.semiminor_px or 1.0]
        if min(sizes) <= 0:
            raise ConfigError("photometer: radius and semi-axes must be positive")
        if self.semiminor_px is not None and self.semimajor_px is None:
            raise ConfigError("photometer: semiminor_px needs semimajor_px")

    @property
    def is_circle(self) -> bool:
        """Whether the workflow itself measures it."""
        return not self.elliptical and self.semimajor_px is None

    def axes(self, psf: Mapping[str, float]) -> tuple[float, float, float]:
        """Return semi-axes in px and the angle in degree on a frame."""
        angle = psf["orientation"] if self.orientation_deg is None else self.orientation_deg
        if self.semimajor_px is not None:
            return self.semimajor_px, self.semiminor_px or self.semimajor_px, float(angle)
        radius = self.radius_fwhm * psf["fwhm_px"]
        if not self.elliptical:
            return radius, radius, float(angle)
        stretch = np.sqrt(psf["semimajor_sigma"] / psf["semiminor_sigma"])
        return float(radius * stretch), float(radius / stretch), float(angle)

    def compute(
        self, image: Any, error: Any, mask: Any, coordinates: Floats, psf: Mapping[str, float]
    ) -> dict[str, Any]:
        """Measure; see `Photometer`."""
        from skymill.measure import measure_ellipses

        x, y = coordinates[:, 0], coordinates[:, 1]
        a, b, angle = self.axes(psf)
        found = measure_ellipses(
            image, error, mask, x, y, a, b, np.deg2rad(angle),
            **self._sky(image, error, mask, x, y, psf),
        )  # fmt: skip
        return _columns(found, "0")


@dataclass(frozen=True)
class OptimalPhotometer(_Common):
    """Sums weighted by the profile of the star (Naylor 1998): total fluxes.

    Parameters
    ----------
    weights : {"sky", "photons"}
        See `skymill.measure.measure_optimal`.
    """

    weights: str = "sky"
    method: ClassVar[str] = "optimal"

    def compute(
        self, image: Any, error: Any, mask: Any, coordinates: Floats, psf: Mapping[str, float]
    ) -> dict[str, Any]:
        """Measure; see `Photometer`."""
        from skymill.measure import measure_optimal

        x, y = coordinates[:, 0], coordinates[:, 1]
        found = measure_optimal(
            image, error, mask, x, y, _model(image, error, mask, x, y, psf),
            weights=self.weights, **self._sky(image, error, mask, x, y, psf),
        )  # fmt: skip
        return _columns(found, "opt")


@dataclass(frozen=True)
class PSFPhotometer(_Common):
    """Fits of the frame's PSF to groups of stars, at fixed positions if forced.

    Parameters
    ----------
    weights : {"sky", "photons"}
        See `skymill.measure.measure_psf`.
    """

    weights: str = "sky"
    method: ClassVar[str] = "psf"

    def compute(
        self, image: Any, error: Any, mask: Any, coordinates: Floats, psf: Mapping[str, float]
    ) -> dict[str, Any]:
        """Measure; see `Photometer`."""
        from skymill.measure import measure_psf

        x, y = coordinates[:, 0], coordinates[:, 1]
        sky = self._sky(image, error, mask, x, y, psf)
        sky.pop("sky_mask", None)  # the fit looks at the image without stars
        found = measure_psf(
            image, error, mask, x, y, _model(image, error, mask, x, y, psf),
            positions="fixed" if self.forced else "free", weights=self.weights, **sky,
        )  # fmt: skip
        return _columns(found.table, "psf")


def _model(
    image: Any, error: Any, mask: Any, x: Floats, y: Floats, psf: Mapping[str, float]
) -> Any:
    """PSF of the frame from the sources that are measured; a profile if they are too few."""
    from skymill.measure import PSFModel

    known = np.isfinite(x) & np.isfinite(y)
    fwhm = float(psf["fwhm_px"])
    model = PSFModel.fit(image, error, mask, x[known], y[known], fwhm_px=fwhm)
    if model is not None and model.n_stars >= 3:
        return model
    ratio = psf["semiminor_sigma"] / psf["semimajor_sigma"]
    return PSFModel.from_profile(
        fwhm, image.shape, ellipticity=1 - ratio, theta=float(np.deg2rad(psf["orientation"]))
    )


def _columns(found: Table, kind: str) -> dict[str, Any]:
    out = {"flux": found[f"flux_{kind}"], "flux_err": found[f"flux_err_{kind}"]}
    for name in ("sky", "sky_err", "flags", "mask_or"):
        if name in found.colnames:
            out[name] = found[name]
    return {name: np.asarray(values) for name, values in out.items()}


def label_of(photometer: Any) -> str:
    """Return the name under which the light curves of a photometer are kept.

    The name of its class in snake case without "photometer", with the prefix ``forced_`` and the
    suffix ``_annulus`` where they hold; or its own attribute ``label``.
    """
    own = None if isinstance(photometer, _Common) else getattr(photometer, "label", None)
    if isinstance(own, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", own):
        return own
    name = type(photometer).__name__
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    words = re.sub(r"_?photometer$", "", words).strip("_") or "photometer"
    if getattr(photometer, "local_background", None) is not None:
        words += "_annulus"
    return f"forced_{words}" if getattr(photometer, "forced", True) else words


def workflow_settings(photometer: Any) -> tuple[dict[str, Any], str] | None:
    """Return settings of the step photometry that measure this, and the column of the flux.

    None if the workflow does not measure it: ellipses, matched detections, other functions.
    """
    if not isinstance(photometer, _Common) or not photometer.forced:
        return None
    settings: dict[str, Any] = {"background": "mesh"}
    if photometer.local_background is not None:
        settings = {"background": "annulus", "annulus_fwhm": list(photometer.local_background)}
    if isinstance(photometer, AperturePhotometer):
        if not photometer.is_circle:
            return None
        radii = sorted({0.75, 2.5, float(photometer.radius_fwhm)})
        index = radii.index(float(photometer.radius_fwhm))
        return settings | {"apertures_fwhm": radii, "main_aperture": index}, "flux"
    if getattr(photometer, "weights", "sky") != "sky":
        return None
    if isinstance(photometer, OptimalPhotometer):
        return settings | {"methods": ["optimal"]}, "flux_opt"
    return settings | {"methods": ["psf"]}, "flux_psf"
