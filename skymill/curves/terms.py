"""Terms of a linear model, written in a small grammar.

========================  ===========================================================
``O3{airmass}``           all powers up to total order 3, the constant with them
``O2{x,y}``               1, x, y, x^2, x y, y^2
``{x,y}``                 x and y alone
``O2{x,y}*O1{mag}``       every product of a term of the left and one of the right
``O2{airmass}+{fwhm}``    both sets
========================  ===========================================================
"""

from __future__ import annotations

import re
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Term", "design", "names_of", "parse_terms", "written"]

#: A product of variables: sorted names, repeated for powers; () is the constant.
Term = tuple[str, ...]

_FACTOR = re.compile(r"(?:O(\d+))?\{([^{}]*)\}|([A-Za-z_]\w*)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_MOST_TERMS = 500


def parse_terms(text: str, *, known: Sequence[str] = ()) -> tuple[Term, ...]:
    """Return the terms that a text stands for, the constant first.

    Parameters
    ----------
    text : str
        See the module.
    known : sequence of str
        Names that may occur; any if empty.

    Returns
    -------
    tuple of tuple of str
        By order, then by name, each once. The constant is always among them.

    Raises
    ------
    ValueError
        If the text does not follow the grammar, names an unknown variable or stands
        for more than 500 terms.
    """
    found: set[Term] = {()}
    for part in re.sub(r"\s+", "", text).split("+"):
        product: set[Term] = {()}
        for factor in part.split("*"):
            product = {tuple(sorted(a + b)) for a in product for b in _factor(factor, text)}
            if len(product) > _MOST_TERMS:
                raise ValueError(f"terms {text!r}: more than {_MOST_TERMS} terms")
        found |= product
    for name in sorted({name for term in found for name in term}):
        if known and name not in known:
            raise ValueError(f"terms {text!r}: no variable {name!r}; there are {', '.join(known)}")
    return tuple(sorted(found, key=lambda term: (len(term), term)))


def _factor(text: str, whole: str) -> set[Term]:
    match = _FACTOR.fullmatch(text)
    if match is None:
        raise ValueError(f"terms {whole!r}: cannot read {text!r}; write O2{{x,y}}, {{x,y}} or x")
    order, inside, name = match.groups()
    if name is not None:
        return {(name,)}
    names = inside.split(",")
    bad = [item for item in names if not _NAME.fullmatch(item)]
    if bad:
        raise ValueError(f"terms {whole!r}: {bad[0]!r} is not the name of a variable")
    if order is None:
        return {(item,) for item in names}
    unique = sorted(set(names))
    return {
        tuple(term)
        for total in range(int(order) + 1)
        for term in combinations_with_replacement(unique, total)
    }


def names_of(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return the variables of terms, sorted."""
    return tuple(sorted({name for term in terms for name in term}))


def written(term: Term) -> str:
    """Return a term as text: ``1``, ``x``, ``x^2*y``."""
    parts = []
    for name in dict.fromkeys(term):
        power = term.count(name)
        parts.append(name if power == 1 else f"{name}^{power}")
    return "*".join(parts) or "1"


def design(terms: Sequence[Term], values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the matrix of a linear model.

    Parameters
    ----------
    terms : sequence of tuple of str
        From `parse_terms`.
    values : mapping of str to ndarray of float64, shape (n,)
        Variables. Each is counted from its middle in units of half its range, which
        keeps powers apart. NaN stays NaN.

    Returns
    -------
    ndarray of float64, shape (n, n_terms)
    """
    scaled = {name: _scaled(values[name]) for name in names_of(terms)}
    size = len(next(iter(values.values()))) if values else 0
    out = np.ones((size, len(terms)))
    for column, term in enumerate(terms):
        for name in term:
            out[:, column] *= scaled[name]
    return out


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return values
    low, high = float(finite.min()), float(finite.max())
    half = 0.5 * (high - low)
    return (values - 0.5 * (low + high)) / (half if half > 0 else 1.0)
