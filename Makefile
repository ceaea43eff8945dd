# make demo   an environment, the demo recording, incidents on the screen and a report
# make test   an environment and the tests, two files at a time (WORKERS=0: in one process)
# make cover  the same with coverage, which takes about a tenth longer
# make check  linter, format, types
# make live   the test bed: a shop that breaks on command; make live-test  a small run of it
# make bench  forward pass beside the original package's; make docs  the generated reference pages
#
# Needs Python 3.11 or newer with venv, and make. Override: make demo PYTHON=python3.12 VENV=.venv312
# A smaller torch for machines without a graphics card: TORCH="torch==2.13.0 --index-url <its CPU index>"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
OUT ?= out/demo
WORKERS ?= 2
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
RUN = $(VENV)/bin

# The development recordings and golden vectors, where they lie beside the checkout. Without them
# the tests that need them are skipped.
export FORESHOCK_TEST_DATA ?= $(wildcard $(abspath ../shared/data))
export FORESHOCK_GOLDEN ?= $(wildcard $(abspath ../shared/golden))

.PHONY: demo test cover check live live-test bench docs requirements clean
.DEFAULT_GOAL := demo

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foreshock needs Python 3.11 or newer; this is " + sys.version)'
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt $(TORCH)
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(PIP) install -q "pip>=25.1"
	$(PIP) install -q -c constraints.txt --group dev
	touch $@

demo: $(VENV)/.installed
	$(RUN)/foreshock detect demo: --report $(OUT)/report.html --log $(OUT)/runs --force
	@echo "open $(OUT)/report.html in a browser"

test: $(VENV)/.developed
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

cover: override PYTEST += --cov=foreshock --cov-report=term:skip-covered
cover: test

check: $(VENV)/.developed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

live: $(VENV)/.developed
	$(RUN)/python -m testbed.live --record benchmarks/results/testbed.jsonl

live-test: $(VENV)/.developed
	$(RUN)/python -m testbed.live --small

bench: $(VENV)/.installed
	$(RUN)/python benchmarks/moment_speed.py

docs: $(VENV)/.developed
	$(RUN)/python docs/generate.py
	$(RUN)/python benchmarks/tables.py
	$(RUN)/python benchmarks/honest.py
	$(RUN)/python benchmarks/methodology.py
	$(RUN)/python benchmarks/few_shots.py
	$(RUN)/python benchmarks/simulator_likeness.py --page
	$(RUN)/python -m testbed.document

# requirements.txt, for those who want one: what a fresh environment holds after `pip install -c constraints.txt .`
requirements:
	rm -rf build/requirements
	$(PYTHON) -m venv build/requirements
	build/requirements/bin/python -m pip install -q -c constraints.txt $(TORCH)
	build/requirements/bin/python -m pip install -q -c constraints.txt .
	(echo "# Written by: make requirements"; build/requirements/bin/python -m pip freeze --exclude foreshock | sed 's/+cpu$$//; s/^torch @ .*/$(TORCH)/') > requirements.txt

clean:
	rm -rf build dist out htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
