"""Measure the sources of the stack on every frame of one block."""

from skymill.jobs.photometry import photometry_block
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    photometry_block(
        rows=snakemake.params.rows,
        catalog=snakemake.input.catalog,
        calibrated=snakemake.input.calibrated,
        masks=snakemake.input.masks,
        backgrounds=snakemake.input.backgrounds,
        astrometry=snakemake.input.astrometry,
        sources=snakemake.input.sources,
        upstream=snakemake.input.upstream,
        table=snakemake.output.table,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
        listed=snakemake.input.get("listed"),
    )
