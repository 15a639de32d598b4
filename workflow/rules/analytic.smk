# The analytic study of alpha - no data and no network, seconds on one core.


rule analytic:
    output:
        f"{RESULTS}/analytic.json",
    log:
        f"{RESULTS}/logs/analytic.log",
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: SPECS.path("analytic", "alpha"),
        digest=lambda wildcards: SPECS.digest("analytic", "alpha"),
    message:
        "analytic: what alpha does where everything is known"
    shell:
        "python -m sida analytic --spec {params.spec:q} --out {output:q} 2>&1 | tee -i {log:q}"
