"""Combine dark frames to one master."""

from skymill.jobs.masters import make_master
from skymill.logs import job_log
from skymill.steps.master_dark import master_dark

with job_log(snakemake.log[0]):
    make_master(
        "master_dark",
        master_dark,
        raw=snakemake.config["raw"],
        rows=snakemake.params.rows,
        electronics=snakemake.params.electronics,
        inputs=dict(snakemake.input.items()),
        master=snakemake.output.master,
        outcomes=snakemake.output.outcomes,
        settings=snakemake.params.settings,
        code=snakemake.params.code,
    )
