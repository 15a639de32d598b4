# One-step students: SiD, SiDA, and SiD2A from a SiD generator. Training state lies beside the network and is not a
# declared output, so an interrupted job finds it again.


rule distill:
    input:
        unpack(student_parents),
        protocol=lambda wildcards: PRESET.protocol_of(PRESET.runs[wildcards.run]),
    output:
        network=f"{RESULTS}/students/{{run}}/network.safetensors",
    log:
        f"{RESULTS}/logs/student-{{run}}.log",
    wildcard_constraints:
        run=any_of(set(PRESET.runs) - PARENTS),
    # Trainings are the long jobs: measuring and drawing fill the gaps.
    priority: 2
    conda:
        "../../environment.yml"
    threads: PRESET.config["threads"]
    resources:
        gpu=PRESET.config["gpus"],
    params:
        spec=lambda wildcards: spec(PRESET.student_spec(wildcards.run)),
        folder=lambda wildcards, output: os.path.dirname(output.network),
    message:
        "student {wildcards.run}: distilling"
    shell:
        "python -m sida distill --spec {params.spec:q} --out {params.folder:q} --set-aside 2>&1 | tee -i {log:q}"


# Generators that other rows start from go first, so that the longest chain does not end on one busy core.
use rule distill as distill_parent with:
    wildcard_constraints:
        run=any_of(PARENTS),
    priority: 3
