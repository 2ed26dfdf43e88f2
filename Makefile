# Every target is a command that a person runs and that CI runs too.
.DEFAULT_GOAL := help
.PHONY: help install format check test whole slow coverage soak oracle bench screenshots gpu gpu-check wheel ci

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## Install kvsim and everything to develop it into the current environment
	pip install -e '.[dev]'

format:  ## Rewrite the code in the house format
	ruff format .
	ruff check --fix .

check:  ## Lint, format and types: must be silent before a pull request
	ruff check .
	ruff format --check .
	mypy

test:  ## The tests of a few minutes, doctests included; what is skipped is said with its reason
	pytest

whole:  ## All tests on two cores (torch, a Chromium and KVSIM_DATA bring in what needs them)
	pytest --slow -n 2 --dist loadfile

slow:  ## The tests that `make test` leaves out for their time, on two cores
	pytest --slow -m slow -n 2 --dist loadfile

coverage:  ## `make test`, and what of kvsim it leaves out: less than 95 % of its branches is an error
	coverage erase
	coverage run -m pytest -n 2 --dist loadfile
	coverage combine -q
	coverage report

soak:  ## Ten minutes of random worlds, judged from outside; a line that replays the first that fails
	python -m tests.soak --seconds 600

# In pieces: make oracle RELEASE=0.19.1 SEEDS=1000 FAMILY="prefix turns"
RELEASE ?=
SEEDS ?= 200
FAMILY ?= all

oracle:  ## vLLM's own scheduler on a CPU beside ours, seed by seed (fetches its Python sources once)
	python scripts/engine_oracle.py $(addprefix --release=,$(RELEASE)) --seeds $(SEEDS) --family $(FAMILY)

bench:  ## Start-up times, the cost of sweeps, and accuracy of capacity and times against observed engines
	python benchmarks/startup.py
	python benchmarks/search_speed.py
	python benchmarks/capacity_accuracy.py
	python benchmarks/steptime_accuracy.py
	python benchmarks/time_scores.py --check

# In pieces: make gpu STAGE=calibrate, then study, validate, publish; DRY=--dry-run says what they take.
# A trial without a GPU: make gpu DEVICE=cpu QUICK=--quick MODELS=twin-tiny STUDIES=gpt2 LOADS=0.6
DEVICE ?= cuda
QUICK ?=
DRY ?=
STAGE ?=
MODELS ?= llama3-8b llama2-7b
STUDIES ?= gpt2 llama2-7b
LOADS ?= 0.3 0.7 1.1
MEASURED ?= out/measured

gpu:  ## Calibrate, study and validate on a GPU; write its profile and the tables of docs/accuracy.md
	python benchmarks/measure_device.py --device $(DEVICE) $(QUICK) $(DRY) --out $(MEASURED) \
	  --models $(MODELS) --studies $(STUDIES) --loads $(LOADS) $(addprefix --stage ,$(STAGE))

# In pieces: make gpu-check ONLY="facts capture kernels". A trial without a GPU: DEVICE=cpu.
ONLY ?=
CHECKED ?= out/gpu-check

gpu-check:  ## Before anything is measured on a GPU: a verdict a line, in at most nine minutes
	python benchmarks/gpu_check.py --device $(DEVICE) --out $(CHECKED) $(addprefix --only ,$(ONLY))

screenshots:  ## Photograph every page of the dashboard into docs/images (needs a Chromium)
	python scripts/screenshots.py

wheel:  ## Build the wheel into dist/
	python -m build --wheel

ci:  ## What CI runs, each stage in fresh environments
	.ci/run
