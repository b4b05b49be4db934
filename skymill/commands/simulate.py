"""Simulate a raw night with known truth.

For trying things out and for checking a reduction: DIR/raw holds frames as a camera
would write them, DIR/truth what is really there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.commands.project import shown
from skymill.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from skymill.simulate import NightConfig

__all__ = ["HELP", "PRESETS", "add_arguments", "main", "night_config"]

HELP = "simulate a raw night with known truth"

#: What each preset is for.
PRESETS = {
    "demo": "two filters, clouds, variables, a moving object, bad files: the night of the demo",
    "plain": "one filter, a good night, no surprises",
    "tiny": "as plain, but a few small frames, for tests",
}
_TINY = {"shape": (160, 160), "n_bias": 3, "n_dark": 3, "n_flat": 3, "n_light": 3, "n_stars": 60}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder to make")
    presets = "; ".join(f"{name}: {what}" for name, what in PRESETS.items())
    parser.add_argument("--preset", choices=tuple(PRESETS), default="plain", help=presets)
    parser.add_argument("--seed", type=int, metavar="N", help="only source of randomness")
    parser.add_argument("--frames", type=int, metavar="N", help="light frames per filter")
    parser.add_argument("--size", metavar="NX[xNY]", help="size of the frames in pixels")
    parser.add_argument("--filters", metavar="A,B", help="filters, joined by commas")
    parser.add_argument(
        "--bad", metavar="NAME", nargs="+", help="bad frames to plant (a wrong name lists them)"
    )


def main(args: argparse.Namespace) -> int:
    """Simulate and say where it lies."""
    from skymill.simulate import simulate_night

    folder = Path(args.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"simulate: {shown(folder)} exists and is not an empty folder")
    config = night_config(args.preset, _changes(args))
    simulate_night(folder, config)
    count = sum(path.is_file() for path in (folder / "raw").rglob("*"))
    print(f"{count} raw files in {shown(folder / 'raw')}, truth in {shown(folder / 'truth')}")
    return 0


def night_config(preset: str, changes: Mapping[str, Any]) -> NightConfig:
    """Return a preset with some values changed.

    Parameters
    ----------
    preset : str
        One of `PRESETS`.
    changes : mapping
        Fields of `NightConfig`.

    Raises
    ------
    ConfigError
        If a value is impossible or a bad frame is unknown.
    """
    from pydantic import ValidationError

    from skymill.simulate import NightConfig, demo_config

    base = (
        demo_config()
        if preset == "demo"
        else NightConfig.model_validate(_TINY if preset == "tiny" else {})
    )
    fields = {**base.model_dump(exclude_unset=True), **changes}
    if "filters" in changes:
        # Values per filter belong to the filters of the preset.
        fields = {key: value for key, value in fields.items() if not _is_per_filter(base, key)}
    n_light = fields.get("n_light", base.n_light)
    fields["trails"] = tuple(frame for frame in base.trails if frame < n_light)
    try:
        return NightConfig.model_validate(fields)
    except ValidationError as error:
        told = [
            f"{'.'.join(str(part) for part in item['loc']) or 'night'}: {item['msg']}"
            for item in error.errors()
        ]
        raise ConfigError("simulate: " + "; ".join(told)) from None


def _is_per_filter(base: NightConfig, key: str) -> bool:
    value = getattr(base, key)
    return isinstance(value, dict) and set(value) == set(base.filters)


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if args.seed is not None:
        changes["seed"] = args.seed
    if args.frames is not None:
        changes["n_light"] = args.frames
    if args.filters is not None:
        changes["filters"] = tuple(name.strip() for name in args.filters.split(","))
    if args.bad is not None:
        changes["bad"] = tuple(args.bad)
    if args.size is not None:
        parts = args.size.lower().split("x")
        if len(parts) > 2 or not all(part.isdigit() for part in parts):
            raise ConfigError(f"simulate: --size {args.size!r} is not like 512 or 640x480")
        changes["shape"] = (int(parts[-1]), int(parts[0]))
    return changes
