# What is installed decides: after `make install DEVICE=cuda` every target works with that.
DEVICE ?= $(or $(patsubst .venv/installed-%,%,$(firstword $(wildcard .venv/installed-*))),cpu)
INSTALLED := .venv/installed-$(DEVICE)
QUICKSTART := .venv/with-quickstart
DEV := .venv/with-dev
BIN := .venv/bin

# Container images often forbid bytecode files, and every process would compile vLLM and transformers anew: 20 seconds.
unexport PYTHONDONTWRITEBYTECODE

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install dev download quickstart evaluate-demo adapt-demo nightly-demo chaos kills fuzz audit bench check
.PHONY: test test-fast test-slow test-gpu gpu-check cases lint format types imports sizes settings lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Install into .venv what a run needs; DEVICE=cuda for NVIDIA GPUs, PYTHON=... for another Python

$(INSTALLED): requirements-$(DEVICE).lock .ci/install.sh
	@.ci/install.sh $(DEVICE)

$(QUICKSTART): $(INSTALLED) requirements-quickstart.lock
	@.ci/install.sh quickstart

dev: $(DEV) ## Install also what tests, evaluation and benchmarks need

$(DEV): $(QUICKSTART) requirements-dev.lock
	@.ci/install.sh dev

download: ## Fill wheels/ with all that the lock files name, for a machine of the same kind without a network
	@.ci/install.sh download $(DEVICE)

quickstart: $(QUICKSTART) ## Index the documentation of this Python and ask it three questions
	@$(BIN)/python -m jobs.demo quickstart

evaluate-demo: $(DEV) quickstart ## Evaluate the quickstart's index: every width, precision and index on queries made of it
	@$(BIN)/python -m jobs.evaluate --config configs/evaluate-quickstart.toml

adapt-demo: $(DEV) quickstart ## Adapt the quickstart's model to its corpus: train, merge, judge; status 3 if it is not better
	@$(BIN)/python -m jobs.adapt --config configs/adapt-quickstart.toml

nightly-demo: $(QUICKSTART) ## Play some nights: change, kill, resume, roll back
	@$(BIN)/python -m jobs.demo nights

chaos: $(DEV) ## Do 20,000 random operations to indices and check what they hold; OPS=... and SEED=...
	$(BIN)/python -m tests.faults.tester --ops $(or $(OPS),20000) --seed $(or $(SEED),0)

kills: $(DEV) ## Kill drivers 2,000 times on real tables and check what is left; KILLS=... for another number
	$(BIN)/python -m tests.faults.chaos --kills $(or $(KILLS),2000)

fuzz: $(DEV) ## Push 2 x 200,000 generated rows and 5,000 mutated files through; N=... for another number of rows
	$(BIN)/python -m tests.faults.fuzz --rows $(or $(N),200000) --typed $(or $(N),200000) --files $(or $(FILES),5000)

# Versions with the suffix of a local build are not known to any database, and this looks at versions, not at files.
audit: $(DEV) ## Compare the lock files with the known vulnerabilities; needs PyPI itself
	for lock in cpu cuda quickstart dev; do sed -nE 's/^([^ #]+==[^ +]+).*/\1/p' requirements-$$lock.lock > .venv/audited; \
		$(BIN)/uv tool run pip-audit -r .venv/audited --no-deps --disable-pip --strict; done

bench: $(DEV) ## Compare with other ways to the same vectors and scores, about 15 minutes
	$(BIN)/python -m benchmarks.throughput --documents 4000 --rounds 2
	$(BIN)/python -m benchmarks.throughput --mode score --rounds 1

test: $(DEV) ## Run the tests, without those marked slow or gpu
	$(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 60

test-fast: $(DEV) ## Run the tests that need neither Ray nor vLLM, each in seconds
	$(BIN)/python -m pytest -m "not slow and not gpu and not heavy" --numprocesses 2 --dist loadfile --timeout 60

check: lint types imports sizes test-fast ## Check what a commit needs: format, style, types, imports, sizes, fast tests

test-slow: $(DEV) ## Run the tests marked slow
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(DEV) ## Run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

gpu-check: $(DEV) ## Check and measure one NVIDIA GPU within 10 minutes; DRY_RUN=1 tries the command without one
	$(BIN)/python -m benchmarks.gpu_check $(if $(DRY_RUN),--dry-run)

lint: $(DEV) ## Check formatting and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(DEV) ## Format, and fix what can be fixed safely
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## Check types
	$(BIN)/mypy

imports: $(DEV) ## Check that imports point one way
	$(BIN)/lint-imports

sizes: $(INSTALLED) ## Print lines per file, function and class; fail above 400, 50 and 200
	$(BIN)/python .ci/sizes.py

settings: $(INSTALLED) ## Write configs/README.md anew: every setting with type, default and meaning
	$(BIN)/python -m indexer.commands.settings > .venv/settings
	mv .venv/settings configs/README.md

cases: $(DEV) ## Run every run.sh of a folder of cases, CASES=...; fails if one does
	@.ci/cases.sh "$(CASES)"

lock: $(DEV) ## Write the lock files anew from pyproject.toml; UPGRADE=1 takes the newest versions it allows
	.ci/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## Remove .venv, caches and what the quickstart wrote
	rm -rf .venv data/quickstart build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find indexer jobs tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
