# sida-repro: two commands for a newcomer, `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CORES ?= all
export PATH := $(abspath $(BIN)):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))
export PYTHONUNBUFFERED := 1
# Compiled modules save seconds at the start of every job.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
# Tests of `make test-versions`: numerics against golden values, a training from its start to its resumption, the workflow.
QUICK := tests/methods tests/networks $(wildcard plugins/*/tests) tests/sampling tests/files tests/eval/test_frechet.py \
  tests/eval/test_metrics.py tests/training/test_distiller.py \
  tests/training/test_runs.py tests/workflow/test_smoke.py tests/workflow/test_digests.py \
  tests/studies/papers/test_presets.py

# Tests of `make test-kernels`, and other processors: variables of torch, oneDNN, MKL and NumPy's OpenBLAS.
NUMERICAL := tests/networks tests/methods tests/sampling tests/training tests/eval/features \
  tests/eval/test_frechet.py tests/eval/test_metrics.py $(wildcard plugins/*/tests)
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell
DEFAULT := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem

.PHONY: help setup demo test test-slow test-kernels test-all first-day test-slurm test-versions mutants extras validators docs publish peers audit lint format bench lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the environment in .venv (hash-checked packages)

$(STAMP): requirements/main.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; install Python 3.11 or newer and run: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up .venv (about 20 s to 2 min, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	@$(BIN)/uv pip sync --quiet --require-hashes requirements/main.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## train, distil and measure on 8x8 digits: minutes on two cores
	@$(BIN)/python studies/demo/probe.py $(CORES)
	@$(BIN)/snakemake --cores $(CORES)

test: $(STAMP) ## the test-suite (about 5 minutes on two cores)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP) ## the slow tests alone, but for the first day and those on SLURM (about half an hour on two cores)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow --ignore tests/slurm --ignore-glob '*/test_first_day*' $(PYTEST_ARGS)

test-kernels: $(STAMP) ## the numerical tests with the kernels of processors with AVX2 and without
	@if grep -qs avx512f /proc/cpuinfo; then $(AVX2) $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(NUMERICAL) $(PYTEST_ARGS); \
	  else echo "no AVX-512 here: make test has run the kernels of AVX2"; fi
	@$(DEFAULT) $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(NUMERICAL) $(PYTEST_ARGS)

test-all: $(STAMP) ## `make test` and `make test-slow`
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

first-day: $(STAMP) ## the first day with a network: downloads and a first look, by a server of this machine (minutes)
	@$(BIN)/python -m pytest -n 0 $(PYTEST_ARGS) tests/first_day plugins/planner/tests/test_first_day.py

test-slurm: $(STAMP) ## the workflow on a real SLURM on this machine (installs it by apt-get, as root)
	@SLURM_LOCAL_ACCOUNTING=1 tests/slurm/slurm-local install
	@SIDA_TEST_SLURM=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS) tests/slurm plugins/planner/tests/test_first_day_slurm.py

test-versions: $(STAMP) ## a quick part of the tests with the oldest supported versions (.venv-oldest, 6 GB)
	@test -x .venv-oldest/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-oldest
	@VIRTUAL_ENV=$(CURDIR)/.venv-oldest $(BIN)/uv pip sync --quiet --require-hashes requirements/oldest.lock
	@.venv-oldest/bin/python -m pytest -n 2 --dist loadgroup -m "not slow" $(QUICK) $(PYTEST_ARGS)

mutants: $(STAMP) ## fifty changes of one place each, and which of them no test notices (20 minutes or more)
	@$(BIN)/python -m tools.mutants $(MUTANTS)

extras: $(STAMP) ## also the packages of optional extras: the site
	@$(BIN)/uv pip install --quiet --require-hashes -r requirements/extras.lock

# every-eval-ever asks for Python 3.12; its validator runs with 3.11.
validators: $(STAMP) ## also the validators of RO-Crate and Every Eval Ever, for tests (.venv-validators, 70 MB)
	@test -x .venv-validators/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-validators
	@$(BIN)/python -m pip --python .venv-validators/bin/python install --quiet --disable-pip-version-check --no-deps \
	  --ignore-requires-python --require-hashes -r requirements/validators.lock

peers: $(STAMP) ## also the other tools that `python -m benchmarks peers` compares with
	@$(BIN)/uv pip install --quiet --require-hashes -r requirements/peers.lock
	@rm -rf $(VENV)/lib/python3*/site-packages/tests # torch-fidelity's own tests, which would hide those of this folder

docs: extras ## build the site from docs/ into site/ (strictly: a broken link is an error)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo site/index.html

publish: docs ## push the site to the branch gh-pages (the workflow file docs.yml does it)
	@$(BIN)/ghp-import --no-jekyll --push --force site

audit: $(STAMP) ## known vulnerabilities of the locked packages (needs the network), and old sentences about other projects
	@.ci/audit

lint: $(STAMP) ## style, types, workflow checks, and the words of the pages
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/snakemake --lint
	@$(BIN)/python -m tools.prose

format: $(STAMP) ## put sources into the project's format
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet . ; $(BIN)/snakefmt Snakefile workflow

bench: $(STAMP) ## speed of the training step beside the official order of work
	@$(BIN)/python -m benchmarks

# Packages younger than seven days are left out: a taken-over release is usually found within that time.
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --exclude-newer "7 days"
lock: $(STAMP) ## resolve requirements/*.in again into their .lock (needs the network; UPGRADE=--upgrade takes newer versions)
	@$(COMPILE) --universal $(UPGRADE) requirements/main.in -o requirements/main.lock
	@$(BIN)/python -m tools.write_environment
	@$(COMPILE) --universal $(UPGRADE) requirements/extras.in -o requirements/extras.lock
	@$(COMPILE) --universal $(UPGRADE) requirements/peers.in -o requirements/peers.lock
	@$(COMPILE) --universal $(UPGRADE) requirements/uv.in -o requirements/uv.lock
	@$(COMPILE) --universal $(UPGRADE) requirements/audit.in -o requirements/audit.lock
	@$(subst 3.11,3.12,$(COMPILE)) --universal $(UPGRADE) --override requirements/validators-overrides.txt \
	  requirements/validators.in -o requirements/validators.lock
	@$(COMPILE) --python-platform x86_64-manylinux_2_28 $(UPGRADE) requirements/oldest.in -o requirements/oldest.lock
	@$(BIN)/python -m tools.write_sbom requirements/main.lock

clean: ## remove results and caches (keeps .venv, the published numbers and the board)
	@find results -mindepth 1 ! -path "results/published*" ! -path "results/board*" -delete
	@rm -rf .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis
