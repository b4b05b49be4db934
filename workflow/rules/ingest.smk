# Raw tree to sheet, and what the plan makes of it.


if not HAS_SHEET:

    checkpoint ingest:
        output:
            sheet=SHEET,
        log:
            "logs/ingest/ingest.log",
        benchmark:
            "benchmarks/ingest/ingest.tsv"
        conda:
            ENV
        params:
            settings=SETTINGS.model_dump(mode="json"),
        message:
            "Reading the raw tree"
        script:
            "../../scripts/ingest.py"


rule plan:
    input:
        sheet=SHEET,
    output:
        choices="results/plan/choices.csv",
        outcomes="results/outcomes/plan/plan.csv",
    log:
        "logs/plan/plan.log",
    benchmark:
        "benchmarks/plan/plan.tsv"
    conda:
        ENV
    params:
        settings=plan_settings(),
        code=code("plan"),
    message:
        "Noting the frames that no product can use"
    script:
        "../../scripts/plan.py"
