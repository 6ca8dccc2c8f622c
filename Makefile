# `make run` and `make test` do all their own set-up, with uv where it is installed, else with pip.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON_NAMES := python3.13 python3.12 python3.11 python3 python3.14
HAS_UV := $(shell command -v uv)
CALM := tests/monitoring/test_calm.py

.PHONY: help run test test-mariadb test-browser test-monitoring test-docker migration-check demo check \
	format requirements clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/runtime.stamp ## Serve the demo catalog from an SQLite file
	@$(BIN)/tidegate migrate up
	@$(BIN)/tidegate catalog demo
	@exec $(BIN)/tidegate serve

test: $(VENV)/dev.stamp ## Run the suite on PostgreSQL and SQLite, without Docker
	@$(BIN)/pytest -n auto -m 'not docker and not mariadb and not browser and not monitoring' $(ARGS)

test-mariadb: $(VENV)/dev.stamp ## Run what touches the database on an installed MariaDB server
	@$(BIN)/pytest -n auto -m mariadb $(ARGS)

test-browser: $(VENV)/dev.stamp ## Look at the ops page in an installed Chromium
	@$(BIN)/pytest -m browser $(ARGS)

test-monitoring: $(VENV)/dev.stamp ## Run the alerts in an installed Prometheus
	@# The calm alone; arguments may choose nothing of one of the two, which is pytest's status 5.
	@$(BIN)/pytest -m monitoring $(CALM) $(ARGS) $(if $(ARGS),|| [[ $$? == 5 ]])
	@# The others mostly wait.
	@$(BIN)/pytest -n 3 -m monitoring tests/monitoring --ignore=$(CALM) $(ARGS) $(if $(ARGS),|| [[ $$? == 5 ]])

test-docker: $(VENV)/dev.stamp ## Build the image and run the whole stack with Docker Compose
	@$(BIN)/pytest -m docker $(ARGS)

migration-check: $(VENV)/dev.stamp ## Prove the revisions on PostgreSQL, as the CI job does (SINCE=origin/main)
	@$(BIN)/python -W ignore -m tests.support.with_postgres deploy/ci/migration-check

demo: $(VENV)/dev.stamp ## Break the whole stack on cue, and see the alerts, runbooks and recovery
	@$(BIN)/python -m deploy.demo $(ARGS)

check: $(VENV)/dev.stamp ## Lint, types, imports, dead code, page, Dockerfile, YAML, Compose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/hadolint Dockerfile
	$(BIN)/yamllint --strict .
	@if [[ -x $(BIN)/biome ]]; then \
		$(BIN)/biome ci --colors=off --error-on-warnings; \
	elif [[ $${CI:-} == true ]]; then \
		echo 'Biome: there is no wheel for this machine' >&2; exit 1; \
	else \
		echo 'Biome: SKIPPED, there is no wheel for this machine'; \
	fi
	@if docker compose version >/dev/null 2>&1; then \
		docker compose config --quiet && echo 'Compose: valid'; \
	elif [[ $${CI:-} == true ]]; then \
		echo 'Compose: docker compose is missing' >&2; exit 1; \
	else \
		echo 'Compose: SKIPPED, docker compose is not installed'; \
	fi

format: $(VENV)/dev.stamp ## Format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@if [[ -x $(BIN)/biome ]]; then $(BIN)/biome check --colors=off --write; fi

requirements: ## Pin the newest dependencies that pyproject.toml admits (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --upgrade \
		--python-version 3.11 pyproject.toml --output-file requirements.txt
	uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --upgrade \
		--python-version 3.11 --constraint requirements.txt --group dev pyproject.toml \
		--output-file requirements-dev.txt
	uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --upgrade \
		--python-version 3.11 deploy/build-requirements.in --output-file deploy/build-requirements.txt

clean: ## Remove the environment, caches and the SQLite file
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f plan.sql tidegate.db tidegate.db-wal tidegate.db-shm tidegate.db.lock

$(BIN)/python:
ifneq ($(HAS_UV),)
	@uv venv --quiet --python '>=3.11' $(VENV)
else
	@for name in $(PYTHON_NAMES); do \
		if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			"$$name" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; exit 0; \
		fi; \
	done; \
	echo 'Tidegate needs Python 3.11 or newer, or uv, and found neither' >&2; exit 1
endif

# $(1): a requirements file. What is there stays, so that the second stamp keeps the first true.
ifneq ($(HAS_UV),)
install = uv pip install --quiet --python $(BIN)/python --require-hashes --requirement $(1) && \
	uv pip install --quiet --python $(BIN)/python --no-deps --editable .
else
install = $(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes \
	--requirement $(1) && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
endif

$(VENV)/runtime.stamp: requirements.txt pyproject.toml | $(BIN)/python
	@echo 'Installing what the service needs into $(VENV)'
	@$(call install,requirements.txt)
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt pyproject.toml | $(BIN)/python
	@echo 'Installing what the service and its tests need into $(VENV)'
	@$(call install,requirements-dev.txt)
	@touch $@ $(VENV)/runtime.stamp
