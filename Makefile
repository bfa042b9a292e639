# `make run` and `make test` are all that is needed; both set up what they use. They need python3 (3.11 or later) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: examples help setup run test test-tools soak lint types check docs clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  make \1	\2/p' Makefile | expand -t 22

setup: $(STAMP) ## Make .venv and install everything into it.

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "planwire needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there);" \
			"name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) ..."; $(PYTHON) -m venv $(VENV) || { \
		echo "no virtual environment could be made (Debian, Ubuntu: apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 1; }; }
	@echo "installing into $(VENV) (a minute the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[dev]'
	@touch $@

VENDOR := gateway/demo/vendor/react.js

examples: $(VENDOR) ## Bundle the frameworks of the demo's example pages (React, Vue, Svelte, OpenFeature), with npm.

# Other people's code is not committed. Without npm the demo does without these four pages.
$(VENDOR): clients/js-snippet/package.json
	@if command -v npm >/dev/null 2>&1; then \
		echo "bundling the frameworks of the demo's example pages ..."; \
		(cd clients/js-snippet && npm install --no-package-lock --no-audit --no-fund --loglevel=error >/dev/null && \
			node scripts/build.js --vendor >/dev/null) && touch $@ || \
			echo "npm failed: the demo does without its React, Vue, Svelte and OpenFeature pages" >&2; \
	else echo "no npm: the demo does without its React, Vue, Svelte and OpenFeature pages"; fi

run: setup examples ## Run store, gateway, worker and simulator; PORT (8000) and PLANWIRE_DATA_DIR (.planwire) are honoured.
	@exec $(BIN)/python -m gateway.dev --with-parent

# Most of them wait for servers, clocks and browsers more than they compute: one process more than there are cores.
WORKERS ?= 3

test: setup test-tools examples ## Run all tests: unit, integration with real servers, and in real browsers. ARGS="-k name" narrows.
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-tools: ## Install what the tests use beside Python: Chromium and redis-server (with apt, as root).
	@sh tests/tools.sh

soak: setup ## Break a running system again and again and judge what tabs saw: MINUTES=30, SEED=1.
	@$(BIN)/python -m tests.faults soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m tests.faults leaks --minutes $(or $(MINUTES),30)

lint: setup ## Check style and form.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## Check types.
	@$(BIN)/mypy

check: lint types test ## Everything that must pass before a change goes in.

docs: setup ## Write anew what is generated under docs/: the settings, OpenAPI, AsyncAPI.
	@$(BIN)/planwire settings --markdown > docs/.new && mv docs/.new docs/configuration.md
	@$(BIN)/python -m gateway.openapi > docs/.new && mv docs/.new docs/openapi.json
	@$(BIN)/python -m gateway.asyncapi > docs/.new && mv docs/.new docs/asyncapi.json

clean: ## Remove .venv and caches; the data directory stays.
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
