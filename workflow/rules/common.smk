# What the rules share: validated settings, the plan, and the way to each product.
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from skymill.errors import ConfigError
from skymill.instruments import load_instrument
from skymill.plan import make_plan
from skymill.provenance import fingerprint
from skymill.settings import check_paths, validate_settings
from skymill.sheet import read_sheet

ENV = "../../envs/skymill.yaml"
SHEET = "config/frames.csv"

# With no sheet the run begins with ingest, and everything else is known after it. With a
# sheet nothing is read anew: it is the lock file of the reduction, a source.
HAS_SHEET = Path(SHEET).exists()

try:
    SETTINGS = validate_settings(config)
    if HAS_SHEET:  # without one, ingest looks for the raw folder first
        check_paths(SETTINGS, Path())
except ConfigError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    master=r"[A-Za-z0-9._+-]+",
    block=r"[A-Za-z0-9._+-]+",
    stack=r"[A-Za-z0-9._+-]+",
    field=r"[A-Za-z0-9._+-]+",


@cache
def plan():
    if not HAS_SHEET:
        checkpoints.ingest.get()
    try:
        return make_plan(read_sheet(Path(SHEET)), SETTINGS)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def settings(step):
    """Return the settings of a step as one dictionary, which Snakemake compares rightly."""
    return getattr(SETTINGS, step).model_dump(mode="json")


def plan_settings():
    """Return the settings that the plan depends on, and no others."""
    masters = ("master_bias", "master_dark", "master_flat")
    minimum = {name: {"minimum": settings(name)["minimum"]} for name in masters}
    return {"raw": "", "plan": settings("plan"), **minimum}


def code(step):
    """Return a hash of the rule's script and of all package code that it imports."""
    return fingerprint(str(Path(workflow.basedir) / "scripts" / f"{step}.py"))


def memory(mb):
    """Return a request for memory that grows when a job is tried again."""
    return lambda wildcards, attempt: mb * attempt


def outcomes(step, names):
    return [f"results/outcomes/{step}/{name}.csv" for name in names]


def rows(kind):
    """Return a function that gives the sheet rows of a master or a block."""
    return lambda wildcards: plan().rows_of(
        getattr(plan(), f"{kind}s")[wildcards[kind]].frames
    )


def block_of(wildcards):
    return plan().blocks[wildcards.block]


def field_of(wildcards):
    return plan().fields[
        wildcards.field if "field" in wildcards.keys() else block_of(wildcards).field
    ]


def instrument_named(name):
    """Return an instrument of the sheet; that of the settings may lie anywhere."""
    if SETTINGS.instrument:
        chosen = load_instrument(SETTINGS.instrument)
        if chosen.name == name:
            return chosen
    return load_instrument(name)


def electronics_of_master(wildcards):
    """Return linearity and crosstalk of the camera whose frames a master is made of."""
    first = plan().rows[plan().masters[wildcards.master].frames[0]]
    return instrument_named(first["instrument"]).electronics()


def instrument_of(wildcards):
    """Return what a job needs of the instrument file beyond the sheet."""
    instrument = instrument_named(block_of(wildcards).instrument)
    return {
        "wcs": instrument.wcs.policy,
        "remove": list(instrument.remove),
        "electronics": instrument.electronics(),
    }


def stack_of(wildcards):
    return plan().stacks[wildcards.stack]


def stack_of_block(wildcards):
    """Return the stack of all epochs that a block goes into."""
    return next(
        stack for stack in deep_stacks(wildcards) if wildcards.block in stack.blocks
    )


def deep_stacks(wildcards):
    """Return the stacks of all epochs of a field, one a filter."""
    stacks = (plan().stacks[name] for name in field_of(wildcards).stacks)
    return [stack for stack in stacks if stack.epoch == "all"]


def master_files(item):
    """Return the calibration masters of a block or a master as named inputs.

    A master that the sheet names by its file has no outcomes of its own.
    """
    files = {}
    for kind in ("bias", "dark", "flat"):
        name = getattr(item, kind, "")
        if name in plan().masters:
            files[kind] = f"results/masters/{name}.fits"
            files[f"{kind}_outcomes"] = f"results/outcomes/master_{kind}/{name}.csv"
        elif name:
            files[kind] = name
    return files


def master_choices(wildcards):
    """Return why each master of a block was chosen, for the headers of its frames."""
    return {
        kind: choice.for_job() for kind, choice in block_of(wildcards).choices.items()
    }


def master_outcomes():
    """Return the outcomes of all masters."""
    kinds = [
        (m.id, "dark" if "dark" in m.kind else m.kind) for m in plan().masters.values()
    ]
    return [f"results/outcomes/master_{kind}/{name}.csv" for name, kind in kinds]


def reference_catalog(wildcards=None):
    return [SETTINGS.reference] if SETTINGS.reference else []


def final_products(wildcards):
    """Return the outcomes of every step on everything that is planned.

    Not of the last steps only: a job that fails takes its outputs with it, and an
    intermediate product that is missing is made again only if somebody asks for it.
    """
    todo = plan()
    found = ["results/outcomes/plan/plan.csv", SHEET]
    if todo.masters:
        found += master_outcomes()
        found += outcomes("master_history", ["master_history"])
    for step in ("calibrate", "mask", "background", "sources", "astrometry", "photcal"):
        found += outcomes(step, todo.blocks)
    found += outcomes("reference_frames", todo.fields)
    if SETTINGS.stack.enabled:
        found += outcomes("stack", todo.stacks)
        found += outcomes("catalog", todo.stacks)
        found += outcomes("photometry", todo.blocks)
        found += outcomes("lightcurves", todo.fields)
    return found
