# Ten-trial evaluation of every generator, in one of two forms: many trials of a generator in one job (small networks,
# for which starting Python takes longer than a trial), or shards of each trial on a cluster, which are merged.


if PRESET.settings.shard_size is None:

    for first, last, rows in TARGETS.measure_jobs():

        rule:
            name:
                f"measure_{first}_{last}"
            input:
                lambda wildcards: TARGETS.generator(wildcards.run),
            output:
                # Values that are still valid are kept, so that a metric added to a protocol is measured alone.
                update(expand(f"{RESULTS}/measurements/{{{{run}}}}/trial-{{trial}}.json", trial=range(first, last + 1))),
            log:
                f"{RESULTS}/logs/measure-{{run}}-{first}-{last}.log",
            wildcard_constraints:
                run=any_of(rows),
            # Parts of rows with many steps are long, so they start first.
            priority: int(last - first + 1 < PRESET.trials)
            conda:
                "../../environment.yml"
            threads: PRESET.settings.threads
            resources:
                **REQUESTS.of("measure", trials=last - first + 1),
                gpu=ONE_GPU,
            params:
                spec=lambda wildcards: SPECS.path("measurements", wildcards.run),
                digest=measured_digest,
                folder=lambda wildcards, output: os.path.dirname(output[0]),
                trials=f"{first}-{last}",
            message:
                "measure {wildcards.run}: trials {params.trials}"
            shell:
                "python -m workflow.launch {resources.gpu} workflow measure --spec {params.spec:q} --out {params.folder:q}"
                " --trials {params.trials} 2>&1 | tee -i {log:q}"

else:

    rule measure_shard:
        input:
            lambda wildcards: TARGETS.generator(wildcards.run),
        output:
            temp(f"{RESULTS}/statistics/{{run}}/trial-{{trial}}/shard-{{begin}}-{{end}}.safetensors"),
        log:
            f"{RESULTS}/logs/shard-{{run}}-{{trial}}-{{begin}}-{{end}}.log",
        conda:
            "../../environment.yml"
        threads: PRESET.settings.threads
        resources:
            **REQUESTS.of("shard"),
            gpu=ONE_GPU,
        params:
            spec=lambda wildcards: SPECS.path("measurements", wildcards.run),
            digest=measured_digest,
            folder=lambda wildcards: f"{RESULTS}/statistics/{wildcards.run}",
        message:
            "measure {wildcards.run}: trial {wildcards.trial}, images {wildcards.begin} to {wildcards.end}"
        shell:
            "python -m workflow.launch {resources.gpu} workflow measure --spec {params.spec:q} --out {params.folder:q}"
            " --trials {wildcards.trial} --shard {wildcards.begin}-{wildcards.end} 2>&1 | tee -i {log:q}"

    rule merge_shards:
        input:
            lambda wildcards: TARGETS.shards(wildcards.run, wildcards.trial),
        output:
            f"{RESULTS}/measurements/{{run}}/trial-{{trial}}.json",
        log:
            f"{RESULTS}/logs/merge-{{run}}-{{trial}}.log",
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS.of("merge"),
        params:
            spec=lambda wildcards: SPECS.path("measurements", wildcards.run),
            digest=measured_digest,
            folder=lambda wildcards, output: os.path.dirname(output[0]),
        message:
            "measure {wildcards.run}: trial {wildcards.trial}, merging"
        shell:
            "python -m workflow merge --spec {params.spec:q} --trial {wildcards.trial} --out {params.folder:q} {input:q}"
            " 2>&1 | tee -i {log:q}"


rule collect:
    input:
        TARGETS.trials(TARGETS.rows),
    output:
        f"{RESULTS}/measurements.csv",
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards, output: os.path.join(os.path.dirname(output[0]), "measurements"),
        runs=TARGETS.rows,
        stored=TARGETS.stored_option(TARGETS.rows),
    message:
        "measurements: collecting"
    shell:
        "python -m workflow collect {params.folder:q} --runs {params.runs:q} {params.stored:q} --out {output:q} 2>&1 | tee -i {log:q}"


# Measurements of one table or figure, so that it can be made without the others.
rule collect_part:
    input:
        lambda wildcards: TARGETS.trials(TARGETS.needs(wildcards.kind, wildcards.name).measured),
    output:
        f"{RESULTS}/collected/{{kind}}/{{name}}.csv",
    log:
        f"{RESULTS}/logs/collect-{{kind}}-{{name}}.log",
    wildcard_constraints:
        kind="tables|figures",
    conda:
        "../../environment.yml"
    params:
        folder=f"{RESULTS}/measurements",
        runs=lambda wildcards: TARGETS.needs(wildcards.kind, wildcards.name).measured,
        stored=lambda wildcards: TARGETS.stored_option(TARGETS.needs(wildcards.kind, wildcards.name).measured),
    message:
        "{wildcards.name}: collecting its measurements"
    shell:
        "python -m workflow collect {params.folder:q} --runs {params.runs:q} {params.stored:q} --out {output:q} 2>&1 | tee -i {log:q}"


# Samples of a teacher as the reference of its students (references of kind `teacher` in a protocol), made once.
rule teacher_reference:
    input:
        lambda wildcards: TARGETS.drawn("/".join(wildcards)),
    output:
        f"{RESULTS}/references/{{teacher}}/{{protocol}}/{{reference}}.safetensors",
    log:
        f"{RESULTS}/logs/reference-{{teacher}}-{{protocol}}-{{reference}}.log",
    wildcard_constraints:
        protocol=any_of(name.split("/")[1] for name in PRESET.specs.drawn),
        reference=any_of(name.split("/")[2] for name in PRESET.specs.drawn),
    # Students and measurements wait for it.
    priority: 3
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("reference"),
        gpu=ONE_GPU,
    params:
        spec=lambda wildcards: SPECS.path("references", *wildcards),
        digest=lambda wildcards: SPECS.digest("references", *wildcards),
    message:
        "reference {wildcards.teacher}: drawing its samples"
    shell:
        "python -m workflow.launch {resources.gpu} workflow reference --spec {params.spec:q} --key {wildcards.reference:q} --out {output:q}"
        " 2>&1 | tee -i {log:q}"
