"""Find where the frames of one block point."""

from skymill.jobs.astrometry import astrometry_block
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    astrometry_block(
        rows=snakemake.params.rows,
        sources=snakemake.input.sources,
        calibrated=snakemake.input.calibrated,
        reference=snakemake.input.reference,
        upstream=snakemake.input.upstream,
        catalog=snakemake.input.catalog,
        table=snakemake.output.table,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
