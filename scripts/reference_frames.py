"""Choose the best frame of a field, and the best one of each filter."""

from skymill.jobs.reference_frames import reference_frames_field
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    reference_frames_field(
        rows=snakemake.params.rows,
        tables=snakemake.input.tables,
        calibrated=snakemake.input.calibrated,
        upstream=snakemake.input.upstream,
        catalog=snakemake.input.catalog,
        table=snakemake.output.table,
        catalog_table=snakemake.output.catalog,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        astrometry_settings=snakemake.params.astrometry,
        reference_settings=snakemake.params.reference,
        code=snakemake.params.code,
    )
