# Archives of data sets (`made_from` in config/datasets.yaml). They are outside results/, shared by all presets; an
# existing archive is used even if its sources have changed.


rule prepare_data:
    input:
        lambda wildcards: ancient(TARGETS.sources(wildcards.archive)),
    output:
        "{archive}",
    log:
        f"{RESULTS}/logs/prepare/{{archive}}.log",
    wildcard_constraints:
        archive=any_of(path for path in PRESET.archives if PRESET.archive_origin(path).source),
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("prepare"),
    params:
        flags=lambda wildcards: TARGETS.archive_flags(wildcards.archive),
    message:
        "data {wildcards.archive}: preparing"
    shell:
        "python -m sida data prepare {params.flags:q} --workers {threads} 2>&1 | tee -i {log:q}"


rule encode_data:
    input:
        pixels=lambda wildcards: ancient(TARGETS.sources(wildcards.archive)),
        vae=[f"{RESULTS}/assets/{asset}.json" for asset in SD_VAE.assets],
    output:
        "{archive}",
    log:
        f"{RESULTS}/logs/encode/{{archive}}.log",
    wildcard_constraints:
        archive=any_of(path for path in PRESET.archives if PRESET.archive_origin(path).dataset),
    conda:
        "../../environment.yml"
    threads: PRESET.settings.threads
    resources:
        **REQUESTS.of("encode"),
        gpu=ONE_GPU,
    params:
        flags=lambda wildcards: TARGETS.archive_flags(wildcards.archive),
    message:
        "data {wildcards.archive}: encoding"
    shell:
        "python -m workflow.launch {resources.gpu} sida data encode {params.flags:q} --workers {threads} 2>&1 | tee -i {log:q}"
