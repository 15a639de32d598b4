# Images of a generator on disk, those of a trial. No other product needs them (measuring streams its images), so they
# are made only as a target: snakemake results/demo/samples/sida-a1.0/trial-0


rule sample:
    input:
        lambda wildcards: TARGETS.generator(wildcards.run),
    output:
        directory(f"{RESULTS}/samples/{{run}}/trial-{{trial}}"),
    log:
        f"{RESULTS}/logs/sample-{{run}}-{{trial}}.log",
    wildcard_constraints:
        run=any_of(PRESET.sampled),
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("sample"),
        gpu=ONE_GPU,
    params:
        spec=lambda wildcards: SPECS.path("samples", wildcards.run, wildcards.trial),
        digest=lambda wildcards: SPECS.digest("samples", wildcards.run, wildcards.trial),
    message:
        "sample {wildcards.run}: the images of trial {wildcards.trial}"
    shell:
        "python -m workflow.launch {resources.gpu} sida sample --spec {params.spec:q} --out {output:q} 2>&1 | tee -i {log:q}"
