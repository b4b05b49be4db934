"""Settings that belong together, as YAML files: ``skymill init --recipe NAME``."""

from __future__ import annotations

from pathlib import Path

from skymill.errors import ConfigError

__all__ = ["recipe_names", "recipe_text"]

_FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_text(name: str) -> str:
    """Return the lines of a recipe, to go into config.yaml.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in recipe_names():
        raise ConfigError(f"no recipe {name!r}; known: {', '.join(recipe_names())}")
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
