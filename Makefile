# Needs Python 3.11 or newer and nothing else: every target makes .venv first when it is missing or out of date.

PYTHON ?= python3
PROFILE ?= micro
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq

.DEFAULT_GOAL := help
.PHONY: help setup table3 test check bench micro clean

help:
	@echo "make table3   Table 3, written to results/runs/tables/ (PROFILE=micro, the default, needs no GPU; PROFILE=paper: 7B, real data)"
	@echo "make test     run the tests"
	@echo "make check    ruff, and mypy on both packages"
	@echo "make bench    measure speed: the sweep against VLMEvalKit's loop, the whole grid, overhead, import time"
	@echo "make micro    rebuild the embedded default (checkpoint and compressor) from nothing"
	@echo "make setup    only create $(VENV) (PYTHON=python3.12 to choose the interpreter)"
	@echo "make clean    remove $(VENV) and caches; results stay"

setup: $(INSTALLED)

# The lock file names every package, so nothing is resolved (--no-deps). It leaves out Polygon3, which ms-vlmeval declares
# and never imports and which would need a C compiler.
$(INSTALLED): pyproject.toml .ci/lock.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "There is no command '$(PYTHON)'. Retain needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "'$(PYTHON)' is `$(PYTHON) -V 2>&1`, and Retain needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv), or name another: make PYTHON=python3.11"; exit 1; }
	@echo "Installing into $(VENV): about 3 minutes and, on Linux, 7 GB, since PyPI's torch brings the CUDA libraries."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-deps -r .ci/lock.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Installed."

# Speed only. A waiting thread that spins answers sooner than one that sleeps; and training asks for the same large blocks
# again and again, which glibc would otherwise hand back to the system each time (1.7 times slower).
table3 bench micro: export OMP_WAIT_POLICY = active
micro: export MALLOC_ARENA_MAX = 1
micro: export MALLOC_MMAP_MAX_ = 0
micro: export MALLOC_TRIM_THRESHOLD_ = 100000000000
micro: export MALLOC_TOP_PAD_ = 268435456
micro: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

table3: $(INSTALLED)
	@$(BIN)/retain run table3 --profile $(PROFILE)

test: $(INSTALLED)
	@$(BIN)/python -m pytest -q tests

check: $(INSTALLED)
	@$(BIN)/ruff check harness model_wrappers tests
	@$(BIN)/mypy

bench: $(INSTALLED)
	@$(BIN)/retain bench

micro: $(INSTALLED)
	@$(BIN)/retain micro build

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find harness model_wrappers tests -name __pycache__ -type d -prune -exec rm -rf {} +
