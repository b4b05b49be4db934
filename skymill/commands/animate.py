"""Show how the frames of a field lie on each other: a film, a table, or both.

FIELD is the name of a field or of its target; it may be left out if there is only one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skymill.commands.project import Project, add_directory, shown
from skymill.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from skymill.field_alignment import FieldProducts

__all__ = ["HELP", "add_arguments", "main", "products_of"]

HELP = "film and table of how the frames of a field are aligned"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("field", metavar="FIELD", nargs="?", help="field or target")
    add_directory(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="film, .gif or .mp4 (default: FIELD.gif, here)"
    )
    parser.add_argument("--table", metavar="FILE", help="also write the transforms, .csv or .json")
    parser.add_argument("--no-film", action="store_true", help="only the table")
    parser.add_argument(
        "--filter", metavar="NAME", action="append", default=[], help="only this filter (repeat)"
    )
    parser.add_argument("--stars", metavar="N", type=int, default=40, help="stars to circle")
    parser.add_argument("--size", metavar="PX", type=int, default=512, help="longest side")
    parser.add_argument("--seconds", metavar="S", type=float, default=0.4, help="time of a frame")


def main(args: argparse.Namespace) -> int:
    """Write what was asked for and say how many frames are aligned."""
    from skymill.alignment import write_alignment
    from skymill.animations import write_film
    from skymill.field_alignment import field_alignment, field_film

    if args.size < 64 or args.seconds <= 0 or args.stars < 0:
        raise ConfigError("animate: --size is at least 64, --seconds above 0, --stars 0 or more")
    if args.no_film and not args.table:
        raise ConfigError("animate: --no-film without --table leaves nothing to do")
    products = products_of(Project.find(args.directory), args.field)
    alignment = field_alignment(products)
    print(
        f"{alignment.field}: {len(alignment.transforms)} of {len(alignment.frames)} frames are "
        f"aligned to {alignment.reference or 'no reference frame'}"
    )
    for name, reason in alignment.unaligned.items():
        print(f"  not aligned  {name}  {reason}")
    if args.table:
        write_alignment(args.table, alignment)
        print(shown(args.table))
    if not args.no_film:
        output = Path(args.output or f"{alignment.field}.gif")
        pictures = field_film(
            products, alignment, filters=args.filter, n_stars=args.stars, size=args.size
        )
        write_film(output, pictures, seconds=args.seconds)
        print(shown(output))
    return 0


def products_of(project: Project, field: str | None) -> FieldProducts:
    """Return the products of a field, named by itself or by its target.

    Raises
    ------
    ConfigError
        If there is no such field, or more than one.
    """
    from skymill.field_alignment import FieldProducts

    plan = project.plan()
    found = sorted(
        name for name, item in plan.fields.items() if field is None or field in (name, item.target)
    )
    if len(found) != 1:
        what = f"field {field!r}" if field else "one field"
        known = ", ".join(found or sorted(plan.fields)) or "none"
        raise ConfigError(f"not {what} but {len(found)} in this project; fields: {known}")
    item = plan.fields[found[0]]
    frames = [frame for block in item.blocks for frame in plan.blocks[block].frames]
    return FieldProducts(project.results, found[0], item.blocks, plan.rows_of(frames))
