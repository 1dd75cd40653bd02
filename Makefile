# Every target does its own set-up; the environment lives in .venv and is pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := out/demo
SUMS := out/sums

.PHONY: help setup demo sums test check format bench bench-train bench-gpu wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## examples to shards, checked, previewed, and trained on with 2 ranks
	rm -rf $(DEMO)
	$(BIN)/packline build examples/demo.yaml --set output=$(DEMO)/shards
	$(BIN)/packline verify $(DEMO)/shards --deep
	$(BIN)/packline preview examples/demo.yaml -n 1
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 -m train examples/demo-train.yaml \
		--set datasets.0.path=$(DEMO)/shards --set output=$(DEMO)/run
	$(BIN)/python examples/check_demo.py $(DEMO)

sums: setup  ## teach a small model sums, and ask the exported one those that it never saw
	rm -rf $(SUMS)
	$(BIN)/python examples/sums/make_sums.py $(SUMS)/rows
	$(BIN)/packline build examples/sums/build.yaml
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 -m train examples/sums/train.yaml
	$(BIN)/python examples/sums/evaluate.py $(SUMS)/run/model $(SUMS)/rows/held_out.jsonl

test: setup  ## all tests
	$(BIN)/pytest --numprocesses auto --dist loadfile -m "not slow"
	$(BIN)/pytest --numprocesses auto --dist loadfile -m slow

check: setup  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## format the code, and write the JSON Schemas anew
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .
	$(BIN)/python tests/json_schemas.py

bench: setup  ## measure, as ratios in one run
	$(BIN)/python tests/benchmarks/prepare.py --peers

bench-train: setup  ## measure the trainer: loader, start, memory, step, checkpoints
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/loader.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/step.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/checkpoints.py

bench-gpu: setup  ## measure the step on one GPU, against transformers; goes on where it stopped
	PYTHONPATH=.:tests/benchmarks $(BIN)/python -m gpu --out out/bench-gpu

wheel: setup  ## packline as a wheel in dist/, for workers (docs/clusters.md)
	rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build

clean:  ## remove what was built
	rm -rf out build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
