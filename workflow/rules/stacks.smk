# All frames of a field and filter on one grid, and what is in them.


rule stack:
    input:
        calibrated=lambda wildcards: [
            f"results/calibrated/{name}" for name in stack_of(wildcards).blocks
        ],
        masks=lambda wildcards: [
            f"results/mask/{name}" for name in stack_of(wildcards).blocks
        ],
        backgrounds=lambda wildcards: [
            f"results/background/{name}" for name in stack_of(wildcards).blocks
        ],
        photcal=lambda wildcards: [
            f"results/photcal/{name}.parquet" for name in stack_of(wildcards).blocks
        ],
        # All stacks of a field share one grid, so the frames of its other filters count.
        astrometry=lambda wildcards: [
            f"results/astrometry/{name}.parquet" for name in grid_blocks(wildcards)
        ],
        grid=lambda wildcards: grid_files(wildcards),
        # The errors of masters that frames share do not average down.
        masters=lambda wildcards: masters_of_blocks(stack_of(wildcards).blocks),
        upstream=lambda wildcards: outcomes("photcal", stack_of(wildcards).blocks),
    output:
        stack=report(
            "results/stack/{stack}.fits",
            caption="../report/stack.rst",
            category="Stacks",
        ),
        outcomes="results/outcomes/stack/{stack}.csv",
    log:
        "logs/stack/{stack}.log",
    benchmark:
        "benchmarks/stack/{stack}.tsv"
    conda:
        ENV
    threads: 2
    resources:
        # Resampled frames, the planes of the stack and what is imported.
        mem_mb=lambda wildcards, attempt: attempt
        * (1000 + int(settings("stack")["memory_mb"]) + 70 * mpix_of_stack(wildcards)),
    params:
        rows=lambda wildcards: plan().rows_of(
            frame
            for name in stack_of(wildcards).blocks
            for frame in plan().blocks[name].frames
        ),
        fields=lambda wildcards: len(fields_of_stack(wildcards)),
        settings=lambda wildcards: stack_settings(wildcards),
        code=code("stack"),
    message:
        "Stacking {wildcards.stack}"
    script:
        "../../scripts/stack.py"


rule catalog:
    input:
        stack="results/stack/{stack}.fits",
        upstream="results/outcomes/stack/{stack}.csv",
    output:
        table=report(
            "results/catalog/{stack}.parquet",
            caption="../report/catalog.rst",
            category="Catalogues",
        ),
        outcomes="results/outcomes/catalog/{stack}.csv",
    log:
        "logs/catalog/{stack}.log",
    benchmark:
        "benchmarks/catalog/{stack}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(3000),
    params:
        settings=settings("catalog"),
        code=code("catalog"),
    message:
        "Listing the sources of {wildcards.stack}"
    script:
        "../../scripts/catalog.py"
