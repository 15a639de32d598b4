# Published checkpoints and references: fetched into the shared cache (checked, resumable), imported once per preset.


rule fetch:
    output:
        f"{RESULTS}/assets/{{asset}}.json",
    log:
        f"{RESULTS}/logs/fetch-{{asset}}.log",
    conda:
        "../../environment.yml"
    resources:
        download=1,
    message:
        "asset {wildcards.asset}: fetching"
    shell:
        "python -m sida assets fetch {wildcards.asset:q} --record {output:q} 2>&1 | tee -i {log:q}"


rule import_checkpoint:
    input:
        lambda wildcards: TARGETS.checkpoint(wildcards.checkpoint),
    output:
        network=f"{RESULTS}/checkpoints/{{checkpoint}}/network.safetensors",
    log:
        f"{RESULTS}/logs/import-{{checkpoint}}.log",
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS.of("import"),
    params:
        source=lambda wildcards: PRESET.imports[wildcards.checkpoint],
    message:
        "checkpoint {wildcards.checkpoint}: importing without executing it"
    shell:
        "python -m sida convert {params.source:q} {output.network:q} 2>&1 | tee -i {log:q}"
