# Every target is a command that a person runs and that CI runs too.
.DEFAULT_GOAL := help
.PHONY: help install format check test bench wheel ci

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

wheel:  ## Build the wheel into dist/
	python -m build --wheel

ci:  ## What CI runs, in a fresh environment
	.ci/run
