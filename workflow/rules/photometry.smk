# Fluxes on the frames themselves, and how they change.


rule photometry:
    input:
        unpack(listed_positions),
        catalog=lambda wildcards: f"results/catalog/{stack_of_block(wildcards).id}.parquet",
        calibrated="results/calibrated/{block}",
        masks="results/mask/{block}",
        backgrounds="results/background/{block}",
        astrometry="results/astrometry/{block}.parquet",
        sources="results/outcomes/sources/{block}.csv",
        upstream="results/outcomes/astrometry/{block}.csv",
        catalog_outcomes=lambda wildcards: f"results/outcomes/catalog/{stack_of_block(wildcards).id}.csv",
    output:
        table="results/photometry/{block}.parquet",
        outcomes="results/outcomes/photometry/{block}.csv",
    log:
        "logs/photometry/{block}.log",
    benchmark:
        "benchmarks/photometry/{block}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("block"),
        settings=settings("photometry"),
        code=code("photometry"),
    message:
        "Measuring the stack's sources on the frames of {wildcards.block}"
    script:
        "../../scripts/photometry.py"


rule lightcurves:
    input:
        photometry=lambda wildcards: [
            f"results/photometry/{name}.parquet" for name in field_of(wildcards).blocks
        ],
        photcal=lambda wildcards: [
            f"results/photcal/{name}.parquet" for name in field_of(wildcards).blocks
        ],
        catalogs=lambda wildcards: [
            f"results/catalog/{stack.id}.parquet" for stack in deep_stacks(wildcards)
        ],
        upstream=lambda wildcards: outcomes("photometry", field_of(wildcards).blocks),
    output:
        points=report(
            "results/lightcurves/{field}.parquet",
            caption="../report/lightcurves.rst",
            category="Light curves",
        ),
        statistics="results/lightcurves/statistics/{field}.parquet",
        sources="results/lightcurves/sources/{field}.parquet",
        frames="results/lightcurves/frames/{field}.parquet",
        outcomes="results/outcomes/lightcurves/{field}.csv",
    log:
        "logs/lightcurves/{field}.log",
    benchmark:
        "benchmarks/lightcurves/{field}.tsv"
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
        filters=lambda wildcards: [stack.filter for stack in deep_stacks(wildcards)],
        settings=settings("lightcurves"),
        code=code("lightcurves"),
    message:
        "Joining the light curves of {wildcards.field}"
    script:
        "../../scripts/lightcurves.py"
