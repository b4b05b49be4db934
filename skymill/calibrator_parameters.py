"""The parameters of a `skymill.Calibrator`, checked when they are set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from skymill.errors import ConfigError, FrameRejected
from skymill.frame import Master
from skymill.linearity import Linearity
from skymill.overscan import METHODS, fit_overscan
from skymill.sections import parse_area, parse_place
from skymill.sheet import slug

__all__ = [
    "AreaError",
    "GainError",
    "MasterError",
    "ParameterError",
    "Parameters",
    "registered",
]

#: Overscan methods of the session that no import path leads to, by name.
registered = SimpleNamespace()


class ParameterError(ConfigError, ValueError):
    """A parameter of a Calibrator is wrong."""


class AreaError(ParameterError):
    """An area is empty, turned around or not whole numbers."""


class GainError(ParameterError):
    """The gain, or the read noise, is not a positive finite number."""


class MasterError(ParameterError):
    """A master cannot be read or is none."""


@dataclass(frozen=True)
class Parameters:
    """Everything that a Calibrator can be told.

    Parameters
    ----------
    overscans : sequence of areas
        Areas of the raw image without light: ``dict(xmin, xmax, ymin, ymax)``, 0-based,
        half-open, or FITS sections. Several may be given; common pixels count once.
    overscan_method : str, function or object
        ``mean``, ``median``, ``clipped``, ``clipped_median``; an import path
        ``package.module:name``; a function ``(image, overscans) -> corrected``; or an
        object as in `skymill.overscan_user`.
    overscan_options : mapping
        Further settings of `skymill.overscan.fit_overscan`, for example ``fit``.
    image_area : area or None
        Pixels that saw light; None: the whole image.
    gain : float or None
        Electron/ADU; None: that of the header. A camera setting is not taken for it.
    read_noise : float or None
        Electron; None: that of the header.
    saturation, linear_max : float or None
        Raw ADU; None: that of the header, or not known.
    linearity : mapping or None
        Rule of `skymill.linearity.Linearity.from_rule`.
    master_bias, master_dark, master_flat : str, Path, Master or None
        None: not applied.
    masks : path or sequence of paths
        FITS files with pixels not to trust: the plane MASK of a product, else an image
        whose pixels other than 0 are flagged USER.
    exposure : float or None
        Exposure time (s); None: that of the header.
    hdu : int or None
        Number of the image; None: the first.
    instrument : str
        Instrument file by which the header is read.
    dark_scale_up, use_measured_gain, use_measured_noise, leak_directions
        As for `skymill.steps.calibrate.calibrate`.
    layout : str
        ``planes``: SCI, ERR and MASK after an empty primary; ``flat``: image, error and
        8-bit mask without names.
    compression, quantise_q
        As for `skymill.io.write_frame`; for ``planes``.
    """

    overscans: Any = ()
    overscan_method: Any = "clipped"
    overscan_options: Mapping[str, Any] = field(default_factory=dict)
    image_area: Any = None
    gain: float | None = None
    read_noise: float | None = None
    saturation: float | None = None
    linear_max: float | None = None
    linearity: Mapping[str, Any] | None = None
    master_bias: Any = None
    master_dark: Any = None
    master_flat: Any = None
    masks: Any = ()
    exposure: float | None = None
    hdu: int | None = None
    instrument: str = "generic"
    dark_scale_up: bool = False
    use_measured_gain: bool = False
    use_measured_noise: bool = False
    leak_directions: Sequence[tuple[int, int]] = ()
    layout: str = "planes"
    compression: str = "none"
    quantise_q: float = 16.0

    def __post_init__(self) -> None:
        change = object.__setattr__
        change(self, "overscans", _areas(self.overscans))
        image = None if self.image_area is None else _area("image_area", self.image_area)
        change(self, "image_area", image)
        change(self, "gain", _positive("gain", self.gain, "electron/ADU"))
        change(self, "read_noise", _positive("read_noise", self.read_noise, "electron"))
        for name in ("saturation", "linear_max", "exposure", "quantise_q"):
            _number(name, getattr(self, name))
        for name in ("master_bias", "master_dark", "master_flat"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (str, Path, Master)):
                raise MasterError(f"{name} is {type(value).__name__}, expected a file or a Master")
        masks = (self.masks,) if isinstance(self.masks, (str, Path)) else tuple(self.masks or ())
        change(self, "masks", masks)
        if self.linearity is not None:
            Linearity.from_rule(self.linearity)
        if not (isinstance(self.overscan_method, str) or callable(self.overscan_method)):
            kind = type(self.overscan_method).__name__
            raise ParameterError(f"overscan_method is {kind}, expected a name or a callable")
        _check_overscan(self.overscan_method, self.overscan_options)
        for name, allowed in (
            ("layout", ("planes", "flat")),
            ("compression", ("none", "lossless", "quantised")),
        ):
            if getattr(self, name) not in allowed:
                raise ParameterError(
                    f"{name} is {getattr(self, name)!r}, expected {' or '.join(allowed)}"
                )
        if self.layout == "flat" and self.compression != "none":
            raise ParameterError("the layout flat is not compressed; set compression to none")

    def options(self) -> dict[str, Any]:
        """Return the arguments of `skymill.steps.calibrate.calibrate`."""
        rule = self.linearity
        return {
            "overscan": {"method": method_path(self.overscan_method), **self.overscan_options},
            "electronics": None if rule is None else {"linearity": {"": dict(rule)}},
            "missing_bias": "skip",
            # a dark that was given and cannot be used must be told
            "missing_dark": "skip" if self.master_dark is None else "degrade",
            "missing_flat": "skip",
            "dark_scale_up": self.dark_scale_up,
            "use_measured_gain": self.use_measured_gain,
            "use_measured_noise": self.use_measured_noise,
            "leak_directions": tuple(self.leak_directions),
        }

    def told(self) -> dict[str, Any]:
        """Return what was set, as text and numbers without folders."""
        out: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value in (None, (), {}) or value == one.default:
                continue
            out[one.name] = _plain(one.name, value)
        return out


def _plain(name: str, value: Any) -> Any:
    if name == "overscan_method":
        return method_path(value)
    if isinstance(value, Master):
        return str(value.header.get("MASTERID", "unnamed"))
    if name.startswith("master_"):
        return Path(value).name
    if name == "masks":
        return ";".join(Path(one).name for one in value)
    if isinstance(value, (bool, int, float, str)):
        return value
    if name == "overscans":
        return ";".join(value)
    return str(dict(value) if isinstance(value, Mapping) else list(value))


def method_path(method: Any) -> str:
    """Return the name of an overscan method; callables are registered under one."""
    if isinstance(method, str):
        return method
    name = getattr(method, "__qualname__", type(method).__qualname__)
    attribute = "m_" + "".join(c if c.isalnum() else "_" for c in slug(name))
    setattr(registered, attribute, method)
    return f"skymill.calibrator_parameters:registered.{attribute}"


def _check_overscan(method: Any, options: Mapping[str, Any]) -> None:
    """Refuse a method or an option that `fit_overscan` does not have."""
    if isinstance(method, str) and ":" not in method and method not in METHODS:
        raise ParameterError(
            f"overscan_method is {method!r}, expected {', '.join(METHODS)}, package.module:name, "
            "a function or an object"
        )
    own = ("raw", "amplifier", "method")
    allowed = [name for name in signature(fit_overscan).parameters if name not in own]
    for name in options:
        if name not in allowed:
            raise ParameterError(
                f"overscan_options has no {name!r}, expected some of {', '.join(allowed)}"
            )


def _areas(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part for part in value.split(";") if part.strip()]
    if isinstance(value, Mapping):
        value = [value]
    return tuple(_area("overscans", one) for one in value)


def _area(name: str, value: Any) -> str:
    try:
        section = parse_area(value, name=name)
        if isinstance(value, str):  # against the frame it is checked when there is one
            _, back_x, back_y = parse_place(section, name=name)
            if back_x or back_y:
                raise AreaError(f"{name} is {value!r}; expected x1 <= x2 and y1 <= y2")
        return section
    except FrameRejected as bad:
        raise AreaError(bad.message) from None
    except (AttributeError, TypeError):
        raise AreaError(
            f"{name} is {value!r}, expected xmin, xmax, ymin, ymax or [x1:x2,y1:y2]"
        ) from None


def _number(name: str, value: Any) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (good and math.isfinite(value) and value >= 0):
        raise ParameterError(f"{name} is {value!r}, expected a finite number, not negative")


def _positive(name: str, value: Any, unit: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, (bool, str)) or not (math.isfinite(number) and number > 0):
        raise GainError(f"{name} is {value!r}, expected a finite number above 0 ({unit})")
    return number
