# The index page and the manifest: last, because they describe all other products.


rule paper:
    input:
        TARGETS.tables_and_figures(),
    output:
        tex=f"{RESULTS}/paper.tex",
        pdf=f"{RESULTS}/paper.pdf",
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
        "python -m workflow paper {params.results:q} {params.own:q} --require-pdf 2>&1 | tee -i {log:q}"


rule index:
    input:
        TARGETS.tables_and_figures(),
        TARGETS.paper_files(),
    output:
        f"{RESULTS}/index.html",
    log:
        f"{RESULTS}/logs/index.log",
    conda:
        "../../environment.yml"
    params:
        results=lambda wildcards, output: os.path.dirname(output[0]),
        title=PRESET.settings.title,
        own=["--own", str(PRESET.own[0])],
        again=shlex.join(START.command("--cores", "2")),
    message:
        "index: everything on one page"
    shell:
        "python -m workflow page {params.results:q} --title {params.title:q} {params.own:q} --again {params.again:q}"
        " --out {output:q} 2>&1 | tee -i {log:q}"


# The manifest is last: it has the hash of every other file.
rule manifest:
    input:
        TARGETS.products(),
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
        again=shlex.join(START.command()),
    message:
        "manifest: hashing every artefact"
    shell:
        "python -m sida manifest {params.results:q} --preset {params.spec:q} --command {params.again:q} --out {output:q}"
        " 2>&1 | tee -i {log:q}"
