# `make help` lists what there is. Python 3.11 or newer and make are all that is needed.

SHELL := /bin/sh
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := uv
ARGS :=

.DEFAULT_GOAL := help
.PHONY: help run test lint format docs screenshots bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

run: .venv/.run ## start everything and show it at work (ARGS="--port 9000")
	@$(BIN)/penstock demo $(ARGS)

test: lint ## style, types, layers and every test (ARGS="-k delivery")
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

lint: .venv/.dev ## style, types and layers alone
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports > .venv/layers.log || { cat .venv/layers.log; exit 1; }

format: .venv/.dev ## rewrite the code in the common style
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

docs: .venv/.dev ## write the generated parts of docs/reference anew
	@$(BIN)/python docs/generate.py

screenshots: .venv/.dev ## take the pictures of docs/images anew (needs Chromium)
	@$(BIN)/python docs/screenshots.py

bench: .venv/.dev ## measure the figures of docs/performance.md
	@$(BIN)/python -m bench $(ARGS)

# The run lock is a subset of the dev lock, so that one .venv serves both.
COMPILE = env -u UV_INDEX -u UV_INDEX_URL -u UV_DEFAULT_INDEX -u UV_EXTRA_INDEX_URL \
	-u UV_FIND_LINKS $(UV) --no-config pip compile pyproject.toml --quiet --upgrade --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" --extra postgres
lock: ## resolve the dependencies anew (needs uv)
	@command -v $(UV) > /dev/null || { echo "make lock needs uv: pip install uv"; exit 1; }
	@$(COMPILE) --group dev --output-file requirements/dev.lock
	@$(COMPILE) --group build --constraint requirements/dev.lock \
		--no-annotate --output-file requirements/run.lock

clean: ## remove the virtual environment and what tools left behind
	@rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis dist build
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true

# Stamps: nothing is installed twice unless a lock file or pyproject.toml changed.
.venv/.run: requirements/run.lock pyproject.toml | $(BIN)/python
	@echo "Installing what Penstock needs into .venv (about a minute, once) ..." >&2
	@$(PIP) install --require-hashes -r requirements/run.lock
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/.dev: requirements/dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need into .venv (about a minute, once) ..." >&2
	@$(PIP) install --require-hashes -r requirements/dev.lock
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@ .venv/.run

$(BIN)/python:
	@python=$$(for name in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
		"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
			&& echo "$$name" && break; done); \
	if [ -z "$$python" ]; then \
		echo "Penstock needs Python 3.11 or newer; found: $$(python3 --version 2> /dev/null || echo none)." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; fi; \
	"$$python" -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$$python lacks the venv module. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }; \
	"$$python" -m venv --clear .venv
