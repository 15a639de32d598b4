# One-step students: SiD, SiDA, and SiD2A from a SiD generator. Training state lies beside the network and is not a
# declared output, so an interrupted job finds it again.


def student_parents(wildcards):
    """Networks a student starts from: its teacher and, for SiD2A, another generator."""
    run = PRESET.runs[wildcards.run]
    parents = {"teacher": PRESET.teacher_path(run.teacher)}
    if run.init:
        parents["init"] = PRESET.network_path(PRESET.runs[run.init])
    return parents


rule distill:
    input:
        unpack(student_parents),
        protocol=lambda wildcards: PRESET.protocol_of(PRESET.runs[wildcards.run]),
    output:
        network=f"{RESULTS}/students/{{run}}/network.safetensors",
    params:
        spec=lambda wildcards: spec(PRESET.student_spec(wildcards.run)),
        folder=lambda wildcards, output: os.path.dirname(output.network),
    log:
        f"{RESULTS}/logs/student-{{run}}.log",
    threads: PRESET.config["threads"]
    resources:
        gpu=PRESET.config["gpus"],
    conda:
        "../../environment.yml"
    message:
        "student {wildcards.run}: distilling"
    shell:
        "python -m sida distill --spec {params.spec:q} --out {params.folder:q} 2>&1 | tee -i {log:q}"
