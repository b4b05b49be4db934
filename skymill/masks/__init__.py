"""Masks made outside the chain: shapes, region files, planes of other pipelines, sets.

All functions are pure: arrays and frames go in, masks come out. Only `apply_user_masks`
reads files, through `skymill.io`.
"""

from skymill.masks.peers import CONVENTIONS, convention_of, import_plane
from skymill.masks.recipe import make_mask, pile_up
from skymill.masks.regions import Region, draw_regions, parse_regions
from skymill.masks.sets import combine, describe, parse_bits, select
from skymill.masks.shapes import circle_mask, invalid_mask
from skymill.masks.user import apply_user_masks

__all__ = [
    "CONVENTIONS",
    "Region",
    "apply_user_masks",
    "circle_mask",
    "combine",
    "convention_of",
    "describe",
    "draw_regions",
    "import_plane",
    "invalid_mask",
    "make_mask",
    "parse_bits",
    "parse_regions",
    "pile_up",
    "select",
]
