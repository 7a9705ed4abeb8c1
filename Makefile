# make demo: set everything up, run the whole method on generated scenes, write runs/demo/report.html.
# make test: set everything up and run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
SEED ?= 0

.PHONY: demo test lint setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/errseg train --config=configs/scenes_demo.py --workdir=$(DEMO) --config.seed=$(SEED)
	$(BIN)/errseg evaluate --workdir=$(DEMO)
	$(BIN)/errseg report --workdir=$(DEMO)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov=errseg_jax --cov-report=term:skip-covered --cov-fail-under=85

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache .coverage
