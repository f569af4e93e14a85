PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint bench bench-faults chaos fuzz mutants load defences sbom docs clean help

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# What a user needs, from the lock file; --no-deps because the lock names everything but what torch's build for a graphics card brings.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/core: requirements.txt requirements-torch.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --no-deps -r requirements.txt
	$(PIP) -r requirements-torch.txt
	$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/dev: $(VENV)/core requirements-dev.txt
	$(PIP) --require-hashes --no-deps -r requirements-dev.txt
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

chaos: $(VENV)/dev ## Kill commands, fail disks and damage files, and count what survives: an hour or two (ARGS=--all: every call and region, hours).
	$(BIN)/python -m benchmarks.chaos $(ARGS)

$(VENV)/fuzz: $(VENV)/dev
	$(PIP) --editable '.[fuzz]'
	@touch $@

fuzz: $(VENV)/fuzz ## Fuzz every reader with libFuzzer (atheris) for an hour.
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

mutants: $(VENV)/dev ## Change statistics, scoring and integrity at drawn places and count what their tests see: hours.
	$(BIN)/python -m benchmarks.mutants --write $(ARGS)

load: $(VENV)/dev ## 200 raters, 1,000 adapters, 60 runs in one process, 1,000,000 documents: hours on two cores.
	$(BIN)/python -m benchmarks.load --write $(ARGS)

defences: $(VENV)/dev ## Hostile models and data, secrets, memory, determinism, packages: run the tests that hold each, and count: minutes.
	$(BIN)/python -m benchmarks.defences --write

sbom: $(VENV)/core ## Write sbom.json: every installed package with version and licence (CycloneDX).
	$(PYTHON) -m venv $(VENV)/sbom  # apart: what writes the list is not on it
	$(VENV)/sbom/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	$(VENV)/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible -o sbom.json $(BIN)/python

docs: $(VENV)/dev ## Write the generated pages under docs/ again and build the site in site/; no network.
	$(BIN)/python scripts/make_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

clean: ## Remove the environment and the runs.
	rm -rf $(VENV) runs site
