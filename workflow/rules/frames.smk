# What happens to each light frame, a block at a time.


rule calibrate:
    input:
        unpack(lambda wildcards: master_files(block_of(wildcards))),
    output:
        frames=directory("results/calibrated/{block}"),
        outcomes="results/outcomes/calibrate/{block}.csv",
    log:
        "logs/calibrate/{block}.log",
    benchmark:
        "benchmarks/calibrate/{block}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("block"),
        missing=lambda wildcards: block_of(wildcards).missing,
        choices=master_choices,
        instrument=lambda wildcards: instrument_of(wildcards),
        settings=settings("calibrate"),
        code=code("calibrate"),
    message:
        "Calibrating the frames of {wildcards.block}"
    script:
        "../../scripts/calibrate.py"


rule mask:
    input:
        calibrated="results/calibrated/{block}",
        upstream="results/outcomes/calibrate/{block}.csv",
        user=[given.file for given in SETTINGS.mask.user_masks],
    output:
        masks=directory("results/mask/{block}"),
        outcomes="results/outcomes/mask/{block}.csv",
    log:
        "logs/mask/{block}.log",
    benchmark:
        "benchmarks/mask/{block}.tsv"
    conda:
        ENV
    threads: lambda wildcards: threads_of(block_of(wildcards))
    resources:
        mem_mb=memory(3000),
    params:
        rows=rows("block"),
        settings=settings("mask"),
        code=code("mask"),
    message:
        "Masking the frames of {wildcards.block}"
    script:
        "../../scripts/mask.py"


rule background:
    input:
        calibrated="results/calibrated/{block}",
        masks="results/mask/{block}",
        upstream="results/outcomes/mask/{block}.csv",
    output:
        backgrounds=directory("results/background/{block}"),
        outcomes="results/outcomes/background/{block}.csv",
    log:
        "logs/background/{block}.log",
    benchmark:
        "benchmarks/background/{block}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("block"),
        settings=settings("background"),
        code=code("background"),
    message:
        "Measuring the background of {wildcards.block}"
    script:
        "../../scripts/background.py"


rule sources:
    input:
        calibrated="results/calibrated/{block}",
        masks="results/mask/{block}",
        backgrounds="results/background/{block}",
        upstream="results/outcomes/background/{block}.csv",
    output:
        table="results/sources/{block}.parquet",
        outcomes="results/outcomes/sources/{block}.csv",
    log:
        "logs/sources/{block}.log",
    benchmark:
        "benchmarks/sources/{block}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("block"),
        settings=settings("sources"),
        code=code("sources"),
    message:
        "Finding the sources of {wildcards.block}"
    script:
        "../../scripts/sources.py"


rule reference_frames:
    input:
        tables=lambda wildcards: [
            f"results/sources/{name}.parquet" for name in field_of(wildcards).blocks
        ],
        calibrated=lambda wildcards: [
            f"results/calibrated/{name}" for name in field_of(wildcards).blocks
        ],
        upstream=lambda wildcards: outcomes("sources", field_of(wildcards).blocks),
        catalog=reference_file,
    output:
        table="results/reference_frames/{field}.parquet",
        catalog="results/reference_catalogs/{field}.parquet",
        outcomes="results/outcomes/reference_frames/{field}.csv",
    log:
        "logs/reference_frames/{field}.log",
    benchmark:
        "benchmarks/reference_frames/{field}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=lambda wildcards: plan().rows_of(
            frame
            for name in field_of(wildcards).blocks
            for frame in plan().blocks[name].frames
        ),
        settings=settings("reference_frames"),
        astrometry=settings("astrometry"),
        reference=reference_settings(),
        code=code("reference_frames"),
    message:
        "Choosing the reference frames of {wildcards.field}"
    script:
        "../../scripts/reference_frames.py"


rule astrometry:
    input:
        sources="results/sources/{block}.parquet",
        calibrated="results/calibrated/{block}",
        reference=lambda wildcards: f"results/reference_frames/{block_of(wildcards).field}.parquet",
        upstream="results/outcomes/sources/{block}.csv",
        catalog=reference_catalog,
    output:
        table="results/astrometry/{block}.parquet",
        outcomes="results/outcomes/astrometry/{block}.csv",
    log:
        "logs/astrometry/{block}.log",
    benchmark:
        "benchmarks/astrometry/{block}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("block"),
        settings=settings("astrometry"),
        code=code("astrometry"),
    message:
        "Solving the positions of {wildcards.block}"
    script:
        "../../scripts/astrometry.py"


rule photcal:
    input:
        sources="results/sources/{block}.parquet",
        sources_outcomes="results/outcomes/sources/{block}.csv",
        calibrated="results/calibrated/{block}",
        masks="results/mask/{block}",
        backgrounds="results/background/{block}",
        astrometry="results/astrometry/{block}.parquet",
        reference=lambda wildcards: f"results/reference_frames/{block_of(wildcards).field}.parquet",
        upstream="results/outcomes/astrometry/{block}.csv",
        catalog=reference_catalog,
    output:
        table="results/photcal/{block}.parquet",
        outcomes="results/outcomes/photcal/{block}.csv",
    log:
        "logs/photcal/{block}.log",
    benchmark:
        "benchmarks/photcal/{block}.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("block"),
        settings=settings("photcal"),
        # Only planted stars need it; without them it changes nothing.
        detection=settings("sources") if SETTINGS.photcal.injections else {},
        code=code("photcal"),
    message:
        "Calibrating the fluxes of {wildcards.block}"
    script:
        "../../scripts/photcal.py"
