"""Linearity of an amplifier: from measured to linear ADU.

``f`` acts on the overscan- and bias-subtracted signal ``m``. It is held as values on a
uniform grid, so that compiled loops treat polynomials and tables alike; between the
knots it is linear, beyond them it goes on with the last slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["TOP_ADU", "Linearity"]

#: Distance of the knots, usual range of the grid (ADU), and most pieces of a larger one.
STEP_ADU, TOP_ADU, MOST_PIECES = 16.0, 65536.0, 65536


@dataclass(frozen=True, eq=False)
class Linearity:
    """Linear signal as a function of the measured one.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Linear ADU at the knots ``0, step_adu, 2 step_adu ...``; the first is 0.
    step_adu : float
        Distance of the knots (ADU).
    """

    values: NDArray[np.float64]
    step_adu: float

    @classmethod
    def from_rule(
        cls, rule: Mapping[str, Any], *, name: str = "linearity", top_adu: float = TOP_ADU
    ) -> Self:
        """Return the function of an instrument file.

        Parameters
        ----------
        rule : mapping
            ``{"polynomial": [c2, c3, ...]}`` for ``f = m (1 + c2 m + c3 m^2 ...)``, or
            ``{"table": [[m, f], ...]}`` with growing values, the origin implied.
        name : str
            What it is, for messages.
        top_adu : float
            Largest signal that the rule is asked for, such as saturation (ADU). Beyond it
            the function goes on with its last slope. The grid reaches 65536 ADU, or so far.

        Raises
        ------
        ConfigError
            If it is neither, or does not grow with the signal up to ``top_adu``.
        """
        reach = max(top_adu, TOP_ADU)
        pieces = min(int(np.ceil(reach / STEP_ADU)), MOST_PIECES)
        at = np.linspace(0.0, reach, pieces + 1)
        try:
            if rule.get("polynomial"):
                terms = np.array([1.0, *rule["polynomial"]], np.float64)
                values = at * np.polynomial.polynomial.polyval(at, terms)
            elif rule.get("table"):
                values = _from_table(at, np.array(rule["table"], np.float64), name)
            else:
                raise ConfigError(f"{name}: expected `polynomial` or `table`")
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {error}") from None
        last = max(min(int(np.searchsorted(at, top_adu)), pieces), 1)
        grows = np.diff(values[: last + 1]) > 0
        if not grows.all():
            turn = float(at[int(np.argmin(grows))])
            raise ConfigError(f"{name}: the linear signal does not grow above {turn:.0f} ADU")
        beyond = np.arange(pieces + 1 - last)
        values[last:] = values[last] + beyond * (values[last] - values[last - 1])
        return cls(values, float(at[1]))

    def arrays(self) -> tuple[NDArray[np.float64], float]:
        """Return values at the knots and their distance (ADU), for compiled loops."""
        return self.values, self.step_adu

    def __call__(self, signal: NDArray[Any]) -> NDArray[np.float64]:
        """Return the linear signal (ADU) of a measured one, any shape."""
        position = np.asarray(signal, np.float64) / self.step_adu
        lower = self._lower(position)
        low, high = self.values[lower], self.values[lower + 1]
        return np.asarray(low + (position - lower) * (high - low))

    def slope(self, signal: NDArray[Any]) -> NDArray[np.float64]:
        """Return the derivative ``f'`` at a measured signal, any shape."""
        lower = self._lower(np.asarray(signal, np.float64) / self.step_adu)
        return np.asarray((self.values[lower + 1] - self.values[lower]) / self.step_adu)

    def _lower(self, position: NDArray[np.float64]) -> NDArray[np.int64]:
        """Index of the knot below; the first and last pieces go on for ever."""
        return np.clip(np.nan_to_num(position), 0, len(self.values) - 2).astype(np.int64)


def _from_table(at: NDArray[np.float64], table: NDArray[np.float64], name: str) -> NDArray[Any]:
    """Values of a table at the knots, straight lines between its entries."""
    if table.ndim != 2 or table.shape[1] != 2:
        raise ConfigError(f"{name}: a table needs pairs [measured, linear]")
    if table[0, 0] != 0:
        table = np.concatenate([[[0.0, 0.0]], table])
    if table[0, 1] != 0 or len(table) < 2:
        raise ConfigError(f"{name}: a table leads from [0, 0] to larger values")
    if not (np.diff(table, axis=0) > 0).all():
        raise ConfigError(f"{name}: the values of the table must grow")
    values = np.interp(at, table[:, 0], table[:, 1])
    (m0, f0), (m1, f1) = table[-2:]
    beyond = at > m1
    values[beyond] = f1 + (f1 - f0) / (m1 - m0) * (at[beyond] - m1)
    return np.asarray(values)
