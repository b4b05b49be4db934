"""Make a picture of an image product and say a few numbers.

FILE is a raw file or any image under results/.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.commands.project import shown
from skymill.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

__all__ = ["HELP", "add_arguments", "main"]

HELP = "picture of an image and a few numbers"

#: Planes that products have; the first one found is shown.
PLANES = ("SCI", "MASK", "BKG", "ERR", "COVERAGE", "NUSED", "RMS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="image to show")
    parser.add_argument(
        "-o", "--output", metavar="PNG", help="picture to write (default: NAME.png, here)"
    )
    parser.add_argument("--plane", metavar="NAME", help="SCI, ERR, MASK, COVERAGE, BKG, RMS, ...")
    parser.add_argument("--stretch", choices=("asinh", "zscale", "linear"), default="asinh")
    parser.add_argument("--cmap", metavar="NAME", default="gray", help="colours (default: gray)")
    parser.add_argument("--size", metavar="PX", type=int, default=1024, help="longest side")


def main(args: argparse.Namespace) -> int:
    """Write the picture, print its path and the numbers."""
    from skymill.io import write_bytes
    from skymill.report.pictures import COLORMAPS, to_png

    path = Path(args.file)
    if not path.is_file():
        raise ConfigError(f"show: {path} does not exist")
    if args.cmap not in COLORMAPS:
        raise ConfigError(f"show: no colours {args.cmap!r}; there are {', '.join(COLORMAPS)}")
    if args.size < 16:
        raise ConfigError(f"show: --size {args.size} is too small, at least 16 px")
    name, array, unit = _plane(path, args.plane)
    stem = path.name
    for suffix in (".gz", ".fz", ".fits", ".fit", ".fts"):
        stem = stem.removesuffix(suffix)
    default = f"{stem}.png" if args.plane is None else f"{stem}-{name.lower()}.png"
    output = Path(args.output or default)
    picture = to_png(array, stretch=args.stretch, cmap=args.cmap, max_size=args.size)
    write_bytes(output, picture)
    print("\n".join(_numbers(name, array, unit)))
    print(shown(output))
    return 0


def _plane(path: Path, wanted: str | None) -> tuple[str, NDArray[Any], str]:
    """Name, pixels and unit of the wanted plane, by default the first one there is."""
    from skymill.io import read_planes

    found = {}
    for name in PLANES:
        try:
            found[name] = read_planes(path, [name])
        except KeyError:
            continue
        except OSError:
            break
        if wanted is None or wanted.upper() == name:
            planes, _, header = found[name]
            return name, planes[name], str(header.get("BUNIT", "")).strip()
    if found:
        raise ConfigError(f"show: no plane {wanted!r} in {path}; there are {', '.join(found)}")
    return _raw_plane(path, wanted)


def _raw_plane(path: Path, wanted: str | None) -> tuple[str, NDArray[Any], str]:
    """Image of a raw file: its HDU with this number, or the first one with pixels."""
    from skymill.errors import FrameRejected
    from skymill.io_raw import read_raw

    if wanted is not None and not wanted.isdigit():
        raise ConfigError(f"show: {path} is a raw file; --plane takes the number of an HDU there")
    why = ""
    for hdu in range(16) if wanted is None else [int(wanted)]:
        try:
            array, _ = read_raw(path, hdu)
        except FrameRejected as failure:
            why = why or str(failure)
            continue
        return f"HDU {hdu}", array, "ADU"
    raise ConfigError(f"show: {path} holds no image: {why}")


def _numbers(name: str, array: NDArray[Any], unit: str) -> list[str]:
    import numpy as np

    lines = [f"{name} {array.shape[1]} x {array.shape[0]} px"]
    finite = array[np.isfinite(array)]
    if name == "MASK":
        from skymill.frame import BIT_MEANINGS, has_bits

        for bit, meaning in BIT_MEANINGS.items():
            if count := int(has_bits(array, bit).sum()):
                lines.append(f"  {bit.name or '':<13} {count:9d} px  {meaning}")
        return lines
    if finite.size == 0:
        return [*lines, "  no pixel has a value"]
    low, middle, high = np.percentile(finite.astype(np.float64), [1, 50, 99])
    lines.append(f"  1 %, median, 99 %   {low:.6g}, {middle:.6g}, {high:.6g} {unit}".rstrip())
    if finite.size < array.size:
        lines.append(f"  without a value     {array.size - finite.size} px")
    return lines
