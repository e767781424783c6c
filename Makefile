# Two commands do everything on a fresh machine with Python >= 3.10:
#   make demo   sets up .venv and runs the main job on a picture
#   make test   sets up .venv, lints, type-checks and tests
# make test-integration runs the full-size models, and other tools and other versions, which it installs apart.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-integration lint types tests coverage clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,3p' Makefile

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "samedge needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	# torch first and alone: pinned, so that nothing later asks for another build of it.
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# A peer that tests run in a process of its own (AGPL-3.0): without what it would bring and does not need.
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps ultralytics
	@touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP)
	$(BIN)/mypy

# Modules stay whole, so that their fixtures are made once; tests/conftest.py lets the long ones begin.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20
APART := integration or full_size

tests: $(STAMP)
	$(PYTEST) -m "not ($(APART))"

test-integration: $(STAMP)
	$(PYTEST) -m "$(APART)"

# Not part of `make test`: tracing every line costs a fifth of its time. The floor is in pyproject.toml.
coverage: $(STAMP)
	$(PYTEST) -m "not ($(APART))" --cov=samedge --cov-report=term:skip-covered

test: lint types tests

demo: $(STAMP)
	$(BIN)/samedge demo

clean:
	rm -rf $(VENV) demo dist build
