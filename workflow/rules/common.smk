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


def threads_of(block):
    """Return the threads of a job: small frames leave the compiled code too often."""
    first = plan().rows[block.frames[0]]
    return 2 if first["nx"] * first["ny"] > 1e6 else 1


def outcomes(step, names):
    return [f"results/outcomes/{step}/{name}.csv" for name in names]


def field_products(wildcards, step, suffix=""):
    """Return what a step made of the blocks of a field."""
    return [f"results/{step}/{name}{suffix}" for name in field_of(wildcards).blocks]


def listed_positions(wildcards=None):
    """Return the list of further positions: an input, so that a change measures anew."""
    chosen = SETTINGS.photometry.positions
    return {"listed": chosen} if chosen else {}


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


def mpix_of_stack(wildcards):
    """Return the megapixels of a tile, or about those of the grid: a frame's and its dithers."""
    stack = stack_of(wildcards)
    if stack.tile:
        return int(SETTINGS.plan.tiles.size_px**2 / 1e6) + 1
    first = plan().rows[plan().blocks[stack.blocks[0]].frames[0]]
    return int(1.2 * first["nx"] * first["ny"] / 1e6) + 1


def fields_of_stack(wildcards):
    """Return the fields whose frames a stack holds: several for a tile of the sky."""
    return {plan().blocks[name].field for name in stack_of(wildcards).blocks}


def given_grid(wildcards):
    """Return the grid of a stack as plain values, or None if its frames decide."""
    stack = stack_of(wildcards)
    if stack.tile:
        return {"tile": stack.tile}
    return SETTINGS.stack.grid.of(stack.field, plan().fields[stack.field].target)


def grid_files(wildcards):
    """Return the file of a given grid, so that a change of it is seen."""
    file = (given_grid(wildcards) or {}).get("file")
    return [file] if file else []


def grid_blocks(wildcards):
    """Return the blocks whose astrometry a stack needs: those that decide its grid."""
    stack = stack_of(wildcards)
    return plan().fields[stack.field].blocks if stack.field else stack.blocks


def stack_settings(wildcards):
    """Return the settings of a stack with its own grid, not those of other fields."""
    return settings("stack") | {"grid": given_grid(wildcards)}


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


def masters_of_blocks(names):
    """Return the files of all masters of some blocks, sorted."""
    items = [master_files(plan().blocks[name]) for name in names]
    kinds = ("bias", "dark", "flat")
    return sorted({item[kind] for item in items for kind in kinds if kind in item})


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


def reference_file(wildcards=None):
    """Return the local reference catalogue, if there is one."""
    given = SETTINGS.reference
    return [given.file] if given and given.file else []


def reference_settings():
    """Return what is asked of the reference catalogue, but not where its file lies."""
    given = SETTINGS.reference
    return given.model_dump(mode="json", exclude={"file"}) if given else None


def reference_catalog(wildcards):
    """Return the stars of the catalogue in a field, if a catalogue was asked for."""
    if not SETTINGS.reference or SETTINGS.astrometry.mode == "align_only":
        return []
    return [f"results/reference_catalogs/{field_of(wildcards).id}.parquet"]


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
        if SETTINGS.movers.enabled:
            found += outcomes("movers", todo.fields)
    return found
