"""Combine flat frames to one master."""

from skymill.jobs.masters import make_master
from skymill.logs import job_log
from skymill.steps.master_flat import master_flat

with job_log(snakemake.log[0]):
    make_master(
        "master_flat",
        master_flat,
        raw=snakemake.config["raw"],
        rows=snakemake.params.rows,
        electronics=snakemake.params.electronics,
        inputs=dict(snakemake.input.items()),
        master=snakemake.output.master,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
