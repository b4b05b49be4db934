"""Weights of the taps of interpolation kernels, for many pixels at a time.

A normalised Lanczos kernel is evaluated as polynomials of the fraction ``f`` of the
position. With ``u = f - 1/2``, ``t = u^2`` and ``p = f (1 - f)``, the weights of the taps
``i`` and ``2a - 1 - i`` are ``p (E_i(t) +- u O_i(t))``, and the inner pair has ``1 - f`` and
``f`` added. So whole shifts give exactly 0 and 1, and the sum is 1 because the ``E_i`` sum to
zero. Fourth degree reaches the rounding of float32 (1.4e-7), and the compiler turns it into
vector code. The coefficients are written out, because a fit at run time would depend on
the linear algebra of the machine.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["coefficients", "table_number", "table_weights", "tap_weights"]

_LANCZOS2 = (
    (
        (-0.2499997913837433, -0.35623669624328613, 0.33539310097694397),
        (0.022421667352318764, -0.14426729083061218),
        (0.7260321974754333, -0.31128954887390137, -0.2605360448360443),
        (0.3220292329788208, -0.08655103296041489),
    ),
    (
        (0.0, 0.0, 0.0),
        (0.0, 0.0),
        (-1.465707778930664, 0.2657802999019623, 0.7066026329994202),
        (-0.5398538708686829, 0.03956429287791252),
    ),
)
_LANCZOS3 = (
    (
        (0.09782610088586807, 0.03881761431694031, -0.07268205285072327),
        (0.027449242770671844, -0.010910896584391594),
        (-0.25569772720336914, 0.2172110676765442, -0.09964343905448914),
        (0.06399039179086685, -0.03213907405734062),
    ),
    (
        (-0.54347825050354, 0.10916431248188019, -0.020420536398887634),
        (0.04299437999725342, -0.02027416229248047),
        (0.7246375679969788, -0.4676010012626648, 0.23464451730251312),
        (-0.15704187750816345, 0.07583809643983841),
    ),
    (
        (0.0, 0.0, 0.0),
        (0.0, 0.0),
        (-1.3466861248016357, 0.7945760488510132, -0.46648910641670227),
        (0.3035303056240082, -0.141246035695076),
    ),
)
_LANCZOS4 = (
    (
        (-0.050520602613687515, -0.005396557971835136, 0.03284914419054985),
        (-0.013197237625718117, 0.0013576049823313951),
        (0.12466199696063995, -0.10441651940345764, 0.02229880727827549),
        (0.006706262938678265, -0.0054237679578363895),
    ),
    (
        (0.23905636370182037, -0.11506446450948715, -0.023816028609871864),
        (0.025701941922307014, -0.007891148328781128),
        (-0.26901552081108093, 0.2141077220439911, -0.041644223034381866),
        (-0.014506109990179539, 0.011081423410448837),
    ),
    (
        (-0.6640454530715942, 0.21383333206176758, 0.030631419271230698),
        (-0.04486066848039627, 0.015490234829485416),
        (0.6693649888038635, -0.36312955617904663, 0.04727611318230629),
        (0.03519293665885925, -0.02068856917321682),
    ),
    (
        (0.0, 0.0, 0.0),
        (0.0, 0.0),
        (-1.2081780433654785, 0.4373897314071655, 0.002146324375644326),
        (-0.07059656083583832, 0.02966977097094059),
    ),
)


def coefficients(kernel: str) -> np.ndarray:
    """Return the polynomials of a kernel.

    Parameters
    ----------
    kernel : {"nearest", "bilinear", "lanczos2", "lanczos3", "lanczos4"}

    Returns
    -------
    ndarray of float32, shape (a, 2, 5)
        Even and odd part of each pair of taps, from the outer to the inner pair. All
        zero, with ``a`` of 1, is linear interpolation (nearest rounds the fraction).
    """
    tables = {"lanczos2": _LANCZOS2, "lanczos3": _LANCZOS3, "lanczos4": _LANCZOS4}
    if kernel in ("nearest", "bilinear"):
        return np.zeros((1, 2, 5), np.float32)
    rows = [[pair[0] + pair[1], pair[2] + pair[3]] for pair in tables[kernel]]
    return np.array(rows, np.float32)


@njit(cache=True)
def _pair(f, n, even, odd, low, high, total):  # type: ignore[no-untyped-def]
    """Weights of one outer pair of taps; ``total`` grows by the even part."""
    e0, e1, e2, e3, e4 = even[0], even[1], even[2], even[3], even[4]
    o0, o1, o2, o3, o4 = odd[0], odd[1], odd[2], odd[3], odd[4]
    half = np.float32(0.5)
    one = np.float32(1)
    for c in range(n):
        u = f[c] - half
        t = u * u
        p = f[c] * (one - f[c])
        e = (((e4 * t + e3) * t + e2) * t + e1) * t + e0
        o = ((((o4 * t + o3) * t + o2) * t + o1) * t + o0) * u
        total[c] += e
        low[c] = p * (e + o)
        high[c] = p * (e - o)


@njit(cache=True)
def _inner_pair(f, n, odd, low, high, total):  # type: ignore[no-untyped-def]
    """Weights of the two taps next to the position: linear, and what the rest leaves."""
    o0, o1, o2, o3, o4 = odd[0], odd[1], odd[2], odd[3], odd[4]
    half = np.float32(0.5)
    one = np.float32(1)
    for c in range(n):
        u = f[c] - half
        t = u * u
        p = f[c] * (one - f[c])
        e = -total[c]
        o = ((((o4 * t + o3) * t + o2) * t + o1) * t + o0) * u
        low[c] = p * (e + o) + (one - f[c])
        high[c] = p * (e - o) + f[c]


@njit(cache=True)
def _squares(weights, squares, n, total):  # type: ignore[no-untyped-def]
    for c in range(n):
        squares[c] = weights[c] * weights[c]
        total[c] += squares[c]


@njit(cache=True)
def tap_weights(f, n, coefs, weights, squares, total):  # type: ignore[no-untyped-def]
    """Compute the weights of the ``2a`` taps of ``n`` positions along one axis.

    Parameters
    ----------
    f : ndarray of float32, shape (>= n,)
        Fraction of the position above its pixel.
    n : int
        Number of positions.
    coefs : ndarray of float32, shape (a, 2, 5)
        Result of `coefficients`.
    weights, squares : ndarray of float32, shape (2a, >= n)
        Filled with the weights, which sum to 1, and their squares.
    total : ndarray of float32, shape (>= n,)
        Filled with the sum of the squares.
    """
    pairs = coefs.shape[0]
    last = 2 * pairs - 1
    total[:n] = 0
    for i in range(pairs - 1):
        _pair(f, n, coefs[i, 0], coefs[i, 1], weights[i], weights[last - i], total)
    i = pairs - 1
    _inner_pair(f, n, coefs[i, 1], weights[i], weights[last - i], total)
    total[:n] = 0
    for i in range(2 * pairs):
        _squares(weights[i], squares[i], n, total)


@njit(cache=True)
def table_number(index, step, row, column):  # type: ignore[no-untyped-def]
    """Number of the table at a pixel: that of the next node."""
    j = min((row + step // 2) // step + 1, index.shape[0] - 1)
    i = min((column + step // 2) // step + 1, index.shape[1] - 1)
    return int(index[j, i])


@njit(cache=True)
def table_weights(f, n, table, weights, squares, total):  # type: ignore[no-untyped-def]
    """Look up what `tap_weights` computes, linear between the entries.

    Parameters
    ----------
    f, n, weights, squares, total
        As for `tap_weights`.
    table : ndarray of float32, shape (steps + 1, taps)
        Weights by fraction, see `skymill.engines.scaled`.
    """
    last = table.shape[0] - 2
    steps = np.float32(last + 1)
    taps = table.shape[1]
    for c in range(n):
        place = f[c] * steps
        k = min(np.int64(place), last)
        g = place - np.float32(k)
        low = table[k]
        high = table[k + 1]
        for t in range(taps):
            weights[t, c] = low[t] + g * (high[t] - low[t])
    total[:n] = 0
    for t in range(taps):
        _squares(weights[t], squares[t], n, total)
