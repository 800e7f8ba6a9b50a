.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-slow check bench docs

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: .venv/.done  ## make .venv with everything the other targets need

.venv/.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e '.[demo,dev]'
	touch $@

demo: setup  ## distil a real teacher on real text and show what was won
	env -u OMP_NUM_THREADS $(BIN)/python -m textbrewer.demo

test: setup  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" tests

test-slow: setup  ## run the slow tests: processes killed, browser
	$(BIN)/python -m pytest -m slow tests

check: setup  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## print ratios measured side by side: an hour on 2 cores
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/step.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/cache.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/engine.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/options.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/losses.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/epochs.py

docs: setup  ## build the documentation into site/
	$(PIP) -e '.[docs]'
	$(BIN)/mkdocs build --strict
