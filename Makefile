# Two commands: `make demo` and `make test`. Both set up .venv on first use; PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint setup bench-certify bench-train

demo: setup
	$(BIN)/macer demo --out runs/demo

test: lint
	$(BIN)/pytest

# REFERENCE=DIR: a checkout of the original repository, to compare with.
bench-certify: setup
	$(BIN)/python benchmarks/certify.py $(if $(REFERENCE),--reference $(REFERENCE))

bench-train: setup
	$(BIN)/python benchmarks/train.py $(if $(REFERENCE),--reference $(REFERENCE))

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
