# `make help` lists what there is. Python 3.11 or newer and make are all that is needed.

SHELL := /bin/sh
BIN := .venv/bin
UV := $(BIN)/uv
ARGS :=

# Each of the tests' processes would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-infra lint format docs screenshots bench package image lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

run: .venv/.run ## start everything and show it at work (ARGS="--port 9000")
	@$(BIN)/penstock demo $(ARGS)

# Tests wait more than they compute, for processes, for disks: hence more of them than processors,
# and their files in memory where there is room for them (4 GB; they take a quarter).
ROOMY = $(shell df -Pk /dev/shm 2> /dev/null | awk 'NR == 2 && $$4 > 4000000 { print "TMPDIR=/dev/shm" }')
PYTEST = $(ROOMY) $(BIN)/python -m pytest -q
# The first time, tests are compiled once for all processes, while mypy reads everything.
test: .venv/.dev ## style, types, layers and every test (ARGS="-k delivery")
	@[ -d tests/unit/__pycache__ ] || { $(PYTEST) --collect-only > /dev/null 2>&1 & }; \
		$(MAKE) --no-print-directory lint; failed=$$?; wait; exit $$failed
	@$(PYTEST) -n 3 --dist worksteal $(ARGS)

test-infra: .venv/.dev .venv/.infra ## Terraform on an emulator, scanned; the packages started (minutes)
	@! $(LAMBDA_PYTHON) -c '' 2> /dev/null || $(MAKE) --no-print-directory package .venv/.lambda
	@PENSTOCK_TEST_TOOLS=.venv/infra/bin $(BIN)/python -m pytest -q tests/infra $(ARGS)

lint: .venv/.dev ## style, types and layers alone
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/mypy --no-error-summary --num-workers 2
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

# Bytecode is that of one Python version, and Lambda's is 3.13.
LAMBDA_PYTHON := python3.13
ARCH := x86_64
package: ## build the Lambda packages into dist/lambda (ARCH=arm64)
	@$(LAMBDA_PYTHON) -c '' 2> /dev/null || { \
		echo "make package needs Python 3.13, the version that Lambda runs:" >&2; \
		echo "install it, or name it: make package LAMBDA_PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(LAMBDA_PYTHON) infra/lambda/package.py --architecture $(ARCH) $(ARGS)

# Any engine with docker's `build`: docker, podman, buildah.
ENGINE := docker
IMAGE := penstock
image: ## build the image of workers (BASE=a Python image by digest, ENGINE=podman)
	@case "$(BASE)" in *@sha256:*) ;; *) \
		echo "make image needs a Python image by digest: make image BASE=…python:3.13-slim@sha256:…" >&2; \
		exit 1;; esac
	@$(ENGINE) build --build-arg BASE=$(BASE) --tag $(IMAGE) $(ARGS) .

# The run lock is a subset of the dev lock, so that one .venv serves both.
# The packages of Lambda functions hold the same versions, as far as they hold the same.
RESOLVE = env -u UV_INDEX -u UV_INDEX_URL -u UV_DEFAULT_INDEX -u UV_EXTRA_INDEX_URL \
	-u UV_FIND_LINKS $(UV) --no-config pip compile --quiet --upgrade --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
COMPILE = $(RESOLVE) pyproject.toml --universal --python-version 3.11 \
	--extra postgres --extra predictions
COMPILE_LAMBDA = $(RESOLVE) --no-annotate --python-version 3.13 --python-platform linux \
	--constraint requirements/dev.lock
lock: .venv/.dev ## resolve the dependencies anew
	@command -v $(UV) > /dev/null || { echo "make lock needs uv: pip install uv, make lock UV=uv"; exit 1; }
	@$(COMPILE) --group dev --output-file requirements/dev.lock
	@$(COMPILE) --group build --constraint requirements/dev.lock \
		--no-annotate --output-file requirements/run.lock
	@$(COMPILE) --extra aws --extra train --group image --constraint requirements/dev.lock \
		--no-annotate --output-file requirements/image.lock
	@$(RESOLVE) --universal --no-annotate --python-version 3.11 --group infra \
		--output-file requirements/infra.lock
	@$(RESOLVE) --universal --no-annotate --python-version 3.11 --group installer \
		--output-file requirements/installer.lock
	@for set in api worker migrate runtime; do $(COMPILE_LAMBDA) --group lambda-$$set \
		--output-file requirements/lambda-$$set.lock || exit 1; done

clean: ## remove the virtual environment and what tools left behind
	@rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis dist build
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true

# Stamps: nothing is installed twice unless a lock file or pyproject.toml changed.
.venv/.run: requirements/run.lock pyproject.toml | $(BIN)/python
	@echo "Installing what Penstock needs into .venv (at most a minute, once) ..." >&2
	@sh requirements/install.sh run
	@touch $@

.venv/.dev: requirements/dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need into .venv (at most a minute, once) ..." >&2
	@sh requirements/install.sh dev
	@touch $@ .venv/.run

.venv/.infra: requirements/infra.lock | $(BIN)/python
	@echo "Installing an emulator of AWS and a policy scanner into .venv/infra (once) ..." >&2
	@$(BIN)/python -m venv --clear .venv/infra
	@.venv/infra/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes -r requirements/infra.lock
	@touch $@

# What Lambda itself has beside a package: its Python, and the client of its Runtime API.
.venv/.lambda: requirements/lambda-runtime.lock | $(BIN)/python
	@$(LAMBDA_PYTHON) -m venv --clear .venv/lambda
	@.venv/lambda/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes -r requirements/lambda-runtime.lock
	@touch $@

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
