"""Note what became of frames before any product: by ingest and by the plan."""

from pathlib import Path

from skymill.jobs.plan import plan_outcomes
from skymill.logs import job_log
from skymill.settings import validate_settings
from skymill.sheet import read_sheet

with job_log(snakemake.log[0]):
    plan_outcomes(
        rows=read_sheet(Path(snakemake.input.sheet)),
        settings=validate_settings(snakemake.params.settings),
        choices=snakemake.output.choices,
        outcomes=snakemake.output.outcomes,
    )
