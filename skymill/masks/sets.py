"""Set operations on mask bits by their names."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import numpy as np

from skymill.errors import SkymillError
from skymill.frame import BIT_MEANINGS, MaskBit, has_bits

if TYPE_CHECKING:
    from astropy.table import Table
    from numpy.typing import NDArray

__all__ = ["combine", "describe", "parse_bits", "select"]


def parse_bits(text: str) -> MaskBit:
    """Return the bits of names joined by ``|``; ``BAD`` is every bit but SOURCE.

    Raises
    ------
    SkymillError
        If a name is not one of `MaskBit`.

    Examples
    --------
    >>> int(parse_bits("HOT|COLD"))
    96
    """
    bits = MaskBit(0)
    for name in text.split("|"):
        bits |= _bit(name.strip())
    return bits


def select(mask: NDArray[np.uint16], expression: str) -> NDArray[np.bool_]:
    """Return where an expression of bit names holds.

    Parameters
    ----------
    mask : ndarray of uint16, shape (ny, nx)
        Mask plane, 0 is good.
    expression : str
        Names with ``|`` (or), ``&`` (and), ``-`` (without), ``^`` (one of both), ``~``
        (not) and parentheses, for example ``"COSMIC | TRAIL"`` or
        ``"SATURATED - BLEED"``. ``BAD`` is every bit but SOURCE. Priorities are those of
        Python: ``~``, ``-``, ``&``, ``^``, ``|``.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True where the expression holds.

    Raises
    ------
    SkymillError
        If a name is unknown or the text is no such expression.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError:
        raise _no_expression(expression) from None
    return _evaluate(tree, mask, expression)


def combine(
    first: NDArray[np.uint16], second: NDArray[np.uint16], how: str = "or"
) -> NDArray[np.uint16]:
    """Combine two mask planes bit by bit.

    Parameters
    ----------
    first, second : ndarray of uint16, one shape
        Mask planes. Not modified.
    how : str
        ``or`` (also ``add``): bits of either; ``and``: bits of both; ``subtract``: bits
        of the first that the second does not have.

    Returns
    -------
    ndarray of uint16

    Raises
    ------
    ValueError
        If the shapes differ or ``how`` is none of these.
    """
    if first.shape != second.shape:
        raise ValueError(f"masks must have one shape, got {first.shape} and {second.shape}")
    one, two = (np.asarray(plane, np.uint16) for plane in (first, second))
    if how in ("or", "add"):
        return one | two
    if how == "and":
        return one & two
    if how == "subtract":
        return one & ~two
    raise ValueError(f"how must be 'or', 'add', 'and' or 'subtract', got {how!r}")


def describe(mask: NDArray[np.uint16]) -> Table:
    """Return how many pixels have each bit.

    Parameters
    ----------
    mask : ndarray of uint16, any shape
        Mask plane.

    Returns
    -------
    astropy.table.Table
        Columns ``bit``, ``value``, ``pixels``, ``fraction``, ``meaning``; the last two
        rows are all bits that disqualify, and good pixels.
    """
    from astropy.table import Table

    size = max(mask.size, 1)
    rows = []
    for bit, meaning in BIT_MEANINGS.items():
        count = int(has_bits(mask, bit).sum())
        rows.append((str(bit.name), int(bit), count, count / size, meaning))
    bad = int(has_bits(mask, MaskBit.bad()).sum())
    rows.append(("BAD", int(MaskBit.bad()), bad, bad / size, "any of these but SOURCE"))
    rows.append(("good", 0, mask.size - bad, (mask.size - bad) / size, "may be used"))
    return Table(rows=rows, names=("bit", "value", "pixels", "fraction", "meaning"))


def _bit(name: str) -> MaskBit:
    if name.upper() == "BAD":
        return MaskBit.bad()
    try:
        return MaskBit[name.upper()]
    except KeyError:
        names = ", ".join(str(bit.name) for bit in MaskBit)
        raise SkymillError(f"{name!r} is no mask bit; these are: {names}, BAD") from None


def _evaluate(node: ast.AST, mask: NDArray[np.uint16], text: str) -> NDArray[np.bool_]:
    if isinstance(node, ast.Name):
        return has_bits(mask, _bit(node.id))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_evaluate(node.operand, mask, text)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, mask, text), _evaluate(node.right, mask, text)
        match node.op:
            case ast.BitOr():
                return left | right
            case ast.BitAnd():
                return left & right
            case ast.BitXor():
                return left ^ right
            case ast.Sub():
                return left & ~right
    raise _no_expression(text)


def _no_expression(text: str) -> SkymillError:
    return SkymillError(
        f"{text!r} is no expression of mask bits; expected names with | & - ^ ~ and parentheses"
    )
