# Set-up is part of every target: on a fresh machine with Python 3.11 and make, each of these works alone.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
OUT ?= out
JOBS ?= 2

export MPLBACKEND := Agg

.PHONY: help demo test check bench docs constraints constraints-flower flower clean

help:
	@echo "make demo    set up and run the main job: fit across parties, score blind, write a report"
	@echo "make test    set up and run all tests"
	@echo "make check   style, types, import contract"
	@echo "make bench   every figure that README and docs quote (hours on two cores; needs BLINDSIGHT_DATA)"
	@echo "make docs    the API reference, into $(OUT)/docs"

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Blindsight needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "setting up (about a minute) ..."
	$(PIP) install -c constraints.txt -e '.[he]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "setting up (about three minutes) ..."
	$(PIP) install -c constraints.txt -e '.[he,deep,mpc,serve,net,paillier,mlflow,dev]'
	@touch $@ $(VENV)/.demo

# Flower's own requirements do not fit into one environment with ours; nothing of ours imports it (docs/flower.md)
$(VENV)/.flower: $(VENV)/bin/python constraints-flower.txt
	@echo "setting up Flower beside it (about half a minute) ..."
	$(PYTHON) -m venv $(VENV)/flower
	$(VENV)/flower/bin/python -m pip --disable-pip-version-check --quiet install -c constraints-flower.txt flwr
	@touch $@

$(VENV)/.bench: $(VENV)/.dev $(VENV)/.flower
	$(PIP) install -c constraints.txt -e '.[he,deep,mpc,serve,net,paillier,mlflow,dev,bench]'
	@touch $@

flower: $(VENV)/.flower

demo: $(VENV)/.demo
	$(BIN)/blindsight demo --output $(OUT)/demo

test: $(VENV)/.dev $(VENV)/.flower
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	@mkdir -p $(OUT)/bench
	@set -o pipefail; failed=0; for script in benchmarks/[a-z]*.py; do \
		name=$$(basename $$script .py); echo "== $$name"; \
		$(BIN)/python $$script 2>&1 | tee $(OUT)/bench/$$name.txt || failed=1; \
	done; exit $$failed

docs: $(VENV)/.dev
	$(BIN)/pdoc --docformat numpy --output-directory $(OUT)/docs blindsight
	@echo "open $(OUT)/docs/blindsight.html"

constraints: $(VENV)/.bench
	@{ head -2 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sort -f; } > constraints.new
	@mv constraints.new constraints.txt

constraints-flower:
	$(PYTHON) -m venv --clear $(VENV)/flower
	$(VENV)/flower/bin/python -m pip --disable-pip-version-check --quiet install 'flwr>=1.41,<1.42'
	@{ head -2 constraints-flower.txt; $(VENV)/flower/bin/python -m pip freeze | sort -f; } > constraints-flower.new
	@mv constraints-flower.new constraints-flower.txt

clean:
	rm -rf $(OUT) build dist .mypy_cache .ruff_cache .pytest_cache
