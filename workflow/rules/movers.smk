# What moves across a field.


rule movers:
    input:
        sources=lambda wildcards: field_products(wildcards, "sources", ".parquet"),
        source_outcomes=lambda wildcards: outcomes(
            "sources", field_of(wildcards).blocks
        ),
        calibrated=lambda wildcards: field_products(wildcards, "calibrated"),
        masks=lambda wildcards: field_products(wildcards, "mask"),
        backgrounds=lambda wildcards: field_products(wildcards, "background"),
        astrometry=lambda wildcards: field_products(wildcards, "astrometry", ".parquet"),
        photcal=lambda wildcards: field_products(wildcards, "photcal", ".parquet"),
        catalogs=lambda wildcards: [
            f"results/catalog/{stack.id}.parquet" for stack in deep_stacks(wildcards)
        ],
        transparency="results/lightcurves/frames/{field}.parquet",
        upstream=lambda wildcards: outcomes("astrometry", field_of(wildcards).blocks),
    output:
        tracks=report(
            "results/movers/{field}.parquet",
            caption="../report/movers.rst",
            category="Moving objects",
        ),
        points="results/movers/points/{field}.parquet",
        outcomes="results/outcomes/movers/{field}.csv",
    log:
        "logs/movers/{field}.log",
    benchmark:
        "benchmarks/movers/{field}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(3000),
    params:
        rows=lambda wildcards: plan().rows_of(
            frame
            for name in field_of(wildcards).blocks
            for frame in plan().blocks[name].frames
        ),
        settings=settings("movers"),
        photometry_settings=settings("photometry"),
        code=code("movers"),
    message:
        "Looking for moving objects in {wildcards.field}"
    script:
        "../../scripts/movers.py"
