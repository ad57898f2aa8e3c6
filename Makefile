# `make` alone lists the targets. PYTHON makes the virtual environment VENV, ARGS go to the command of a target.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DATA ?= examples/demo_scene

BIN := $(VENV)/bin
STAMP := $(VENV)/.gradiseg-ready

# libgomp's threads spin while they wait: on a few shared cores that costs more than it gains
export GOMP_SPINCOUNT := 0
export MPLBACKEND := Agg
export PYTHONUNBUFFERED := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# An end for a test run that hangs; macOS has no `timeout`
LIMIT := $(if $(shell command -v timeout),timeout --foreground 3600)

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lint format gpu-check bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PYTHON=$(PYTHON) VENV=$(VENV) ARGS='options of the command' DATA=$(DATA)"

setup: $(STAMP)  ## virtual environment with everything in it (runs by itself before the others)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else \
	    "$(PYTHON) is Python %d.%d; expected 3.10, 3.11 or 3.12. Name another: make PYTHON=python3.11" % v)'
	@scripts/system_packages.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): some 9 GB, several minutes"
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	@touch $(STAMP)

demo: $(STAMP)  ## train on the scene in examples/, evaluate, leave outputs/demo/overview.png
	$(BIN)/python -m gradiseg_ns.demo $(ARGS)

test: $(STAMP)  ## all tests (those that need CUDA skip themselves without)
	$(LIMIT) $(BIN)/python -m pytest -q $(ARGS)

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu-check: $(STAMP)  ## on a machine with a card: tests, demo, times, in 8 minutes, into outputs/gpu-check/
	$(BIN)/python scripts/gpu_check.py $(ARGS)

bench: $(STAMP)  ## three of the benchmarks in a small setting, on DATA
	$(BIN)/python benchmarks/rasterizer.py
	$(BIN)/python benchmarks/training.py --data $(DATA) --blocks 3 --iterations 10
	$(BIN)/python benchmarks/ablation.py --data $(DATA) --ignore-ids 0 --steps 600 --seeds 0

clean:  ## remove caches and build products; outputs/ and the virtual environment stay
	rm -rf build dist .pytest_cache .ruff_cache .coverage htmlcov *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
