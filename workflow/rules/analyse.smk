# Analyses that the preset names (`analyses`): one file for each row, or one without rows (eval/results/analyses.py).


rule analyse:
    input:
        lambda wildcards: TARGETS.analysed("".join(wildcards.analysis.split("/")[1:])),
    output:
        f"{RESULTS}/analyses/{{analysis}}.json",
    log:
        f"{RESULTS}/logs/analyses/{{analysis}}.log",
    wildcard_constraints:
        analysis=any_of(path.removeprefix(f"{RESULTS}/analyses/").removesuffix(".json") for path in TARGETS.analyses()),
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        # Points on a line, and noise levels, count like trials, with as many images each.
        **REQUESTS.of("analyse", trials=2 * PRESET.trials),
        gpu=ONE_GPU,
    params:
        spec=lambda wildcards: SPECS.path("analyses", *wildcards.analysis.split("/")),
        digest=lambda wildcards: SPECS.digest("analyses", *wildcards.analysis.split("/")),
    message:
        "analysis {wildcards.analysis}"
    shell:
        "python -m workflow.launch {resources.gpu} workflow analyse --spec {params.spec:q} --out {output:q}"
        " 2>&1 | tee -i {log:q}"
