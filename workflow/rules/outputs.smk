# Tables, figures, claims and pages: pure functions of measurements, training logs and published numbers.

#: Tables, figures and claims, and the numbers behind them.
PRODUCTS = START.targets.tables_and_figures()
PAPER = ["<results>/paper.pdf"] if START.makes_paper else []


rule table:
    input:
        measurements=of("tables", "<results>/collected/tables/{collected}.csv"),
        teachers=of("tables", "<results>/teachers/{teachers}/network.safetensors"),
        students=of("tables", "<results>/students/{students}/network.safetensors"),
        imported=of("tables", "<results>/checkpoints/{imports}/network.safetensors"),
        files=of("tables", "{files}"),
        layout=lambda wildcards: PRESET.layouts["tables"][wildcards.table],
    output:
        html=report("<results>/tables/{table}.html", category="Tables", labels={"table": "{table}"}),
        tex="<results>/tables/{table}.tex",
        csv="<results>/tables/{table}.csv",
        md="<results>/tables/{table}.md",
    log:
        "<results>/logs/table-{table}.log",
    conda:
        "../../environment.yml"
    params:
        mode=SETTINGS.table_mode,
        spec=f"{RESULTS}/specs/tables/{{table}}.json",
        digest=digest("tables"),
        measurements=measurements_option,
        results=subpath(output.tex, ancestor=2),
    message:
        "table {wildcards.table}: building"
    shell:
        "python -m sida.workflow table {input.layout:q} {params.measurements:q} --runs {params.spec:q}"
        " --results {params.results:q} --mode {params.mode} --spec {params.spec:q} --out {output.tex:q}"
        " 2>&1 | tee -i {log:q}"


rule figure:
    input:
        measurements=of("figures", "<results>/collected/figures/{collected}.csv"),
        teachers=of("figures", "<results>/teachers/{teachers}/network.safetensors"),
        students=of("figures", "<results>/students/{students}/network.safetensors"),
        imported=of("figures", "<results>/checkpoints/{imports}/network.safetensors"),
        files=of("figures", "{files}"),
        layout=lambda wildcards: PRESET.layouts["figures"][wildcards.figure],
    output:
        png=report("<results>/figures/{figure}.png", category="Figures", labels={"figure": "{figure}"}),
        pdf="<results>/figures/{figure}.pdf",
        csv="<results>/figures/{figure}.csv",
    log:
        "<results>/logs/figure-{figure}.log",
    conda:
        "../../environment.yml"
    threads: SETTINGS.threads
    resources:
        **REQUESTS.of("build", gpu=True),
    params:
        spec=f"{RESULTS}/specs/figures/{{figure}}.json",
        digest=digest("figures"),
        measurements=measurements_option,
        results=subpath(output.pdf, ancestor=2),
    message:
        "figure {wildcards.figure}: drawing"
    shell:
        "python -m sida.workflow.launch {resources.gpu} sida.workflow figure --layout {input.layout:q} {params.measurements:q} --runs {params.spec:q}"
        " --results {params.results:q} --spec {params.spec:q} --out {output.pdf:q} 2>&1 | tee -i {log:q}"


rule claims:
    input:
        claims=literal(SETTINGS.claims or []),
        measurements=["<results>/measurements.csv"] if ROWS else [],
        students=collect("<results>/students/{run}/network.safetensors", run=JOBS.named("claims").needs["students"]),
        teachers=collect("<results>/teachers/{name}/network.safetensors", name=JOBS.named("claims").needs["teachers"]),
        imported=collect("<results>/checkpoints/{name}/network.safetensors", name=JOBS.named("claims").needs["imports"]),
    output:
        md=report("<results>/claims.md", category="Claims"),
        json="<results>/claims.json",
    log:
        "<results>/logs/claims.log",
    conda:
        "../../environment.yml"
    params:
        spec=f"{RESULTS}/specs/claims.json",
        digest=JOBS.digest("claims"),
        measurements=measurements_option,
        results=subpath(output.md, parent=True),
    message:
        "claims: deciding by rule"
    shell:
        "python -m sida.workflow claims --claims {input.claims:q} {params.measurements:q} --runs {params.spec:q}"
        " --results {params.results:q} --out {output.md:q} 2>&1 | tee -i {log:q}"


rule paper:
    input:
        PRODUCTS,
    output:
        tex="<results>/paper.tex",
        pdf="<results>/paper.pdf",
    log:
        "<results>/logs/paper.log",
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS.of("build"),
    params:
        digest=JOBS.digest("preset"),
        results=subpath(output.pdf, parent=True),
        own=literal(["--own", str(PRESET.folders[0])]),
    message:
        "paper: all tables and figures with their provenance"
    shell:
        "python -m sida.workflow paper {params.results:q} {params.own:q} --require-pdf 2>&1 | tee -i {log:q}"


rule index:
    input:
        PRODUCTS,
        PAPER,
    output:
        "<results>/index.html",
    log:
        "<results>/logs/index.log",
    conda:
        "../../environment.yml"
    params:
        digest=JOBS.digest("preset"),
        results=subpath(output[0], parent=True),
        title=literal(SETTINGS.title),
        own=literal(["--own", str(PRESET.folders[0])]),
        again=literal(shlex.join(START.command("--cores", "2"))),
    message:
        "index: everything on one page"
    shell:
        "python -m sida.workflow page {params.results:q} --title {params.title:q} {params.own:q} --again {params.again:q}"
        " --out {output:q} 2>&1 | tee -i {log:q}"


# The manifest is last: it has the hash of every other file.
rule manifest:
    input:
        PRODUCTS,
        PAPER,
        "<results>/index.html",
    output:
        "<results>/manifest.json",
    log:
        "<results>/logs/manifest.log",
    conda:
        "../../environment.yml"
    params:
        spec=f"{RESULTS}/specs/preset.json",
        digest=JOBS.digest("preset"),
        results=subpath(output[0], parent=True),
        again=literal(shlex.join(START.command())),
    message:
        "manifest: hashing every artefact"
    shell:
        "python -m sida.workflow manifest {params.results:q} --preset {params.spec:q} --command {params.again:q} --out {output:q}"
        " 2>&1 | tee -i {log:q}"
