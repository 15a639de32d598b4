# Tables, figures and claims: pure functions of measurements, training logs and published numbers.


rule table:
    input:
        unpack(lambda wildcards: TARGETS.shown("tables", wildcards.table)),
        layout=lambda wildcards: PRESET.layout("tables", wildcards.table),
    output:
        tex=f"{RESULTS}/tables/{{table}}.tex",
        csv=f"{RESULTS}/tables/{{table}}.csv",
        md=f"{RESULTS}/tables/{{table}}.md",
        html=f"{RESULTS}/tables/{{table}}.html",
        json=f"{RESULTS}/tables/{{table}}.json",
    log:
        f"{RESULTS}/logs/table-{{table}}.log",
    wildcard_constraints:
        table=any_of(PRESET.settings.tables),
    conda:
        "../../environment.yml"
    params:
        mode=PRESET.settings.table_mode,
        spec=lambda wildcards: SPECS.path("tables", wildcards.table),
        digest=lambda wildcards: SPECS.digest("tables", wildcards.table),
        layout_digest=lambda wildcards: content_digest(PRESET.layout("tables", wildcards.table)),
        measurements=measurements_option,
        results=lambda wildcards: RESULTS,
    message:
        "table {wildcards.table}: building"
    shell:
        "python -m workflow table {input.layout:q} {params.measurements:q} --runs {params.spec:q}"
        " --results {params.results:q} --mode {params.mode} --spec {params.spec:q} --out {output.tex:q}"
        " 2>&1 | tee -i {log:q}"


rule figure:
    input:
        unpack(lambda wildcards: TARGETS.shown("figures", wildcards.figure)),
        layout=lambda wildcards: PRESET.layout("figures", wildcards.figure),
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=f"{RESULTS}/figures/{{figure}}.png",
        csv=f"{RESULTS}/figures/{{figure}}.csv",
    log:
        f"{RESULTS}/logs/figure-{{figure}}.log",
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("figure"),
        gpu=ONE_GPU,
    params:
        spec=lambda wildcards: SPECS.path("figures", wildcards.figure),
        digest=lambda wildcards: SPECS.digest("figures", wildcards.figure),
        layout_digest=lambda wildcards: content_digest(PRESET.layout("figures", wildcards.figure)),
        measurements=measurements_option,
        results=lambda wildcards: RESULTS,
    message:
        "figure {wildcards.figure}: drawing"
    shell:
        "python -m workflow.launch {resources.gpu} workflow figure --layout {input.layout:q} {params.measurements:q} --runs {params.spec:q}"
        " --results {params.results:q} --spec {params.spec:q} --out {output.pdf:q} 2>&1 | tee -i {log:q}"


rule claims:
    input:
        claims=PRESET.settings.claims or [],
        measurements=TARGETS.measurements,
        runs=PRESET.judged_sheet,
        networks=TARGETS.networks(TARGETS.rows),
    output:
        md=f"{RESULTS}/claims.md",
        json=f"{RESULTS}/claims.json",
        html=f"{RESULTS}/claims.html",
    log:
        f"{RESULTS}/logs/claims.log",
    conda:
        "../../environment.yml"
    params:
        claims_digest=content_digest(PRESET.settings.claims),
        measurements=measurements_option,
        results=lambda wildcards, output: os.path.dirname(output.md),
    message:
        "claims: deciding by rule"
    shell:
        "python -m workflow claims --claims {input.claims:q} {params.measurements:q} --runs {input.runs:q}"
        " --results {params.results:q} --out {output.md:q} 2>&1 | tee -i {log:q}"
