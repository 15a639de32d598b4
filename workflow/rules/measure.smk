# Ten-run evaluation of every generator. A job measures several trials in one process because on small nets starting
# Python costs more than a trial does.


def generator_network(wildcards):
    """The network a row samples from; nothing for the data themselves."""
    return PRESET.network_path(PRESET.runs[wildcards.run]) or []


rule measure:
    input:
        network=generator_network,
        protocol=lambda wildcards: PRESET.protocol_of(PRESET.runs[wildcards.run]),
    output:
        expand(f"{RESULTS}/measurements/{{{{run}}}}/trial-{{trial}}.json", trial=range(TRIALS)),
    params:
        spec=lambda wildcards: spec(PRESET.measure_spec(wildcards.run)),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
        trials=f"0-{TRIALS - 1}",
    log:
        f"{RESULTS}/logs/measure-{{run}}.log",
    threads: PRESET.config["threads"]
    resources:
        gpu=PRESET.config["gpus"],
    conda:
        "../../environment.yml"
    message:
        "measure {wildcards.run}: {params.trials} trials"
    shell:
        "python -m eval measure --spec {params.spec:q} --out {params.folder:q} --trials {params.trials} 2>&1 | tee -i {log:q}"


rule collect:
    input:
        expand(f"{RESULTS}/measurements/{{run}}/trial-{{trial}}.json", run=RUNS, trial=range(TRIALS)),
    output:
        f"{RESULTS}/measurements.csv",
    params:
        folder=f"{RESULTS}/measurements",
        runs=RUNS,
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../../environment.yml"
    message:
        "measurements of {params.folder}: collecting"
    shell:
        "python -m eval collect {params.folder:q} --runs {params.runs:q} --out {output:q} 2>&1 | tee -i {log:q}"
