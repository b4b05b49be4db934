"""Plane transformations between two lists of matched stars, and how many terms they may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GAIN", "KINDS", "Affine", "Fit", "fit_affine", "fit_best", "identity", "mirror", "turn"]

#: Kind of transformation: (free parameters, fewest stars).
KINDS: dict[str, tuple[int, int]] = {
    "shift": (2, 1),
    "rigid": (3, 2),
    "similarity": (4, 3),
    "affine": (6, 6),
}

#: Chi-square that one more (two more) parameters must gain: probability 1 % by chance.
GAIN = {1: 6.63, 2: 9.21, 3: 11.34, 4: 13.28}

#: With fewer degrees of freedom the residuals do not tell the noise.
_MIN_DOF = 4


@dataclass(frozen=True, eq=False)
class Affine:
    """The map ``p -> matrix p + offset`` of pixel positions.

    Parameters
    ----------
    matrix : ndarray of float64, shape (2, 2)
        Linear part, acting on columns ``(x, y)``.
    offset : ndarray of float64, shape (2,)
        Image of the origin.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    def __call__(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the positions ``xy``, shape (n, 2), moved."""
        x, y = xy[..., 0], xy[..., 1]
        m, t = self.matrix, self.offset
        return np.stack(
            [m[0, 0] * x + m[0, 1] * y + t[0], m[1, 0] * x + m[1, 1] * y + t[1]], axis=-1
        )

    def after(self, first: Affine) -> Affine:
        """Return the map that does ``first`` and then this one."""
        return Affine(self.matrix @ first.matrix, self.matrix @ first.offset + self.offset)

    def inverse(self) -> Affine:
        """Return the inverse map."""
        back = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        return Affine(back, -(back @ self.offset))

    @property
    def determinant(self) -> float:
        """Area ratio; negative if the map mirrors."""
        m = self.matrix
        return float(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0])

    @property
    def scale(self) -> float:
        """Square root of the area ratio."""
        return float(np.sqrt(abs(self.determinant)))

    @property
    def rotation_deg(self) -> float:
        """Rotation from x to y in degree, after taking a mirroring of x out."""
        m = self.matrix
        sign = 1.0 if self.determinant >= 0 else -1.0
        return float(np.degrees(np.arctan2(sign * m[1, 0] - m[0, 1], sign * m[0, 0] + m[1, 1])))

    @property
    def shear(self) -> float:
        """Ratio of the singular values minus one: 0 for a similarity."""
        s = np.linalg.svd(self.matrix, compute_uv=False)
        return float(s[0] / s[1] - 1) if s[1] > 0 else float("inf")


def identity() -> Affine:
    """Return the map that does nothing."""
    return Affine(np.eye(2), np.zeros(2))


def turn(shape: tuple[int, int]) -> Affine:
    """Return the rotation by 180 degrees about the middle of a frame of shape (ny, nx)."""
    return Affine(-np.eye(2), np.array([shape[1] - 1.0, shape[0] - 1.0]))


def mirror(shape: tuple[int, int]) -> Affine:
    """Return the reflection of x about the middle of a frame of shape (ny, nx)."""
    return Affine(np.diag([-1.0, 1.0]), np.array([shape[1] - 1.0, 0.0]))


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted transformation.

    Parameters
    ----------
    transform : Affine
        The map from ``source`` to ``target``.
    kind : str
        One of `KINDS`.
    residual : ndarray of float64, shape (n, 2)
        ``target - transform(source)`` in pixels of the target.
    variance_ratio : float
        Mean square of residual over assumed error; 1 where it cannot be measured.
    """

    transform: Affine
    kind: str
    residual: NDArray[np.float64]
    variance_ratio: float


def fit_affine(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    kind: str,
    weights: NDArray[np.float64] | None = None,
) -> Affine:
    """Fit a transformation of a given kind by weighted least squares.

    Rigid and similarity transformations are solved in closed form with positions as
    complex numbers: ``a = sum(w conj(s) t) / sum(w |s|^2)`` for centred positions.
    They do not mirror; mirror the source first.

    Parameters
    ----------
    source, target : ndarray of float64, shape (n, 2)
        Matched positions.
    kind : str
        ``shift``, ``rigid``, ``similarity`` or ``affine``.
    weights : ndarray of float64, shape (n,), optional
        Inverse variance of each pair.

    Returns
    -------
    Affine
        The map from source to target.
    """
    w = np.ones(len(source)) if weights is None else weights
    total = w.sum()
    mid_s = (w[:, None] * source).sum(axis=0) / total
    mid_t = (w[:, None] * target).sum(axis=0) / total
    if kind == "shift":
        return Affine(np.eye(2), mid_t - mid_s)
    s, t = source - mid_s, target - mid_t
    if kind == "affine":
        root = np.sqrt(w)[:, None]
        solution, *_ = np.linalg.lstsq(root * s, root * t, rcond=1e-10)
        matrix = solution.T
    else:
        zs, zt = s[:, 0] + 1j * s[:, 1], t[:, 0] + 1j * t[:, 1]
        down = (w * np.abs(zs) ** 2).sum()
        a = (w * np.conj(zs) * zt).sum() / down if down > 0 else 1.0 + 0j
        if kind == "rigid":
            a = a / abs(a) if abs(a) > 0 else 1.0 + 0j
        matrix = np.array([[a.real, -a.imag], [a.imag, a.real]])
    return Affine(matrix, mid_t - matrix @ mid_s)


def fit_best(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    sigma: NDArray[np.float64],
    *,
    base: Affine | None = None,
    most: str = "affine",
) -> Fit:
    """Fit the simplest transformation that no larger one beats significantly.

    A term that a few stars do not determine does harm: rotation and scale from three
    stars in a corner move the opposite corner. So a larger model is taken only if it
    lowers chi-square by more than chance does in 1 % of cases, with the noise taken
    from the residuals of the largest model where that has at least four degrees of freedom.

    Parameters
    ----------
    source, target : ndarray of float64, shape (n, 2)
        Matched positions.
    sigma : ndarray of float64, shape (n,)
        Error of each pair per axis in pixels.
    base : Affine, optional
        What is expected (a half turn, a mirror image); what is fitted comes after it.
    most : str
        Largest kind of the correction.

    Returns
    -------
    Fit
    """
    base = base or identity()
    moved = base(source)
    n, weights = len(source), 1 / sigma**2
    fits = []
    for kind, (n_par, fewest) in KINDS.items():
        if n >= fewest:
            step = fit_affine(moved, target, kind, weights)
            residual = target - step(moved)
            chi2 = float((weights[:, None] * residual**2).sum())
            fits.append((kind, n_par, chi2, step, residual))
        if kind == most:
            break
    _, n_par, chi2, _, _ = fits[-1]
    dof = 2 * n - n_par
    noise = max(chi2 / dof, 1e-6) if dof >= _MIN_DOF else 1.0
    chosen = len(fits) - 1
    for i in range(len(fits)):
        better = any(
            (fits[i][2] - fits[j][2]) / noise > GAIN[fits[j][1] - fits[i][1]]
            for j in range(i + 1, len(fits))
        )
        if not better:
            chosen = i
            break
    kind, n_par, chi2, step, residual = fits[chosen]
    dof = 2 * n - n_par
    ratio = chi2 / dof if dof >= _MIN_DOF else 1.0
    return Fit(step.after(base), kind, residual, float(ratio))
