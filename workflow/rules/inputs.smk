# Published files, fetched into the shared cache (checked, resumable) and imported once per preset; and archives of data
# sets (`made_from` in config/datasets.yaml), which are outside results/ and shared by all presets.


rule fetch:
    output:
        "<results>/assets/{asset}.json",
    log:
        "<results>/logs/fetch-{asset}.log",
    conda:
        "../../environment.yml"
    resources:
        download=1,
    params:
        registered=registered,
    message:
        "asset {wildcards.asset}: fetching"
    shell:
        "python -m sida.workflow assets fetch {wildcards.asset:q} --record {output:q} 2>&1 | tee -i {log:q}"


rule import_checkpoint:
    input:
        asset=lambda wildcards: expand("<results>/assets/{asset}.json", asset=published(wildcards)),
        file=lambda wildcards: [path for path in [PRESET.imports[wildcards.checkpoint]] if os.path.exists(path)],
    output:
        network="<results>/checkpoints/{checkpoint}/network.safetensors",
    log:
        "<results>/logs/import-{checkpoint}.log",
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS.of("checkpoints"),
    params:
        source=lambda wildcards: PRESET.imports[wildcards.checkpoint],
    message:
        "checkpoint {wildcards.checkpoint}: importing without executing it"
    shell:
        "python -m sida.workflow convert {params.source:q} {output.network:q} 2>&1 | tee -i {log:q}"


#: Archives to make. An existing one has no rule: it is used as it is, whichever preset made it, and even if its sources have
#: changed. Else a download for another archive of its source would have it made again.
TO_MAKE = [archive for archive in ARCHIVES.made if not os.path.exists(archive)]


rule prepare_data:
    input:
        lambda wildcards: expand("<results>/assets/{downloads}.json", **ARCHIVES.needs(wildcards.archive)),
    output:
        "{archive}",
    log:
        "<results>/logs/prepare/{archive}.log",
    wildcard_constraints:
        archive=any_of(path for path in TO_MAKE if ARCHIVES.made_from(path).source),
    conda:
        "../../environment.yml"
    threads: SETTINGS.threads
    resources:
        **REQUESTS.of("archives"),
    params:
        flags=lambda wildcards: ARCHIVES.flags(wildcards.archive),
    message:
        "data {wildcards.archive}: preparing"
    shell:
        "python -m sida.workflow data prepare {params.flags:q} --workers {threads} 2>&1 | tee -i {log:q}"


rule encode_data:
    input:
        pixels=lambda wildcards: ARCHIVES.needs(wildcards.archive)["files"],
        vae=lambda wildcards: expand("<results>/assets/{downloads}.json", **ARCHIVES.needs(wildcards.archive)),
    output:
        "{archive}",
    log:
        "<results>/logs/encode/{archive}.log",
    wildcard_constraints:
        archive=any_of(path for path in TO_MAKE if ARCHIVES.made_from(path).dataset),
    conda:
        "../../environment.yml"
    threads: SETTINGS.threads
    resources:
        **REQUESTS.of("archives", gpu=True),
    params:
        flags=lambda wildcards: ARCHIVES.flags(wildcards.archive),
    message:
        "data {wildcards.archive}: encoding"
    shell:
        "python -m sida.workflow.launch --nodes 1 {resources.gpu} sida.workflow data encode {params.flags:q} --workers {threads} 2>&1 | tee -i {log:q}"
