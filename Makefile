# Everything in .venv, made on first use and again when a requirements file changes.
VENV ?= .venv
PYTHON ?= python3.11
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: help setup repro data table report screenshot verify test test-slow bench lint format
.DEFAULT_GOAL := help

help:
	@echo "make repro      set up and run the pipeline, then print its table"
	@echo "make report     one HTML file of the studies and of the run at hand"
	@echo "make test       set up and run the tests (10 minutes at most on two cores)"
	@echo "make test-slow  the long ones: experiments in the queue, more kills, the default preset from nothing"
	@echo "make verify     the smoke pipeline twice, once killed again and again: are all bytes the same?"
	@echo "make bench      ours against lightly, kornia and diffusers, in ratios: half an hour, with nothing else running"
	@echo "make data NAME=cifar10   fetch a published data set (cifar10, cifar100, stl10, svhn, tiny-imagenet, digits)"
	@echo "make lint       ruff check and ruff format --check"
	@echo "make setup      only make $(VENV)"

$(VENV)/.run: requirements.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-report.txt requirements-unclip.txt $(VENV)/.run
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.run
	@echo "installing requirements-bench.txt into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

$(VENV)/.report: requirements-report.txt $(VENV)/.run
	@echo "installing requirements-report.txt into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-report.txt
	@touch $@

setup: $(VENV)/.run

repro: setup
	dvc repro
	@python -m pipeline table

data: setup
	@python -m pipeline fetch $(NAME)

table: setup
	@python -m pipeline table

report: $(VENV)/.report
	@python -m pipeline report

screenshot: report $(VENV)/.dev
	LEAVEN_PAGE=report.html LEAVEN_SCREENSHOT=docs/report.png python -m pytest tests/pipeline/test_page.py -k browser

# Two workers, a file of tests each, of one thread each: more threads than cores would wait for one another.
BOTH = OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev
	$(BOTH) -m "not slow"

# The longest two files first, so that neither worker is at work much longer than the other.
SLOW = tests/pipeline/test_study.py tests/pipeline/test_methods.py tests/pipeline/test_*.py tests/faults/test_*.py

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
