PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint bench bench-faults docs clean help

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# What a user needs, from the lock file; --no-deps because the lock names everything.
$(VENV)/core: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/dev: $(VENV)/core requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/core ## Fine-tune the bundled model on the bundled letters and judge it: a few minutes on two cores.
	$(BIN)/galvan run examples/frankenstein.yaml --out runs/demo --offline

test: $(VENV)/dev ## Run the tests that take seconds.
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

test-all: $(VENV)/dev ## Run every test, the long simulations too.
	$(BIN)/python -m pytest

lint: $(VENV)/dev ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev ## Measure speed beside TRL and lm-eval, in one run.
	$(BIN)/python -m benchmarks

bench-faults: $(VENV)/dev ## Put faults into small runs and count what is named: an hour or two, goes on where it stopped.
	$(BIN)/python -m benchmarks.faults --full

docs: $(VENV)/dev ## Write the generated pages under docs/ again and build the site in site/; no network.
	$(BIN)/python scripts/make_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

clean: ## Remove the environment and the runs.
	rm -rf $(VENV) runs site
