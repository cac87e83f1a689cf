# Two commands: `make demo` and `make test`. Each first installs what it needs into .venv; PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
install = test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[$(1)]"

.PHONY: demo test lint docs bench-certify bench-train

demo: .venv/demo
	$(BIN)/macer demo --out runs/demo

test: lint
	$(BIN)/pytest

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# The API reference, built from docstrings: runs/api/macer.html.
docs: .venv/dev
	$(BIN)/python tools/api_reference.py runs/api

# REFERENCE=DIR: a checkout of the original repository, to compare with.
bench-certify: .venv/dev
	$(BIN)/python benchmarks/certify.py $(if $(REFERENCE),--reference $(REFERENCE))

bench-train: .venv/dev
	$(BIN)/python benchmarks/train.py $(if $(REFERENCE),--reference $(REFERENCE))

.venv/demo: pyproject.toml constraints.txt
	$(call install,data$(comma)report)
	touch $@

.venv/dev: pyproject.toml constraints.txt
	$(call install,dev)
	touch $@

comma := ,
