"""Compare masters with earlier ones."""

from skymill.jobs.master_history import compare_masters
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    compare_masters(
        facts=snakemake.params.facts,
        masters=snakemake.input.masters,
        upstream=snakemake.input.outcomes,
        table=snakemake.output.table,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
