# Every target is a command that a person runs and that CI runs too.
.DEFAULT_GOAL := help
.PHONY: help install format check test bench screenshots gpu wheel ci

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## Install kvsim and everything to develop it into the current environment
	pip install -e '.[dev]'

format:  ## Rewrite the code in the house format
	ruff format .
	ruff check --fix .

check:  ## Lint, format and types: must be silent before a pull request
	ruff check .
	ruff format --check .
	mypy

test:  ## All tests, doctests included (KVSIM_DATA names the reference folder, if you have it)
	pytest

bench:  ## Start-up times and capacity accuracy against observed engines
	python benchmarks/startup.py
	python benchmarks/capacity_accuracy.py

# On a machine without a GPU: make gpu DEVICE=cpu QUICK=--quick MODELS=gpt2 STUDIES=gpt2
DEVICE ?= cuda
QUICK ?=
MODELS ?= llama2-7b llama3-8b
STUDIES ?= gpt2 llama2-7b
MEASURED ?= out/measured

gpu:  ## Calibrate, validate and study on a GPU: everything docs/accuracy.md says of one
	mkdir -p $(MEASURED)
	kvsim calibrate --device $(DEVICE) $(QUICK) -o $(MEASURED)/device.yaml
	set -e; for model in $(MODELS); do \
	  kvsim validate --device $(DEVICE) $(QUICK) --model $$model \
	    --profile $(MEASURED)/device.yaml --output $(MEASURED)/validate-$$model; done
	set -e; for model in $(STUDIES); do \
	  kvsim study cache --device $(DEVICE) $(QUICK) --model $$model \
	    --output $(MEASURED)/study-$$model; done

screenshots:  ## Photograph every page of the dashboard into docs/images (needs a Chromium)
	python scripts/screenshots.py

wheel:  ## Build the wheel into dist/
	python -m build --wheel

ci:  ## What CI runs, in a fresh environment
	.ci/run
