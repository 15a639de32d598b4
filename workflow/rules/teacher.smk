# Diffusion teachers: trained here from the preset's settings.


rule train_teacher:
    input:
        # A network class of one's own: where its source is newer, the teacher is trained again.
        lambda wildcards: network_source(PRESET.config["teachers"][wildcards.teacher]["network"]["class"]),
    output:
        network=f"{RESULTS}/teachers/{{teacher}}/network.safetensors",
    log:
        f"{RESULTS}/logs/teacher-{{teacher}}.log",
    priority: 4
    conda:
        "../../environment.yml"
    threads: PRESET.config["threads"]
    resources:
        gpu=PRESET.config["gpus"],
    params:
        spec=lambda wildcards: spec(PRESET.teacher_spec(wildcards.teacher)),
        folder=lambda wildcards, output: os.path.dirname(output.network),
    message:
        "teacher {wildcards.teacher}: training"
    shell:
        "python -m sida train-teacher --spec {params.spec:q} --out {params.folder:q} --set-aside 2>&1 | tee -i {log:q}"
