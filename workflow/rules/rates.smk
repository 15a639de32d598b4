# What the device did in the trainings, beside the plan: from their logs, a matrix product and the feature networks, seconds.


rule rates:
    input:
        TARGETS.networks(run.run for run in PRESET.students()),
    output:
        json=f"{RESULTS}/rates.json",
        table=multiext(f"{RESULTS}/tables/rates", ".tex", ".csv", ".md", ".html", ".json"),
    log:
        f"{RESULTS}/logs/rates.log",
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("build"),
        gpu=ONE_GPU,
    params:
        spec=SPECS.path("preset"),
        digest=SPECS.digest("preset"),
    message:
        "rates: what this device did in the trainings"
    shell:
        "python -m workflow.launch {resources.gpu} workflow rates --preset {params.spec:q} 2>&1 | tee -i {log:q}"
