# Hours and memory of each training from its first log records, in minutes: the rows' recipes on random images, from
# teachers of one training step. Made only as targets: ticks/table8.md and ticks/claims.md.


rule tick_teacher:
    output:
        network=f"{RESULTS}/ticks/teachers/{{teacher}}/network.safetensors",
    log:
        f"{RESULTS}/logs/tick-teacher-{{teacher}}.log",
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("tick"),
        gpu=ONE_GPU,
    params:
        spec=lambda wildcards: SPECS.path("tick-teachers", wildcards.teacher),
        digest=lambda wildcards: SPECS.digest("tick-teachers", wildcards.teacher),
        folder=lambda wildcards, output: os.path.dirname(output.network),
    message:
        "ticks {wildcards.teacher}: a network of its shape"
    shell:
        "python -m workflow.launch {resources.gpu} sida train-teacher"
        " --spec {params.spec:q} --out {params.folder:q} --set-aside 2>&1 | tee -i {log:q}"


rule tick:
    input:
        lambda wildcards: PRESET.tick_teacher(PRESET.runs[wildcards.run].teacher),
    output:
        network=f"{RESULTS}/ticks/students/{{run}}/network.safetensors",
    log:
        f"{RESULTS}/logs/tick-{{run}}.log",
    wildcard_constraints:
        run=any_of(run for runs in PRESET.specs.timed.values() for run in runs),
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("tick"),
        gpu=lambda wildcards: PRESET.specs.training_gpus(PRESET.specs.student(wildcards.run)),
    params:
        spec=lambda wildcards: SPECS.path("ticks", wildcards.run),
        digest=lambda wildcards: SPECS.digest("ticks", wildcards.run),
        folder=lambda wildcards, output: os.path.dirname(output.network),
    message:
        "ticks {wildcards.run}: timing its training"
    shell:
        "python -m workflow.launch {resources.gpu} sida distill"
        " --spec {params.spec:q} --out {params.folder:q} --set-aside --processes {resources.gpu} 2>&1 | tee -i {log:q}"


rule ticks_table:
    input:
        lambda wildcards: TARGETS.ticks(PRESET.specs.timed[wildcards.table]),
        layout=lambda wildcards: PRESET.layout("tables", wildcards.table),
    output:
        multiext(f"{RESULTS}/ticks/{{table}}", md=".md", tex=".tex", csv=".csv", html=".html"),
    log:
        f"{RESULTS}/logs/ticks-{{table}}.log",
    wildcard_constraints:
        table=any_of(PRESET.specs.timed),
    conda:
        "../../environment.yml"
    params:
        mode=PRESET.settings.table_mode,
        spec=lambda wildcards: SPECS.path("tables", wildcards.table),
        digest=lambda wildcards: SPECS.digest("tables", wildcards.table),
        results=lambda wildcards, output: os.path.dirname(output.md),
    message:
        "ticks {wildcards.table}: building"
    shell:
        "python -m workflow table {input.layout:q} --runs {params.spec:q} --results {params.results:q}"
        " --mode {params.mode} --spec {params.spec:q} --out {output.tex:q} 2>&1 | tee -i {log:q}"


rule ticks_claims:
    input:
        TARGETS.ticks(dict.fromkeys(run for runs in PRESET.specs.timed.values() for run in runs)),
        claims=PRESET.settings.claims or [],
        runs=PRESET.sheet,
    output:
        multiext(f"{RESULTS}/ticks/claims", md=".md", json=".json", html=".html"),
    log:
        f"{RESULTS}/logs/ticks-claims.log",
    conda:
        "../../environment.yml"
    params:
        results=lambda wildcards, output: os.path.dirname(output.md),
    message:
        "ticks: deciding claims about hours and memory"
    shell:
        "python -m workflow claims --claims {input.claims:q} --runs {input.runs:q} --results {params.results:q}"
        " --out {output.md:q} 2>&1 | tee -i {log:q}"
