# Everything a person or CI runs. `make help` lists it.
#
# PYTHON=python3.12       which interpreter .venv is made with (3.11 or newer)
# TORCH_INDEX=<address>   where pip takes torch from, such as an index of CPU builds

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo up test chaos check bench-jobs bench-sweep bench-dataset bench-peers clean

VENV := .venv
BIN := $(VENV)/bin
# The stamp is inside the environment, so that removing that removes it too.
STAMP := $(VENV)/.installed
PEERS := build/peers
TORCH_INDEX ?=
TORCH := torch==2.13.0
CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3 python

help: ## Show this list
	@echo "Targets (each installs what it needs into $(VENV) first):"
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12 | sed 's/^/  /'
	@echo "Variables:"
	@sed -nE 's/^# ([A-Z_]+=[^ ]+) +(.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 26 | sed 's/^/  /'

setup: $(STAMP) ## Make .venv with the pinned versions of constraints.txt

demo: $(STAMP) ## Train a digits model, serve it, run every held-out image as a job, check the results
	@$(BIN)/python -m examples.digits.demo

up: $(STAMP) ## Start Redis, a worker and Flower, and keep them until Ctrl-C
	@$(BIN)/headrace up

test: $(STAMP) ## Run the whole test suite on private servers
	@$(BIN)/python -m pytest $(ARGS)

chaos: $(STAMP) ## Kill and break everything under load; nothing may be lost: build/chaos.json
	@$(BIN)/python -m tests.chaos $(ARGS)

check: $(STAMP) ## Lint, formatting, types, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-jobs: $(STAMP) ## Measure the job path against plain Celery (half an hour); build/bench/jobs.json
	@$(BIN)/python -m benchmarks.jobs $(ARGS)

bench-sweep: $(STAMP) ## Time what sweeps, doctor and lists ask of a million jobs; build/bench/sweep.json
	@$(BIN)/python -m benchmarks.sweep $(ARGS)

bench-dataset: $(STAMP) ## Measure datasets against the bare model (40 min); build/bench/dataset.json
	@$(BIN)/python -m benchmarks.dataset $(ARGS)

bench-peers: $(PEERS)/.installed ## Install Ray Data, for bench-dataset, in an environment of its own

$(PEERS)/.installed: $(STAMP) benchmarks/peers/constraints.txt
	$(BIN)/python -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --quiet -c benchmarks/peers/constraints.txt $(TORCH) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)')
	$(PEERS)/bin/pip install --quiet -c benchmarks/peers/constraints.txt 'ray[data]'
	@touch $@

clean: ## Remove .venv and caches (jobs and results under .headrace stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` keeps no record of the interpreter: one that runs and is new enough is looked for here
# (a name on PATH may be a shim of a version that is not installed).
$(STAMP): constraints.txt pyproject.toml
	@set -eu; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	  found=; \
	  for name in $(if $(PYTHON),'$(PYTHON)',$(CANDIDATES)); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then found=$$name; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Headrace needs Python 3.11 or newer; looked for: $(or $(PYTHON),$(CANDIDATES))." >&2; \
	    echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	  fi; \
	  rm -rf $(VENV); \
	  "$$found" -m venv $(VENV) || { \
	    rm -rf $(VENV); \
	    echo "$$found cannot make a virtual environment; on Debian and Ubuntu its venv package" \
	      "is missing (python3-venv, or python3.12-venv and so on)." >&2; exit 1; }; \
	fi
	@echo "$(VENV): $$($(BIN)/python --version); installing $(TORCH) from" \
	  "$(or $(TORCH_INDEX),pip's index (PyPI's build brings gigabytes of CUDA; see TORCH_INDEX))"
	@$(BIN)/python -m pip install $(TORCH) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)')
	@echo "$(VENV): installing Headrace with what it needs and its tests, as constraints.txt pins them"
	@$(BIN)/python -m pip install --quiet -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "$(VENV) is ready"
