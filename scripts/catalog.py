"""Find and measure the sources of one stack."""

from skymill.jobs.catalog import catalog_stack
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    catalog_stack(
        stack=snakemake.input.stack,
        upstream=snakemake.input.upstream,
        table=snakemake.output.table,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
