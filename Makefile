# Everything from a fresh clone: `make demo` compares one person across three paradigms, `make test` tests.
# Needs Python 3.11 or newer and make. PYTHON=... chooses the interpreter.

VENV := .venv
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$candidate && break; done)
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
EXTRAS ?= dev,zoo,app,faces
# Two cores are enough for everything here; more workers need more memory, not only more cores.
WORKERS ?= 2
# Who the demo is about, and what it compares; `unified compare` takes the same words.
PERSON ?= person-03
DEMO_RUNS ?= avatars/stylegan2:pti,avatars/stable-diffusion:category,avatars/stable-diffusion:dreambooth-lora,avatars/emu3:in-context
CODE := unified backbones inversion editing tests notebooks

.PHONY: help install demo test test-fast lint notebooks kernels clean
.DEFAULT_GOAL := help

help:
	@echo "make install     create $(VENV) and install the versions of constraints.txt"
	@echo "make demo        compare one held-out person across three paradigms, and say where the report is"
	@echo "make test        all tests"
	@echo "make test-fast   the tests that take seconds"
	@echo "make lint        ruff and mypy"
	@echo "make notebooks   run the notebooks"
	@echo "make kernels     compile the native StyleGAN kernels"

install: $(STAMP)

# torch first: if a CPU build of the pinned version is at hand (a local wheel folder or index in pip's own
# settings), pip takes it; otherwise this is plain resolution, and on Linux it brings CUDA libraries along.
# torchvision without its dependencies: its published build names a CUDA torch and would bring those libraries
# to a CPU machine. What it really needs (torch, numpy, pillow) is installed anyway.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv was not found; install it or set PYTHON=..."; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt torch
	$(RUN) -m pip install --quiet --constraint constraints.txt --no-deps torchvision
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/unified compare avatarbench/$(PERSON) --output demo --runs $(DEMO_RUNS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) tests

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) -m "not slow" tests

lint: $(STAMP)
	$(RUN) -m ruff check $(CODE)
	$(RUN) -m ruff format --check $(CODE)
	$(RUN) -m mypy

notebooks: $(STAMP)
	OMP_NUM_THREADS=2 $(RUN) -m pytest --nbmake --overwrite --nbmake-timeout=900 notebooks

kernels: $(STAMP)
	$(RUN) -m backbones.stylegan.ops.native

clean:
	rm -rf build out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
