# Studies of weights, for the rows that the preset's keys `barriers` and `layers` name (eval/results/studies.py).


for study, verb in STUDIES.items():

    rule:
        name:
            verb
        input:
            lambda wildcards: TARGETS.compared(wildcards.run),
        output:
            f"{RESULTS}/{study}/{{run}}.json",
        log:
            f"{RESULTS}/logs/{verb}-{{run}}.log",
        wildcard_constraints:
            run=any_of(PRESET.studied(study)),
        conda:
            "../../environment.yml"
        threads: PRESET.config["threads"]
        resources:
            # Points on a line, and noise levels, count like trials, with as many images each.
            **REQUESTS.of("measure", trials=2 * PRESET.trials),
            gpu=ONE_GPU,
        params:
            spec=lambda wildcards, study=study: SPECS.path(study, wildcards.run),
            digest=lambda wildcards, study=study: SPECS.digest(study, wildcards.run),
        message:
            f"{verb} {{wildcards.run}}: weights of teacher and student"
        shell:
            f"python -m workflow.launch {{resources.gpu}} eval {{rule}} --spec {{params.spec:q}} --out {{output:q}}"
            " 2>&1 | tee -i {log:q}"
