# Targets by their path below results/<preset>/: `snakemake --cores 2 tables/main.tex`. Each short name is a rule
# without output, whose input is the product; nothing is written outside results/.

for target in TARGETS.short():

    rule:
        name:
            target
        input:
            f"{RESULTS}/{target}",
