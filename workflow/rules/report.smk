# One page that tells what happened to every file.


def report_inputs(wildcards):
    """Return the last product of everything that is planned."""
    todo = plan()
    found = ["results/outcomes/plan/plan.csv", SHEET]
    for master in todo.masters.values():
        kind = "dark" if "dark" in master.kind else master.kind
        found += outcomes(f"master_{kind}", [master.id])
    found += [f"results/photcal/{name}.parquet" for name in todo.blocks]
    if SETTINGS.stack.enabled:
        found += [f"results/catalog/{name}.parquet" for name in todo.stacks]
        found += [f"results/lightcurves/{name}.parquet" for name in todo.fields]
    return found


rule report:
    input:
        report_inputs,
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
            [*plan().masters, *plan().blocks, *plan().stacks, *plan().fields]
        ),
        all_settings=SETTINGS.model_dump(mode="json"),
        settings=settings("report"),
        code=code("report"),
    message:
        "Writing the report"
    script:
        "../../scripts/report.py"
