# Everything in .venv, made on first use and again when pyproject.toml or requirements.lock changes.
VENV ?= .venv
FITS = 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
PYTHON ?= $(shell for it in python3.11 python3.12 python3.13 python3; do $$it -c $(FITS) 2> /dev/null && echo $$it && break; done)
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: help setup repro report test test-slow lint format bench verify lock data
.DEFAULT_GOAL := help

help:
	@echo "make repro      set up and run the pipeline, then print its table"
	@echo "make report     one HTML file of the studies and of the run at hand"
	@echo "make test       set up and run the tests (10 minutes on two slow cores)"
	@echo "make test-slow  the long ones: experiments in the queue, more kills, the default preset from nothing"
	@echo "make verify     the smoke pipeline twice, once killed again and again: are all bytes the same?"
	@echo "make bench      ours against lightly, kornia and diffusers, in ratios: half an hour, with nothing else running"
	@echo "make data NAME=cifar10   fetch a published data set (cifar10, cifar100, stl10, svhn, tiny-imagenet, digits)"
	@echo "make lint       ruff check and ruff format --check; make format mends what it can"
	@echo "make lock       pin anew what pyproject.toml asks for; versions stay unless they no longer fit"
	@echo "make setup      only make $(VENV)"

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Leaven wants Python 3.11, 3.12 or 3.13 with venv: install one, or name it with PYTHON="; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/constraints.txt: requirements.lock | $(VENV)/bin/python
	@sed -n 's/^\([^ ].*\) \\$$/\1/p' $< > $@

INSTALL = @python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt

# Leaven itself, editable, with one of its extras (run: with none); every version from the lock.
$(VENV)/.%: pyproject.toml $(VENV)/constraints.txt
	@echo "installing Leaven$(if $(filter-out run,$*), and what '$*' needs) into $(VENV)"
	$(INSTALL) --editable '.$(if $(filter-out run,$*),[$*])'
	@touch $@

setup: $(VENV)/.run

repro: setup
	dvc repro
	@python -m pipeline table

data: setup
	@python -m pipeline fetch $(NAME)

report: $(VENV)/.report
	@python -m pipeline report

# Two workers, a file of tests each, of one thread each: more threads than cores would wait for one another.
BOTH = OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev
	$(BOTH) -m "not slow"

# The longest two files first, so that neither worker is at work much longer than the other; then all that have a slow one.
SLOW = tests/pipeline/test_study.py tests/pipeline/test_methods.py $(shell grep -rl mark.slow tests --include=test_*.py)

test-slow: $(VENV)/.dev
	$(BOTH) -m "slow and not alone" $(SLOW)
	python -m pytest -m alone tests/pipeline/test_default.py

verify: $(VENV)/.dev
	OMP_NUM_THREADS=1 python -m tests.faults.verify

bench: $(VENV)/.bench
	python -m bench

lint: $(VENV)/.dev
	ruff check .
	ruff format --check .

format: $(VENV)/.dev
	ruff check --fix .
	ruff format .

# Versions stay where they fit. requirements.txt: what a run needs, for `pip install -r`.
lock: $(VENV)/constraints.txt
	$(INSTALL) uv
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --output-file requirements.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 --constraints requirements.lock --no-annotate --output-file requirements.txt
