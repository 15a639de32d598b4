# One-step students: SiD, SiDA, and SiD2A from a SiD generator. Training states are beside the network and no declared
# output, so an interrupted job resumes from them.


rule distill:
    input:
        unpack(lambda wildcards: TARGETS.training(wildcards.run)),
    output:
        network=f"{RESULTS}/students/{{run}}/network.safetensors",
    log:
        f"{RESULTS}/logs/student-{{run}}.log",
    wildcard_constraints:
        run=any_of(set(PRESET.runs) - TARGETS.parents),
    # Trainings are the long jobs; measuring and drawing fill the gaps.
    priority: 2
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("student"),
        gpu=lambda wildcards: PRESET.specs.training_gpus(PRESET.specs.student(wildcards.run)),
    params:
        spec=lambda wildcards: SPECS.path("students", wildcards.run),
        digest=lambda wildcards: SPECS.digest("students", wildcards.run),
        folder=lambda wildcards, output: os.path.dirname(output.network),
    message:
        "student {wildcards.run}: distilling"
    shell:
        "python -m workflow.launch --nodes {resources.nodes} {resources.gpu} sida distill"
        " --spec {params.spec:q} --out {params.folder:q} --set-aside --processes {resources.gpu} 2>&1 | tee -i {log:q}"


# Generators that other rows start from run first, so that the longest chain does not end on one busy core.
use rule distill as distill_parent with:
    wildcard_constraints:
        run=any_of(TARGETS.parents),
    priority: 3
