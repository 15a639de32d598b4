# Diffusion teachers, trained with the preset's settings.


rule train_teacher:
    input:
        lambda wildcards: TARGETS.teacher(wildcards.teacher),
    output:
        network=f"{RESULTS}/teachers/{{teacher}}/network.safetensors",
    log:
        f"{RESULTS}/logs/teacher-{{teacher}}.log",
    priority: 4
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("teacher"),
        gpu=lambda wildcards: PRESET.specs.training_gpus(PRESET.specs.teacher(wildcards.teacher)),
    params:
        spec=lambda wildcards: SPECS.path("teachers", wildcards.teacher),
        digest=lambda wildcards: SPECS.digest("teachers", wildcards.teacher),
        folder=lambda wildcards, output: os.path.dirname(output.network),
    message:
        "teacher {wildcards.teacher}: training"
    shell:
        "python -m workflow.launch --nodes {resources.nodes} {resources.gpu} sida train-teacher"
        " --spec {params.spec:q} --out {params.folder:q} --set-aside --processes {resources.gpu} 2>&1 | tee -i {log:q}"
