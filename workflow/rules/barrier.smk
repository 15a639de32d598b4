# Loss barriers between the weights of students and teachers, for the rows that the preset's key `barriers` names.


rule barrier:
    input:
        lambda wildcards: TARGETS.compared(wildcards.run),
    output:
        f"{RESULTS}/barriers/{{run}}.json",
    log:
        f"{RESULTS}/logs/barrier-{{run}}.log",
    wildcard_constraints:
        run=any_of(PRESET.barrier_rows),
    conda:
        "../../environment.yml"
    threads: PRESET.config["threads"]
    resources:
        # Points on the line count like trials, with as many images each.
        **REQUESTS.of("measure", trials=2 * PRESET.trials),
        gpu=ONE_GPU,
    params:
        spec=lambda wildcards: SPECS.path("barriers", wildcards.run),
        digest=lambda wildcards: SPECS.digest("barriers", wildcards.run),
    message:
        "barrier {wildcards.run}: losses between teacher and student"
    shell:
        "python -m workflow.launch {resources.gpu} eval barrier --spec {params.spec:q} --out {output:q} 2>&1 | tee -i {log:q}"
