"""Write the page that tells what happened to every file."""

from skymill.jobs.report import write_report
from skymill.logs import job_log

with job_log(snakemake.log[0]):
    write_report(
        results="results",
        sheet="config/frames.csv",
        page=snakemake.output.page,
        planned=snakemake.params.planned,
        settings=snakemake.params.settings,
        all_settings=snakemake.params.all_settings,
        code=snakemake.params.code,
    )
