"""Measure the background of every frame of one block."""

from skymill.jobs.background import background_block
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    background_block(
        rows=snakemake.params.rows,
        calibrated=snakemake.input.calibrated,
        masks=snakemake.input.masks,
        upstream=snakemake.input.upstream,
        backgrounds=snakemake.output.backgrounds,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
