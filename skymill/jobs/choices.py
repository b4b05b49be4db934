"""What a product tells of the masters that the plan chose for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["choice_cards", "choice_flags", "waived"]

#: Rules by which a frame does without a master, and rightly so.
_WITHOUT = ("none", "bias_only")


def waived(choices: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the settings that let a frame do without the masters that nobody wants.

    Parameters
    ----------
    choices : mapping
        Kind to the plain values of `skymill.plan.Choice`.

    Returns
    -------
    dict
        ``missing_<kind>: skip`` for these kinds.
    """
    return {
        f"missing_{kind}": "skip"
        for kind, choice in choices.items()
        if not choice["master"] and choice["rule"] in _WITHOUT
    }


def choice_cards(choices: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Any, str]]:
    """Return header cards: the rule by which each master was chosen, and its age in nights."""
    cards: dict[str, tuple[Any, str]] = {}
    for kind, choice in choices.items():
        word = kind.upper()
        if choice["rule"]:
            cards[f"{word}RULE"] = (choice["rule"], f"how the {kind} was chosen")
        if choice["age"] is not None:
            cards[f"{word}AGE"] = (choice["age"], f"[night] age of the {kind}, < 0 if later")
    return cards


def choice_flags(choices: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Return the flags of choices that are not as they should be."""
    return tuple((c["flag"][0], c["flag"][1]) for c in choices.values() if c["flag"])
