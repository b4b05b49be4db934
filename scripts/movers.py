"""Find the moving objects of one field and measure them."""

from skymill.jobs.movers import movers_field
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    movers_field(
        rows=snakemake.params.rows,
        sources=snakemake.input.sources,
        source_outcomes=snakemake.input.source_outcomes,
        calibrated=snakemake.input.calibrated,
        masks=snakemake.input.masks,
        backgrounds=snakemake.input.backgrounds,
        astrometry=snakemake.input.astrometry,
        photcal=snakemake.input.photcal,
        catalogs=snakemake.input.catalogs,
        transparency=snakemake.input.transparency,
        upstream=snakemake.input.upstream,
        tracks=snakemake.output.tracks,
        points=snakemake.output.points,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        photometry_settings=snakemake.params.photometry_settings,
        code=snakemake.params.code,
    )
