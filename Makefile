# Needs Python 3.11 or newer and nothing else: every target makes .venv first when it is missing or out of date.

PYTHON ?= python3
PROFILE ?= micro
DATA :=
JUDGE_LIMIT :=
RAY :=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TABLES := table1 table2 table3 table4 table5 table6 table7 table8
RUN = --profile $(PROFILE) $(if $(DATA),--data '$(DATA)')
WORKERS = $(if $(RAY), --ray '$(RAY)')
ASK = $(BIN)/retain run $(1) $(RUN)$(WORKERS)$(if $(JUDGE_LIMIT), --judge-limit '$(JUDGE_LIMIT)')
# Real data is downloaded first, where it is not there, but not before all else is: `retain data` lists it with its sizes.
FIRST = $(if $(filter micro,$(PROFILE)),,$(BIN)/retain doctor $(1) $(RUN)$(WORKERS) --before-data && $(BIN)/retain data $(1) $(RUN) || exit $$?; )
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq

.DEFAULT_GOAL := help
.PHONY: help setup table1 table2 table3 table4 table5 table6 table7 table8 figure3 tables test check bench micro clean

help:
	@echo "make table1   relevance as the guide: images, videos"
	@echo "make table2   the learned compressor and FastV: images"
	@echo "make table3   the learned compressor and FastV: videos"
	@echo "make table4   relevance with and without the gradient"
	@echo "make table5   table2 on larger images than the compressor was trained on"
	@echo "make table6   table3 on longer videos than the compressor was trained on"
	@echo "make table7   what every method costs and preserves: MMStar"
	@echo "make table8   what every method costs and preserves: MVBench"
	@echo "make figure3  average preservation over average retention, every method: images, videos"
	@echo "make tables   all eight, and the figure. Each table is printed and written to results/runs/tables/"
	@echo "              PROFILE=micro, the default, needs no GPU; PROFILE=paper: 7B models, real data, got first into"
	@echo "              results/data/paper (DATA=folder: another); JUDGE_LIMIT=dollars: what a table's judges may cost"
	@echo "              RAY=auto: on all GPUs of this machine; RAY=HOST:PORT: on a Ray cluster that this machine is part of"
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
$(TABLES) figure3 tables bench micro: export OMP_WAIT_POLICY = active
micro: export MALLOC_ARENA_MAX = 1
micro: export MALLOC_MMAP_MAX_ = 0
micro: export MALLOC_TRIM_THRESHOLD_ = 100000000000
micro: export MALLOC_TOP_PAD_ = 268435456
micro: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

table1 table2 table3 table4 table5 table6 table7 table8: $(INSTALLED)
	@$(call FIRST,$@)$(call ASK,$@)

figure3: $(INSTALLED)
	@$(call FIRST,$@)status=0; $(call ASK,$@) || { status=$$?; [ $$status -eq 3 ] || exit $$status; }; \
	$(BIN)/retain figure $@ $(RUN) || { status=$$?; }; exit $$status

# All of them, also after one with failed samples (status 3); a mistake in the input or Ctrl-C ends it.
tables: $(INSTALLED)
	@$(call FIRST,$(TABLES) figure3)status=0; for table in $(TABLES); do \
	  $(call ASK,$$table) || { status=$$?; [ $$status -eq 3 ] || exit $$status; }; \
	done; $(MAKE) --no-print-directory figure3 || exit $$?; exit $$status

# A file's tests stay in one process; each process has one thread, so that they do not get in each other's way. One more
# than there are cores, since tests of Ray, of kills and of servers mostly wait.
test: export OMP_NUM_THREADS = 1
test: $(INSTALLED)
	@$(BIN)/python -m pytest -q -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests

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
