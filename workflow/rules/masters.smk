# Calibration masters: results/masters/{master}.fits


rule master_bias:
    output:
        master="results/masters/{master}.fits",
        outcomes="results/outcomes/master_bias/{master}.csv",
    log:
        "logs/master_bias/{master}.log",
    benchmark:
        "benchmarks/master_bias/{master}.tsv"
    wildcard_constraints:
        master=r"bias-[A-Za-z0-9._+-]+",
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("master"),
        electronics=electronics_of_master,
        settings=settings("master_bias"),
        code=code("master_bias"),
    message:
        "Combining bias frames to {wildcards.master}"
    script:
        "../../scripts/master_bias.py"


rule master_dark:
    input:
        unpack(lambda wildcards: master_files(plan().masters[wildcards.master])),
    output:
        master="results/masters/{master}.fits",
        outcomes="results/outcomes/master_dark/{master}.csv",
    log:
        "logs/master_dark/{master}.log",
    benchmark:
        "benchmarks/master_dark/{master}.tsv"
    wildcard_constraints:
        master=r"(dark|flatdark)-[A-Za-z0-9._+-]+",
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("master"),
        electronics=electronics_of_master,
        settings=settings("master_dark"),
        code=code("master_dark"),
    message:
        "Combining dark frames to {wildcards.master}"
    script:
        "../../scripts/master_dark.py"


rule master_flat:
    input:
        unpack(lambda wildcards: master_files(plan().masters[wildcards.master])),
    output:
        master="results/masters/{master}.fits",
        outcomes="results/outcomes/master_flat/{master}.csv",
    log:
        "logs/master_flat/{master}.log",
    benchmark:
        "benchmarks/master_flat/{master}.tsv"
    wildcard_constraints:
        master=r"flat-[A-Za-z0-9._+-]+",
    conda:
        ENV
    resources:
        mem_mb=memory(2000),
    params:
        rows=rows("master"),
        electronics=electronics_of_master,
        settings=settings("master_flat"),
        code=code("master_flat"),
    message:
        "Combining flat fields to {wildcards.master}"
    script:
        "../../scripts/master_flat.py"


rule master_history:
    input:
        masters=lambda wildcards: [
            f"results/masters/{name}.fits" for name in plan().masters
        ],
        outcomes=lambda wildcards: master_outcomes(),
    output:
        table="results/master_history.parquet",
        outcomes="results/outcomes/master_history/master_history.csv",
    log:
        "logs/master_history/master_history.log",
    benchmark:
        "benchmarks/master_history/master_history.tsv"
    conda:
        ENV
    resources:
        mem_mb=memory(1000),
    params:
        facts=lambda wildcards: [
            {"id": master.id, "kind": master.kind, **master.key}
            for master in plan().masters.values()
        ],
        settings=settings("master_history"),
        code=code("master_history"),
    message:
        "Comparing the masters with earlier ones"
    script:
        "../../scripts/master_history.py"
