"""Put the workflow inside the wheel, but not inside an editable install."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WorkflowFiles(BuildHookInterface[Any]):
    """Adds the workflow as ``skymill/_workflow``.

    An editable install must not get a copy: it would go stale beside the checkout.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Declare the files of a wheel."""
        if version == "editable":
            return
        for name in ("Snakefile", "workflow", "scripts", "config", "envs"):
            build_data["force_include"][name] = f"skymill/_workflow/{name}"
