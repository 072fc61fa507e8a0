# Two commands take a fresh clone to a report and to a green check: `make quickstart`, then `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; 3.11 is tried first because constraints.txt was made with it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
# Named after the contents of its inputs, so set-up runs again when they change and never because a checkout is younger.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)

.PHONY: help setup quickstart test test-slow mutants lint format docs

help: ## Show these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Create .venv with the pinned dependencies (nothing to do when they have not changed)

$(STAMP):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with make PYTHON=/path/to/python"; exit 1; }
	@# Debian splits ensurepip from Python: an environment without pip is then filled by the pip outside it.
	@echo "setting up $(VENV) with the pinned dependencies (once; some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then pip="$(BIN)/python -m pip"; \
	else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
	PIP_CONSTRAINT=constraints.txt $$pip install --quiet --disable-pip-version-check --editable '.[dev,ocr,s3,mlflow,wandb]'
	@rm -f $(VENV)/.installed-*
	@touch $@

quickstart: setup ## The whole road on the embedded shapes world: clips, curation, training, videos, report
	$(BIN)/mimir quickstart $(ARGS)

test: lint ## Lint, types, import rules and every test that is not slow, beside each other
	$(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --no-loadscope-reorder $(ARGS)

test-slow: setup ## The tests that take longer: wheel, whole runs, kills
	$(BIN)/python -m pytest -m slow $(ARGS)

mutants: setup ## Which of the small faults listed in tests/mutants.toml the default suite notices
	$(BIN)/python -m tests.mutate $(ARGS)

lint: setup ## Ruff (rules and format) and mypy in strict mode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## The references from the code, and the site into site/
	$(BIN)/python -m tests.cli.command_reference
	$(BIN)/python -m tests.cli.memory_tables
	$(BIN)/mimir config fields --markdown > docs/configuration.md
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict $(ARGS)
