# Diffusion teachers, and one-step students: SiD, SiDA, and SiD2A from a SiD generator. Training states are beside the
# network and no declared output, so an interrupted job resumes from them. So is the text of all attempts (training.log):
# Snakemake removes the log of an attempt before the next one.


rule train_teacher:
    input:
        of("teachers", "{files}"),
    output:
        network="<results>/teachers/{teacher}/network.safetensors",
    log:
        "<results>/logs/teacher-{teacher}.log",
    priority: 4
    conda:
        "../../environment.yml"
    threads: SETTINGS.threads
    resources:
        **REQUESTS.of("teachers"),
    params:
        spec=f"{RESULTS}/specs/teachers/{{teacher}}.json",
        digest=digest("teachers"),
        folder=subpath(output.network, parent=True),
    message:
        "teacher {wildcards.teacher}: training"
    shell:
        "python -m sida.workflow.launch --nodes {resources.nodes} {resources.gpu} sida.workflow train-teacher"
        " --spec {params.spec:q} --out {params.folder:q} --set-aside 2>&1 | tee -i -a {log:q} {params.folder:q}/training.log"


rule distill:
    input:
        teacher=of("students", "<results>/teachers/{teachers}/network.safetensors"),
        starts=of("students", "<results>/students/{students}/network.safetensors"),
        imported=of("students", "<results>/checkpoints/{imports}/network.safetensors"),
        downloads=of("students", "<results>/assets/{downloads}.json"),
        files=of("students", "{files}"),
    output:
        network="<results>/students/{run}/network.safetensors",
    log:
        "<results>/logs/student-{run}.log",
    wildcard_constraints:
        run=any_of(set(PRESET.runs) - PRESET.starts),
    # Trainings are the long jobs; measuring and drawing fill the gaps.
    priority: 2
    conda:
        "../../environment.yml"
    threads: SETTINGS.threads
    resources:
        **REQUESTS.of("students"),
    params:
        spec=f"{RESULTS}/specs/students/{{run}}.json",
        digest=digest("students"),
        folder=subpath(output.network, parent=True),
    message:
        "student {wildcards.run}: distilling"
    shell:
        "python -m sida.workflow.launch --nodes {resources.nodes} {resources.gpu} sida.workflow distill"
        " --spec {params.spec:q} --out {params.folder:q} --set-aside 2>&1 | tee -i -a {log:q} {params.folder:q}/training.log"


# Generators that other rows start from run first, so that the longest chain does not end on one busy core.
use rule distill as distill_parent with:
    wildcard_constraints:
        run=any_of(PRESET.starts),
    priority: 3
