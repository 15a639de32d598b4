# Ten-trial evaluation of every generator: a job measures all trials of a row, or some of them where its sampler has many
# steps. Copies of finished trials are in `state`, an undeclared output, so that valid values are not measured again.

#: Inputs of a measurement: the row's network and guide, downloads, archives and code.
MEASURED = of(
    "measurements",
    "<results>/teachers/{teachers}/network.safetensors",
    "<results>/students/{students}/network.safetensors",
    "<results>/checkpoints/{imports}/network.safetensors",
    "<results>/assets/{downloads}.json",
    "{files}",
)

for first, last, rows in measuring_parts(PRESET):

    rule:
        name:
            f"measure_{first}_{last}"
        input:
            MEASURED,
        output:
            collect("<results>/measurements/{{run}}/trial-{trial}.json", trial=range(first, last + 1)),
        log:
            f"<results>/logs/measure-{{run}}-{first}-{last}.log",
        wildcard_constraints:
            run=any_of(rows),
        # Parts of rows with many steps are long, so they start first.
        priority: int(last - first + 1 < PRESET.trials)
        conda:
            "../../environment.yml"
        threads: SETTINGS.threads
        resources:
            **REQUESTS.of("measurements", share=(last - first + 1) / PRESET.trials, gpu=True),
        params:
            spec=f"{RESULTS}/specs/measurements/{{run}}.json",
            digest=digest("measurements"),
            folder=subpath(output[0], parent=True),
            trials=f"{first}-{last}",
        message:
            "measure {wildcards.run}: trials {params.trials}"
        shell:
            "python -m sida.workflow.launch {resources.gpu} sida.workflow measure --spec {params.spec:q} --out {params.folder:q}"
            " --trials {params.trials} 2>&1 | tee -i {log:q}"


# Images of a trial on disk. No other product needs them (measuring streams its images), so they
# are made only as a target: snakemake results/demo/samples/sida-a1.0/trial-0
rule sample:
    input:
        MEASURED,
    output:
        directory("<results>/samples/{run}/trial-{trial}"),
    log:
        "<results>/logs/sample-{run}-{trial}.log",
    wildcard_constraints:
        run=any_of(sampled_rows(PRESET)),
    conda:
        "../../environment.yml"
    threads: SETTINGS.threads
    resources:
        **REQUESTS.of("measurements", share=1 / PRESET.trials, gpu=True),
    params:
        spec=f"{RESULTS}/specs/samples/{{run}}/trial-{{trial}}.json",
        digest=digest("samples"),
    message:
        "sample {wildcards.run}: the images of trial {wildcards.trial}"
    shell:
        "python -m sida.workflow.launch {resources.gpu} sida.workflow sample --spec {params.spec:q} --out {output:q} 2>&1 | tee -i {log:q}"


rule collect:
    input:
        collect(
            "<results>/measurements/{run}/trial-{trial}.json",
            run=JOBS.named("collected").needs["measured"],
            trial=TRIALS,
        ),
    output:
        "<results>/measurements.csv",
    log:
        "<results>/logs/collect.log",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards: f"{RESULTS}/measurements",
        digest=JOBS.digest("collected"),
        runs=ROWS,
        stored=literal(stored_option(JOBS.named("collected").needs["stored"])),
    message:
        "measurements: collecting"
    shell:
        "python -m sida.workflow collect {params.folder:q} --runs {params.runs:q} {params.stored:q} --out {output:q} 2>&1 | tee -i {log:q}"


# Measurements of one table or figure, so that it can be made without the others.
rule collect_part:
    input:
        collect(
            "<results>/measurements/{run}/trial-{trial}.json",
            run=lambda wildcards: JOBS.named(wildcards.kind, wildcards.name).needs["measured"],
            trial=TRIALS,
        ),
    output:
        "<results>/collected/{kind}/{name}.csv",
    log:
        "<results>/logs/collect-{kind}-{name}.log",
    wildcard_constraints:
        kind="tables|figures",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards: f"{RESULTS}/measurements",
        digest=lambda wildcards: JOBS.digest(wildcards.kind, wildcards.name),
        runs=lambda wildcards: JOBS.named(wildcards.kind, wildcards.name).needs["rows"],
        stored=lambda wildcards: stored_option(JOBS.named(wildcards.kind, wildcards.name).needs["stored"]),
    message:
        "{wildcards.name}: collecting its measurements"
    shell:
        "python -m sida.workflow collect {params.folder:q} --runs {params.runs:q} {params.stored:q} --out {output:q} 2>&1 | tee -i {log:q}"
