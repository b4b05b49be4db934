"""Combine the frames of one field and filter on one pixel grid."""

from skymill.jobs.stack import stack_frames
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    stack_frames(
        rows=snakemake.params.rows,
        calibrated=snakemake.input.calibrated,
        masks=snakemake.input.masks,
        backgrounds=snakemake.input.backgrounds,
        photcal=snakemake.input.photcal,
        astrometry=snakemake.input.astrometry,
        upstream=snakemake.input.upstream,
        grid_files=snakemake.input.grid,
        fields=snakemake.params.fields,
        masters=snakemake.input.masters,
        stack_file=snakemake.output.stack,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
        threads=snakemake.threads,
    )
