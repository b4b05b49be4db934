"""Measure zero point, throughput, seeing and depth of the frames of one block."""

from skymill.jobs.photcal import photcal_block
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    photcal_block(
        rows=snakemake.params.rows,
        sources=snakemake.input.sources,
        sources_outcomes=snakemake.input.sources_outcomes,
        calibrated=snakemake.input.calibrated,
        masks=snakemake.input.masks,
        backgrounds=snakemake.input.backgrounds,
        astrometry=snakemake.input.astrometry,
        reference=snakemake.input.reference,
        upstream=snakemake.input.upstream,
        catalog=snakemake.input.catalog,
        table=snakemake.output.table,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        detection=snakemake.params.detection,
        code=snakemake.params.code,
    )
