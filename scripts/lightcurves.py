"""Join the measurements of one field to light curves."""

from skymill.jobs.lightcurves import lightcurves_field
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    lightcurves_field(
        rows=snakemake.params.rows,
        photometry=snakemake.input.photometry,
        photcal=snakemake.input.photcal,
        catalogs=snakemake.input.catalogs,
        filters=snakemake.params.filters,
        points=snakemake.output.points,
        statistics=snakemake.output.statistics,
        sources=snakemake.output.sources,
        frames=snakemake.output.frames,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
