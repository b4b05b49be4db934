"""Combine bias frames to one master."""

from skymill.jobs.masters import make_master
from skymill.logs import job_log
from skymill.steps.master_bias import master_bias

with job_log(snakemake.log[0]):
    make_master(
        "master_bias",
        master_bias,
        raw=snakemake.config["raw"],
        rows=snakemake.params.rows,
        electronics=snakemake.params.electronics,
        inputs=dict(snakemake.input.items()),
        master=snakemake.output.master,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
