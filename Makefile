# `make run` and `make test` are all that is needed; both set up what they use. They need python3 (3.11 or later) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: examples help setup run test test-fast test-tools nightly soak lint types check docs lock sbom clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  make \1	\2/p' Makefile | expand -t 22

setup: $(STAMP) ## Make .venv and install everything into it.

# Files other than the locked ones are refused, and so is what comes as source: building that runs code which no lock
# names. WHEELS= allows it, for a platform that has no wheel of something.
WHEELS ?= --only-binary :all:
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input

$(STAMP): pyproject.toml locks/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "planwire needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there);" \
			"name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) ..."; $(PYTHON) -m venv $(VENV) || { \
		echo "no virtual environment could be made (Debian, Ubuntu: apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 1; }; }
	@echo "installing into $(VENV) (a minute the first time) ..."
	@$(PIP) install --require-hashes $(WHEELS) -r locks/dev.txt || { \
		echo "locks/dev.txt could not be installed, for the reason above. No matching distribution: no wheel for this Python" \
			"or platform; try another Python, or make setup WHEELS= to build from source. Hashes that do not match: the" \
			"package index gives out another file than the one that was locked; do not install it." >&2; exit 1; }
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

VENDOR := gateway/dev/demo/vendor/react.js

examples: $(VENDOR) ## Bundle the frameworks of the demo's example pages (React, Vue, Svelte, OpenFeature), with npm.

# Other people's code is not committed. Without npm the demo does without these four pages.
$(VENDOR): clients/js-snippet/package.json clients/js-snippet/package-lock.json
	@if command -v npm >/dev/null 2>&1; then \
		echo "bundling the frameworks of the demo's example pages ..."; \
		(cd clients/js-snippet && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null && \
			node scripts/build.js --vendor >/dev/null) && touch $@ || \
			echo "npm failed: the demo does without its React, Vue, Svelte and OpenFeature pages" >&2; \
	else echo "no npm: the demo does without its React, Vue, Svelte and OpenFeature pages"; fi

run: setup examples ## Run store, gateway, worker and simulator; PORT (8000) and PLANWIRE_DATA_DIR (.planwire) are honoured.
	@exec $(BIN)/python -m gateway.dev --with-parent

# Most of them wait for servers, clocks and browsers more than they compute: one process more than there are cores.
WORKERS ?= 3

test: setup test-tools examples ## Run all tests: unit, integration with real servers, and in real browsers. ARGS="-k name" narrows.
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-fast: setup ## Run the fast tests alone, in seconds: pure modules, and what stands on the store in memory.
	@$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS) tests/unit

nightly: setup test-tools examples ## Run what takes longer: every test with thorough examples, all Autobahn cases, the fault table, a soak.
	@HYPOTHESIS_PROFILE=thorough AUTOBAHN=full $(MAKE) --no-print-directory test
	@$(BIN)/python -m tests.faults table --rounds 12
	@$(MAKE) --no-print-directory soak MINUTES=$(or $(MINUTES),10)

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

docs: setup ## Write anew what is generated: the settings' names and page, OpenAPI, AsyncAPI.
	@$(BIN)/python -m tools.docs.settings --names > docs/.new && mv docs/.new sync/process/setting_names.txt
	@$(BIN)/python -m tools.docs.settings > docs/.new && mv docs/.new docs/configuration.md
	@$(BIN)/python -m tools.docs.openapi > docs/.new && mv docs/.new docs/openapi.json
	@$(BIN)/python -m tools.docs.asyncapi > docs/.new && mv docs/.new docs/asyncapi.json

TOOLS := .tools/supply

lock: setup ## Write all locks anew. Versions that fit stay; ARGS=--upgrade or ARGS="--upgrade-package NAME" takes newer ones.
	@sh locks/environment.sh locks/tools.txt $(TOOLS)
	@$(BIN)/python -m locks.update $(ARGS)

sbom: setup ## Write dist/planwire.cdx.json and dist/planwire-browser.cdx.json: what the software is made of (CycloneDX).
	@sh locks/environment.sh locks/tools.txt $(TOOLS)
	@sh locks/environment.sh locks/production.txt .tools/production
	@$(TOOLS)/bin/python -m locks.sbom

clean: ## Remove .venv and caches; the data directory stays.
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
