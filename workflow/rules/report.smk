# The index page, the HTML report and the manifest: last, because they describe all other products.


rule paper:
    input:
        TARGETS.tables_and_figures(),
    output:
        tex=f"{RESULTS}/paper.tex",
        pdf=report(f"{RESULTS}/paper.pdf", category="Paper", caption="../report/paper.rst"),
    log:
        f"{RESULTS}/logs/paper.log",
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS.of("build"),
    params:
        results=lambda wildcards, output: os.path.dirname(output.pdf),
        own=["--own", str(PRESET.own[0])],
    message:
        "paper: all tables and figures with their provenance"
    shell:
        "python -m eval paper {params.results:q} {params.own:q} --require-pdf 2>&1 | tee -i {log:q}"


rule index:
    input:
        TARGETS.tables_and_figures(),
        TARGETS.paper_files(),
        experiments=PRESET.config["experiments"] or [],
    output:
        f"{RESULTS}/index.html",
    log:
        f"{RESULTS}/logs/index.log",
    conda:
        "../../environment.yml"
    params:
        results=lambda wildcards, output: os.path.dirname(output[0]),
        title=PRESET.config["title"],
        experiments_digest=content_digest(PRESET.config["experiments"]),
        own=["--own", str(PRESET.own[0])],
        experiments=experiments_option,
        again=shlex.join(restart_command("--cores", "2")),
    message:
        "index: everything on one page"
    shell:
        "python -m eval page {params.results:q} --title {params.title:q} {params.own:q} {params.experiments:q} --again {params.again:q}"
        " --out {output:q} 2>&1 | tee -i {log:q}"


# A single experiment: only the rows of its tables, figures and claims are trained and measured.
rule experiment:
    input:
        unpack(lambda wildcards: TARGETS.answered(wildcards.experiment)),
        claims=PRESET.config["claims"] or [],
    output:
        html=f"{RESULTS}/experiments/{{experiment}}.html",
        md=f"{RESULTS}/experiments/{{experiment}}.md",
        json=f"{RESULTS}/experiments/{{experiment}}.json",
    log:
        f"{RESULTS}/logs/experiment-{{experiment}}.log",
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: SPECS.path("experiments", wildcards.experiment),
        digest=lambda wildcards: SPECS.digest("experiments", wildcards.experiment),
        claims_digest=content_digest(PRESET.config["claims"]),
        measurements=measurements_option,
        results=lambda wildcards, output: os.path.dirname(os.path.dirname(output.html)),
        own=["--own", str(PRESET.own[0])],
        again=lambda wildcards: shlex.join(
            [*restart_command("--cores", "2"), "--", f"experiments/{wildcards.experiment}.html"]
        ),
    message:
        "experiment {wildcards.experiment}: answering"
    shell:
        "python -m eval experiment --spec {params.spec:q} --claims {input.claims:q} {params.measurements:q}"
        " --results {params.results:q} {params.own:q} --again {params.again:q} --out {output.html:q}"
        " 2>&1 | tee -i {log:q}"


rule products:
    input:
        TARGETS.products(),


# Snakemake writes reports from the records of finished jobs, so a second, read-only Snakemake makes the report.
rule html_report:
    input:
        TARGETS.products(),
        os.path.relpath(f"{workflow.basedir}/workflow/report/workflow.rst"),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        "../../environment.yml"
    params:
        # A temporary name with the right suffix, since Snakemake chooses the format by suffix.
        part=f"{RESULTS}/.report-part.html",
        again=restart_command("products", "--nolock"),
    message:
        "report: collecting tables, figures and claims"
    shell:
        "{params.again:q} --report {params.part:q} > {log:q} 2>&1"
        " || {{ tail -n 20 {log:q} >&2; exit 1; }}; mv {params.part:q} {output:q}"


# The manifest is last: it has the hash of every other file.
rule manifest:
    input:
        TARGETS.products(),
        f"{RESULTS}/report.html",
    output:
        f"{RESULTS}/manifest.json",
    log:
        f"{RESULTS}/logs/manifest.log",
    conda:
        "../../environment.yml"
    params:
        results=lambda wildcards, output: os.path.dirname(output[0]),
        spec=SPECS.path("preset"),
        digest=SPECS.digest("preset"),
        again=shlex.join(restart_command()),
    message:
        "manifest: hashing every artefact"
    shell:
        "python -m sida manifest {params.results:q} --preset {params.spec:q} --command {params.again:q} --out {output:q}"
        " 2>&1 | tee -i {log:q}"
