# Tables, figures and claims: pure functions of measurements, training logs and published numbers.


def network_files(wildcards):
    """Networks of all rows; training logs lie beside the students'."""
    return sorted({path for path in map(PRESET.network_path, PRESET.runs.values()) if path})


rule table:
    input:
        layout="config/tables/{table}.yaml",
        measurements=f"{RESULTS}/measurements.csv",
        runs=PRESET.sheet,
        networks=network_files,
    output:
        tex=report(
            f"{RESULTS}/tables/{{table}}.tex",
            category="Tables",
            subcategory="LaTeX",
            caption="../report/table.rst",
            labels={"table": "{table}", "format": "LaTeX"},
        ),
        csv=report(
            f"{RESULTS}/tables/{{table}}.csv",
            category="Tables",
            subcategory="Data",
            caption="../report/table.rst",
            labels={"table": "{table}", "format": "CSV"},
        ),
        md=f"{RESULTS}/tables/{{table}}.md",
        html=report(
            f"{RESULTS}/tables/{{table}}.html",
            category="Tables",
            caption="../report/table.rst",
            labels={"table": "{table}", "format": "page"},
        ),
    params:
        mode=PRESET.config["table_mode"],
    log:
        f"{RESULTS}/logs/table-{{table}}.log",
    conda:
        "../../environment.yml"
    message:
        "table {wildcards.table}: building"
    shell:
        "python -m eval table --layout {input.layout:q} --measurements {input.measurements:q} --runs {input.runs:q}"
        " --mode {params.mode} --out {output.tex:q} 2>&1 | tee -i {log:q}"


rule figure:
    input:
        layout="config/figures/{figure}.yaml",
        measurements=f"{RESULTS}/measurements.csv",
        runs=PRESET.sheet,
        networks=network_files,
    output:
        pdf=report(
            f"{RESULTS}/figures/{{figure}}.pdf",
            category="Figures",
            subcategory="PDF",
            caption="../report/figure.rst",
            labels={"figure": "{figure}", "format": "PDF"},
        ),
        png=report(
            f"{RESULTS}/figures/{{figure}}.png",
            category="Figures",
            caption="../report/figure.rst",
            labels={"figure": "{figure}", "format": "picture"},
        ),
        csv=report(
            f"{RESULTS}/figures/{{figure}}.csv",
            category="Figures",
            subcategory="Data",
            caption="../report/figure.rst",
            labels={"figure": "{figure}", "format": "CSV"},
        ),
    params:
        spec=spec(PRESET.figure_spec()),
        results=RESULTS,
    log:
        f"{RESULTS}/logs/figure-{{figure}}.log",
    threads: PRESET.config["threads"]
    conda:
        "../../environment.yml"
    message:
        "figure {wildcards.figure}: drawing"
    shell:
        "python -m eval figure --layout {input.layout:q} --measurements {input.measurements:q} --runs {input.runs:q}"
        " --results {params.results:q} --spec {params.spec:q} --out {output.pdf:q} 2>&1 | tee -i {log:q}"


rule claims:
    input:
        claims=PRESET.config["claims"] or [],
        measurements=f"{RESULTS}/measurements.csv",
        runs=PRESET.sheet,
        networks=network_files,
    output:
        md=report(f"{RESULTS}/claims.md", category="Claims", caption="../report/claims.rst"),
        json=f"{RESULTS}/claims.json",
    params:
        results=RESULTS,
    log:
        f"{RESULTS}/logs/claims.log",
    conda:
        "../../environment.yml"
    message:
        "claims: deciding by rule"
    shell:
        "python -m eval claims --claims {input.claims:q} --measurements {input.measurements:q} --runs {input.runs:q}"
        " --results {params.results:q} --out {output.md:q} 2>&1 | tee -i {log:q}"
