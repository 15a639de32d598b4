# Any product by its path below results/<preset>/: `snakemake --cores 2 tables/main.tex`. Each such name is a rule without
# an output whose input is the file meant; nothing is written outside results/.

for target in TARGETS.short():

    rule:
        name:
            target
        input:
            f"{RESULTS}/{target}",
