"""Make the final mask of every frame of one block."""

from skymill.jobs.mask import mask_block
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    mask_block(
        rows=snakemake.params.rows,
        calibrated=snakemake.input.calibrated,
        upstream=snakemake.input.upstream,
        masks=snakemake.output.masks,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
        threads=snakemake.threads,
    )
