# Ten-trial evaluation of every generator, in one of two forms: many trials of a generator in one job (small networks,
# for which starting Python takes longer than a trial), or shards of each trial on a cluster, which are merged. Copies of
# finished trials are in `state`, which is no declared output: values that are still valid are not measured again.

#: What a measurement reads: the row's network and guide, samples of its teacher, downloads, archives and code.
MEASURED = of(
    "measurements",
    "<results>/teachers/{teachers}/network.safetensors",
    "<results>/students/{students}/network.safetensors",
    "<results>/checkpoints/{imports}/network.safetensors",
    "<results>/references/{references}.safetensors",
    "<results>/assets/{downloads}.json",
    "{files}",
)

if SETTINGS.shard_size is None:

    for first, last, rows in PRESET.parts():

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
                "python -m workflow.launch {resources.gpu} workflow measure --spec {params.spec:q} --out {params.folder:q}"
                " --trials {params.trials} 2>&1 | tee -i {log:q}"

else:

    rule measure_shard:
        input:
            MEASURED,
        output:
            temp("<results>/statistics/{run}/trial-{trial}/shard-{begin}-{end}.safetensors"),
        log:
            "<results>/logs/shard-{run}-{trial}-{begin}-{end}.log",
        conda:
            "../../environment.yml"
        threads: SETTINGS.threads
        resources:
            **REQUESTS.of("measurements", share=REQUESTS.of_shard, gpu=True),
        params:
            spec=f"{RESULTS}/specs/measurements/{{run}}.json",
            digest=digest("measurements"),
            folder=subpath(output[0], ancestor=2),
        message:
            "measure {wildcards.run}: trial {wildcards.trial}, images {wildcards.begin} to {wildcards.end}"
        shell:
            "python -m workflow.launch {resources.gpu} workflow measure --spec {params.spec:q} --out {params.folder:q}"
            " --trials {wildcards.trial} --shard {wildcards.begin}-{wildcards.end} 2>&1 | tee -i {log:q}"

    rule merge_shards:
        input:
            collect(
                "<results>/statistics/{{run}}/trial-{{trial}}/shard-{part}.safetensors",
                part=lambda wildcards: PRESET.shards(wildcards.run),
            ),
        output:
            "<results>/measurements/{run}/trial-{trial}.json",
        log:
            "<results>/logs/merge-{run}-{trial}.log",
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS.of("merges"),
        params:
            spec=f"{RESULTS}/specs/measurements/{{run}}.json",
            digest=digest("measurements"),
            folder=subpath(output[0], parent=True),
        message:
            "measure {wildcards.run}: trial {wildcards.trial}, merging"
        shell:
            "python -m workflow merge --spec {params.spec:q} --trial {wildcards.trial} --out {params.folder:q} {input:q}"
            " 2>&1 | tee -i {log:q}"


# Samples of a teacher as the reference of its students (references of kind `teacher` in a protocol), made once.
rule teacher_reference:
    input:
        of(
            "references",
            "<results>/teachers/{teachers}/network.safetensors",
            "<results>/checkpoints/{imports}/network.safetensors",
            "<results>/assets/{downloads}.json",
            "{files}",
        ),
    output:
        "<results>/references/{teacher}/{protocol}/{reference}.safetensors",
    log:
        "<results>/logs/reference-{teacher}-{protocol}-{reference}.log",
    priority: 3
    conda:
        "../../environment.yml"
    threads: SETTINGS.threads
    resources:
        **REQUESTS.of("references", gpu=True),
    params:
        spec=f"{RESULTS}/specs/references/{{teacher}}/{{protocol}}/{{reference}}.json",
        digest=digest("references"),
    message:
        "reference {wildcards.teacher}: drawing its samples"
    shell:
        "python -m workflow.launch {resources.gpu} workflow reference --spec {params.spec:q} --key {wildcards.reference:q} --out {output:q}"
        " 2>&1 | tee -i {log:q}"


# Images of a generator on disk, those of a trial. No other product needs them (measuring streams its images), so they
# are made only as a target: snakemake results/demo/samples/sida-a1.0/trial-0
rule sample:
    input:
        MEASURED,
    output:
        directory("<results>/samples/{run}/trial-{trial}"),
    log:
        "<results>/logs/sample-{run}-{trial}.log",
    wildcard_constraints:
        run=any_of(PRESET.sampled),
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
        "python -m workflow.launch {resources.gpu} sida sample --spec {params.spec:q} --out {output:q} 2>&1 | tee -i {log:q}"


rule collect:
    input:
        collect(
            "<results>/measurements/{run}/trial-{trial}.json", run=PRESET.collection.needs["measured"], trial=TRIALS
        ),
    output:
        "<results>/measurements.csv",
    log:
        "<results>/logs/collect.log",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards: f"{RESULTS}/measurements",
        digest=PRESET.collection.digest,
        runs=ROWS,
        stored=literal(stored_option(PRESET.collection.needs["stored"])),
    message:
        "measurements: collecting"
    shell:
        "python -m workflow collect {params.folder:q} --runs {params.runs:q} {params.stored:q} --out {output:q} 2>&1 | tee -i {log:q}"


# Measurements of one table or figure, so that it can be made without the others.
rule collect_part:
    input:
        collect(
            "<results>/measurements/{run}/trial-{trial}.json",
            run=lambda wildcards: PRESET.shown(wildcards.kind, wildcards.name).needs["measured"],
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
        digest=digest("collected"),
        runs=lambda wildcards: PRESET.shown(wildcards.kind, wildcards.name).needs["rows"],
        stored=lambda wildcards: stored_option(PRESET.shown(wildcards.kind, wildcards.name).needs["stored"]),
    message:
        "{wildcards.name}: collecting its measurements"
    shell:
        "python -m workflow collect {params.folder:q} --runs {params.runs:q} {params.stored:q} --out {output:q} 2>&1 | tee -i {log:q}"
