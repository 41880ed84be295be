# A thin door to nox. Everything lives in .venv, which the first command makes.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --constraint constraints.txt
NOX := $(BIN)/python -m nox

.DEFAULT_GOAL := help
.PHONY: help setup develop demo test lint docs clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## /make \1 \t/p' Makefile | expand -t 16

setup: .venv/.runtime  ## make .venv with CryoMamba and its nnU-Net runner

develop: .venv/.develop  ## the same, and what the checks need

demo: setup  ## segment a synthetic tomogram; the picture is demo-output/picture.png
	$(BIN)/cryomamba demo --out demo-output

test: develop  ## run every check: lint, types, layers, documentation, package and all tests
	$(NOX)

lint: develop  ## check style, spelling and layers
	$(NOX) -s lint imports

docs: develop  ## build the documentation into docs/_build/html
	$(NOX) -s docs

clean:  ## remove what was built, but not .venv
	rm -rf .nox build dist demo-output docs/_build

.venv/.pip:
	@test -n "$(PYTHON)" || { echo "CryoMamba needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/python"; exit 1; }
	@echo "making .venv with $(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv 2>/dev/null || \
		{ $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --upgrade "pip>=25.1"
	@touch $@

# torch comes first and by its exact version, so that nothing below chooses another
.venv/.runtime: .venv/.pip pyproject.toml constraints.txt
	@echo "installing CryoMamba and its nnU-Net runner"
	@$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	@$(PIP) --editable ".[nnunet]" nox
	@touch $@

.venv/.develop: .venv/.runtime
	@echo "installing what the checks need"
	@$(PIP) --group dev
	@touch $@
