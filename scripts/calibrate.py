"""Calibrate the raw frames of one block."""

from skymill.jobs.calibrate import calibrate_block
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    calibrate_block(
        raw=snakemake.config["raw"],
        rows=snakemake.params.rows,
        inputs=dict(snakemake.input.items()),
        missing=snakemake.params.missing,
        choices=snakemake.params.choices,
        instrument=snakemake.params.instrument,
        frames=snakemake.output.frames,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
