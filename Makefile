.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help setup test check bench

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.done  ## make .venv with everything the other targets need

.venv/.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[hf,dev]'
	touch $@

test: setup  ## run the tests
	$(BIN)/python -m pytest -n 2 -m "not slow" tests

check: setup  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## print ratios measured side by side
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/step.py
