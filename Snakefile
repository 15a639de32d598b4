# sida-repro: teacher -> SiD -> SiDA / SiD2A -> samples -> measurements -> tables, figures, claims, report.
#
#   snakemake --cores 2                                      the demo: real training on 8x8 digits, minutes
#   snakemake --cores N --configfile studies/X/preset.yaml   another preset
#   snakemake --cores 2 results/demo/tables/main.tex         any single table, figure, network or measurement
#   snakemake --cores 2 tables                               all of a kind: tables, figures, networks, measurements, samples, downloads
#   sida run demo tables/main.tex                            the same by a short name
#   snakemake -s CHECKOUT/Snakefile --configfile STUDY/preset.yaml     from anywhere: results/ lies where it is started

import os
import shlex
import sys

from snakemake.utils import min_version

min_version("9.20.0")

# Without this guard the demo's keys would leak into every preset given with --configfile. --config changes the demo.
if not workflow.configfiles:
    if not os.path.samefile(workflow.basedir, "."):
        demo = shlex.quote(f"{workflow.basedir}/studies/demo/preset.yaml")
        print(f"error: --configfile: no preset is named; give --configfile FILE, for the demo {demo}", file=sys.stderr)
        sys.exit(1)

    configfile: os.path.relpath(f"{workflow.basedir}/studies/demo/preset.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/outputs.smk"


# Short, or in need of the internet: run where Snakemake runs and not as jobs of a cluster.
localrules:
    fetch,
    collect,
    collect_part,
    table,
    claims,
    index,
    manifest,


rule all:
    default_target: True
    input:
        PRODUCTS,
        PAPER,
        "<results>/index.html",
        "<results>/manifest.json",


# Products by the name of their kind: snakemake --cores 2 figures. Measuring streams its images, so `samples` alone puts
# those of all trials on disk.
for group, paths in START.targets.groups(JOBS).items():

    rule:
        name:
            group
        input:
            paths,
        message:
            f"{group}: all are there"


START.check_targets()


# Not called by dry runs, nor by the Snakemakes that Snakemake starts for its jobs. One workflow at a time works in a
# preset's folder; files of specs are written only where they say something new.
onstart:
    START.begin()


onsuccess:
    START.show_summary()


onerror:
    START.fail()
