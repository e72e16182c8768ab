# make demo: the whole study on the simulated cohort; make test: all tests; make env: the environment alone.
# Prerequisites: Python >= 3.11 with venv, a C compiler, make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE :=
# the system's certificates, as pip uses them: hospital networks have their own
export UV_SYSTEM_CERTS := true

.PHONY: demo env test test-slow test-faults test-slurm check docs lock clean prerequisites
.DEFAULT_GOAL := demo

demo: env
	@echo "== running the demo study (resources/demo) on $$($(BIN)/python -c 'import os; print(os.cpu_count())') cores"
	@$(BIN)/hccstudy run . --configfile config/config.yaml --cores all
	@echo "== the report: file://$(CURDIR)/results/report/index.html"

env: $(VENV)/.ready

# Stamped by the lock: a changed lock installs again, an unchanged one does nothing.
$(VENV)/.ready: requirements.lock envs/uv.txt pyproject.toml | prerequisites
	@echo "== creating the environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement envs/uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

prerequisites:
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON) (Python 3.11 or newer; or: make PYTHON=/path/to/python)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "missing: Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version) (or: make PYTHON=/path/to/python)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: Python's venv (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; h = os.path.join(sysconfig.get_paths()["include"], "Python.h"); raise SystemExit(not os.path.exists(h))' || { echo "missing: Python's C headers (on Debian and Ubuntu: apt install python3-dev)"; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "missing: a C compiler (on Debian and Ubuntu: apt install gcc), which pyradiomics is built with"; exit 1; }

# All tests but those of a whole study on real images, which test-slow runs.
test: env
	$(BIN)/python -m pytest -m "not slow and not slurm" -n 2 --dist loadfile

# SIGKILL at random moments of a small study, each followed by a resume. WRITE=docs/reliability.md keeps the table.
KILLS ?= 50
SEED ?= 1
test-faults: env
	$(BIN)/python tests/faults/kills.py --kills $(KILLS) --seed $(SEED) $(if $(WRITE),--write $(WRITE))

test-slow: env
	$(BIN)/python -m pytest -m slow

# A Slurm cluster on this machine, faults and all. Needs root on Debian or Ubuntu, else it is skipped; may install slurm-wlm.
test-slurm: env
	$(BIN)/python -m pytest -m slurm

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy
	@# One advice is not followed: all rules share one hashed environment, so none names a conda environment of its own.
	@$(BIN)/snakemake --lint > .snakemake-lint 2>&1; grep -q "Lints for\|Congratulations" .snakemake-lint || { cat .snakemake-lint; exit 1; }
	@! grep "^ *\* " .snakemake-lint | grep -v "Specify a conda environment or container for each rule" || { cat .snakemake-lint; exit 1; }
	@rm .snakemake-lint; echo "snakemake --lint: nothing but the known exception"
	$(BIN)/python -m hccstudy.documents --check

docs: env
	$(BIN)/python -m hccstudy.documents

# Needs uv: writes the lock anew from pyproject.toml.
lock: env
	$(BIN)/uv lock --upgrade
	$(BIN)/uv export --quiet --format requirements-txt --no-emit-project --no-header --output-file requirements.lock

clean:
	rm -rf results .snakemake
