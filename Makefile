# Commands for users and developers. They need Python 3.11+, git and make, and install the rest into .venv and .tox.

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help quickstart quick test test-all fuzz lint docs man bench chaos release clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (make PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,xgboost]'
	@touch $@

$(VENV)/tox: $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'tox >= 4.21'
	@touch $@

quickstart: $(VENV)/installed  ## Set up .venv, then train and apply models on a bundled sample
	rm -rf quickstart-store
	$(BIN)/kepler-model quickstart --store quickstart-store

quick: $(VENV)/tox  ## Lint, types and the tests that need neither a training nor a server (about 2 minutes)
	$(BIN)/tox run -e quick

test: $(VENV)/tox  ## All checks and tests, on this interpreter
	$(BIN)/tox run -e check,wheel

test-all: $(VENV)/tox  ## All tests on every interpreter, with the latest and the lowest dependencies
	$(BIN)/tox run

fuzz: $(VENV)/tox  ## Fuzz for an hour in all (KEPLER_FUZZ_SECONDS=N: for N seconds per target)
	$(BIN)/tox run -e fuzz

lint: $(VENV)/tox  ## Format, lint, types and import rules
	$(BIN)/tox run -e lint

docs: $(VENV)/tox  ## Build the documentation as a website in build/site (needs the network once, to install MkDocs)
	$(BIN)/tox run -e docs

man: $(VENV)/installed  ## Write a manual page for each command to build/man
	$(BIN)/python docs/site/man_pages.py build/man

bench: $(VENV)/installed  ## Measure speed and memory
	$(BIN)/python bench/extract.py
	$(BIN)/python bench/fleet.py
	$(BIN)/python bench/train.py
	$(BIN)/python bench/model_server.py
	$(BIN)/python bench/estimator.py
	$(BIN)/python bench/plugins.py
	$(BIN)/python bench/meter.py

chaos: $(VENV)/installed  ## Run all servers for 10 minutes beside hostile clients, kills and full disks
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pytest >= 8'
	$(BIN)/python bench/chaos.py --minutes 10

release: $(VENV)/tox  ## Build and check wheel, source distribution and SBOM in dist/, all but the upload
	$(BIN)/tox run -e release

clean:  ## Remove everything that the other targets created
	rm -rf $(VENV) .tox build dist *.egg-info quickstart-store
