# make demo: set everything up, run the whole method on generated scenes, write runs/demo/report.html.
# make test: set everything up and run the tests.
# make coverage: the same, with the lines that no test runs; it takes a quarter longer.
# make slow: the tests that `make test` leaves out, whole commands on more networks; every night, and before a release.
# make proofs: what takes too long for every change: several processes, many kills, full disks; figures in the docs.
# make docs: build the pages of docs/ as a site, in site/; a link that leads nowhere ends it.
#   Pages open from the disk; to search them serve them: python3 -m http.server -d site
# make dist: sdist and wheel into dist/, checked.
# make parity: compare with the real PyTorch networks and with OpenCV, in an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
DEMO ?= runs/demo
SEED ?= 0

.PHONY: demo test coverage slow proofs docs parity lint dist setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $@

demo: setup
	$(BIN)/errseg train --config=configs/scenes_demo.py --workdir=$(DEMO) --config.seed=$(SEED)
	$(BIN)/errseg evaluate --workdir=$(DEMO)
	$(BIN)/errseg report --workdir=$(DEMO)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

coverage: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov=errseg_jax --cov-report=term:skip-covered --cov-fail-under=85

slow: setup
	$(BIN)/python -m pytest -n 2 -m slow

proofs: setup
	$(BIN)/python -m pytest -s -m proof

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# torchvision and its like would ask for a torch of their own: they come without what they depend on. opencv-contrib
# is opencv with more in it: it is laid over the other.
$(PARITY)/.ready: pyproject.toml constraints.txt constraints-parity.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-parity.txt \
	  -e ".[dev,keras,onnx]" onnx torch torchax transformers huggingface-hub safetensors pyyaml tqdm
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-parity.txt --no-deps \
	  torchvision timm segmentation-models-pytorch opencv-contrib-python-headless
	touch $@

parity: $(PARITY)/.ready
	$(PARITY)/bin/python -m pytest -n 2 --dist loadfile tests/parity tests/convert/test_formats.py tests/adapters/test_foreign.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dist: setup
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) $(PARITY) runs site build dist .pytest_cache .ruff_cache .mypy_cache .coverage
