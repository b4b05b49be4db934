# One page that tells what happened to every file.


rule report:
    input:
        final_products,
    output:
        page=report(
            "results/report/index.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        "logs/report/report.log",
    benchmark:
        "benchmarks/report/report.tsv"
    conda:
        ENV
    params:
        planned=lambda wildcards: sorted(
            ["master_history", *plan().masters, *plan().blocks, *plan().fields]
            + (list(plan().stacks) if SETTINGS.stack.enabled else [])
        ),
        all_settings=SETTINGS.reduction(),
        settings=settings("report"),
        code=code("report"),
    message:
        "Writing the report"
    script:
        "../../scripts/report.py"
