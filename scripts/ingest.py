"""Read the raw tree and write the sheet."""

from pathlib import Path

from skymill.commands.ingest import run_ingest
from skymill.logs import job_log
from skymill.settings import validate_settings

with job_log(snakemake.log[0]):
    run_ingest(Path(), validate_settings(snakemake.params.settings), update=False)
