# make loop    set up, start Prefect where none answers, run (or continue) the default campaign, follow it
#              make loop PARAMS="seed=2 campaign=seed2"   anything of configs/al_loop.yaml
# make test    set up, lint, types, tests            make lint   lint and types only
# make nightly the tests that make test leaves out: a real Slurm and hundreds of kills (.ci/debian.sh first)
# make docs    the documentation as a site in .site/, a warning is an error (make test does this too)
# make up      local Prefect server and workers      make down   end them
# make setup   the environment .venv                 make clean  remove environments and caches (campaigns stay)
# make fairchem   the environment .venv-fairchem, of EquiformerV2 and GemNet-OC (make test does; make loop where needed)

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FAIRCHEM_VENV ?= .venv-fairchem
FAIRCHEM := $(FAIRCHEM_VENV)/bin
FAIRCHEM_STAMP := $(FAIRCHEM_VENV)/.installed
NEW_ENOUGH := import sys; sys.exit("Python 3.11 or later is needed, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)
# Two environments may be made at once, and an editable install writes beside the sources.
ALONE := $(if $(shell command -v flock),flock pyproject.toml)
export DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup fairchem environments loop up down test nightly lint docs clean
.DEFAULT_GOAL := loop

setup: $(STAMP)

$(STAMP): requirements/mace.lock pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements/mace.lock
	$(ALONE) $(BIN)/python -m pip install --quiet --no-deps --editable .
	@echo 'fairchem_python = "$(abspath $(FAIRCHEM)/python)"' > $(VENV)/rlpath.toml
	@touch $@

fairchem: $(FAIRCHEM_STAMP)

$(FAIRCHEM_STAMP): requirements/fairchem.lock requirements/fairchem-core.lock pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv $(FAIRCHEM_VENV)
	$(FAIRCHEM)/python -m pip install --quiet --requirement requirements/fairchem.lock
	$(ALONE) $(FAIRCHEM)/python -m pip install --quiet --no-deps --requirement requirements/fairchem-core.lock --editable .
	@echo 'mace_python = "$(abspath $(BIN)/python)"' > $(FAIRCHEM_VENV)/rlpath.toml
	@touch $@

# What only the pictures need: the loop does without, and where there is no wheel its tests say so and are skipped.
$(STAMP)-viz: $(STAMP) requirements/viz.lock
	@$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/viz.lock && touch $@ \
	    || echo "OVITO cannot be installed here: its tests will be skipped" >&2

# FairChem's environment is made only for a campaign that names one of its backends here.
loop: setup $(if $(findstring equiformer_v2,$(PARAMS))$(findstring gemnet_oc,$(PARAMS)),fairchem)
	$(BIN)/python -m flows.al_loop --services $(if $(PARAMS),--params $(PARAMS))

up: setup
	$(BIN)/python -m flows.services up

down:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m flows.services down; fi

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# A type checker that was pointed at no file succeeds too: insist that it saw some.
	@report=$$($(BIN)/mypy); echo "$$report"; grep -qE 'Success: no issues found in [1-9][0-9]* source files' <<< "$$report"

# The core's rooms that need no backend run in FairChem's environment too: it has other versions of numpy and scipy.
FAIRCHEM_TESTS := tests/fairchem $(addprefix tests/unit/,backends/test_environments.py data dft/test_default_configs.py \
    evaluation geometry outbox/test_dedup.py store $(addprefix sampling/test_sampling_,basins.py quality.py))

DOCS_VENV ?= .venv-docs

$(DOCS_VENV)/.installed: requirements/docs.lock
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --requirement requirements/docs.lock
	@touch $@

# Nothing of rlpath is imported for it.
docs: $(DOCS_VENV)/.installed
	@set -o pipefail; NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict 2>&1 | { grep -v '^INFO' || true; }
	@echo "documentation: .site/index.html"

environments:
	@$(MAKE) --no-print-directory -j 2 $(STAMP)-viz $(FAIRCHEM_STAMP)

test: environments
	@$(MAKE) --no-print-directory -j 2 -O lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not nightly" -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(FAIRCHEM)/python -m pytest -n 2 --dist loadfile $(FAIRCHEM_TESTS)

nightly: environments
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly

clean: down
	rm -rf $(VENV) $(FAIRCHEM_VENV) $(DOCS_VENV) .site .rlpath .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
