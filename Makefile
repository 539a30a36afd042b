# Everyday commands; `make help` lists them.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
UNDERWAY := $(BIN)/underway

.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test lint types contracts check bench clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

setup: ## install what the platform needs: Debian packages and a virtual environment
	@tools/setup.sh

setup-test: ## the same, and what the tests need
	@tools/setup.sh test

demo: setup ## start the platform and ship examples/guestbook
	@tools/demo.sh

test: setup-test ## run every test
	@$(BIN)/pytest

lint: setup-test ## check style
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: setup-test ## check types
	@$(BIN)/mypy

contracts: setup-test ## check which room imports which
	@$(BIN)/lint-imports

check: lint types contracts test ## everything that a change must pass

bench: setup-test ## measure beside the peers; writes docs/benchmarks.md
	@$(BIN)/python benchmarks/run.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
