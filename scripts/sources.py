"""Find and measure the sources of every frame of one block."""

from skymill.jobs.sources import sources_block
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    sources_block(
        rows=snakemake.params.rows,
        calibrated=snakemake.input.calibrated,
        masks=snakemake.input.masks,
        backgrounds=snakemake.input.backgrounds,
        upstream=snakemake.input.upstream,
        table=snakemake.output.table,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
