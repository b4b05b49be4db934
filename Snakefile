# skymill: from raw frames to calibrated sky.
#
#   config/frames.csv                           the sheet: every file, understood   (ingest)
#   results/masters/{master}.fits               bias, dark, flat                    (master_*)
#   results/master_history.parquet              how masters change              (master_history)
#   results/{calibrated,mask,background}/{block}/<frame>.fits      one file a frame
#   results/{sources,astrometry,photcal,photometry}/{block}.parquet  one table a block
#   results/{reference_frames,lightcurves}/{field}.parquet         one table a field
#   results/stack/{stack}.fits, results/catalog/{stack}.parquet    one of each a stack
#   results/outcomes/<step>/<id>.csv            what became of every frame
#   results/report/index.html
from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/masters.smk"
include: "workflow/rules/frames.smk"
include: "workflow/rules/stacks.smk"
include: "workflow/rules/photometry.smk"
include: "workflow/rules/movers.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        "results/report/index.html",
        final_products,
    message:
        "Everything is made"
