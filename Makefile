# make train   trains CartPole-v1 over HTTP, from nothing but Python
# make test    all checks and tests but those of make faults and make trainers
# make faults   the fault matrix, and the tests that need root or take minutes (docs/reliability.md)
# make audit   asks whether vulnerabilities are known of the versions in constraints.txt (docs/security.md)
# make trainers   the tests with other people's trainers (docs/trainers.md), in a venv of its own
# make trackers   the tests with the real Weights & Biases and trackio, offline (docs/runs.md), in a venv of its own
# make clean   removes what these made
#
# Variables: PYTHON=python3.12   TORCH_INDEX=https://download.pytorch.org/whl/cpu   PIP_FLAGS="--index-url …"
#            TRAIN_FLAGS="--seed 1"   VENV=elsewhere

PYTHON ?= python3
VENV ?= .venv
TRAINERS_VENV ?= .venv-trainers
TRACKERS_VENV ?= .venv-trackers
AUDIT_VENV ?= .venv-audit
AUDIT_FLAGS ?=
PIP_FLAGS ?=
TORCH_INDEX ?=
TRAIN_FLAGS ?=

INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
          $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(PIP_FLAGS)

# What the trainers themselves do that is deprecated is no fault of ours.
OTHERS_WARNINGS = -W ignore::DeprecationWarning -W ignore::FutureWarning
INSTALL_TRAINERS = $(TRAINERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
          --constraint constraints-trainers.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(PIP_FLAGS)

.PHONY: train test faults audit trainers trackers clean
.DELETE_ON_ERROR:

train: $(VENV)/.installed-train
	$(VENV)/bin/multiserverrl train CartPole-v1 $(TRAIN_FLAGS)

test: $(VENV)/.installed-dev
	PYTHON=$(abspath $(VENV))/bin/python ./check

# What broke is said again beside what failed: whoever reads the end of a long log finds it there.
faults: SHELL := /bin/bash
faults: $(VENV)/.installed-fuzz
	@failed=; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	step() { echo "$$*"; "$$@" 2>&1 | tee -a "$$log"; [ $${PIPESTATUS[0]} -eq 0 ] || failed="$$failed; $$2 $$3"; }; \
	step $(VENV)/bin/python bench/faults.py; \
	step $(VENV)/bin/python bench/fuzz.py --inputs 130000; \
	step $(VENV)/bin/python -m pytest -m "root or long" tests; \
	test -z "$$failed" || { \
	  echo "failed: $${failed#; }"; grep -E '^(BROKEN|FAILED|ERROR)|, CRASH,' "$$log" | cut -c 1-2000; exit 1; }

audit: $(AUDIT_VENV)/.installed
	$(AUDIT_VENV)/bin/python .ci/audit.py $(AUDIT_FLAGS)

$(AUDIT_VENV)/.installed:
	@$(MAKE) --no-print-directory VENV=$(AUDIT_VENV) $(AUDIT_VENV)/.made
	$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) pip-audit && touch $@ || \
	  echo "pip-audit cannot be installed here: nothing can be asked"

trainers: $(TRAINERS_VENV)/.installed
	OMP_NUM_THREADS=1 $(TRAINERS_VENV)/bin/python -m pytest -m trainers tests/adapters $(OTHERS_WARNINGS)

$(TRAINERS_VENV)/.installed: pyproject.toml constraints-trainers.txt
	@$(MAKE) --no-print-directory VENV=$(TRAINERS_VENV) $(TRAINERS_VENV)/.made
	@echo "installing torch and the trainers into $(TRAINERS_VENV) (the first time takes minutes)"
	$(INSTALL_TRAINERS) torch
	$(INSTALL_TRAINERS) --editable '.[sb3,torchrl,tianshou,rllib,trainers-dev]'
	$(INSTALL_TRAINERS) --no-deps --ignore-requires-python cleanrl  # one script of it is run, on newer versions than it names
	@touch $@

trackers: $(TRACKERS_VENV)/.installed
	$(TRACKERS_VENV)/bin/python -m pytest -m trainers tests/observe

$(TRACKERS_VENV)/.installed: pyproject.toml constraints-trackers.txt
	@$(MAKE) --no-print-directory VENV=$(TRACKERS_VENV) $(TRACKERS_VENV)/.made
	$(TRACKERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	  --constraint constraints-trackers.txt \
	  --editable '.[wandb,trackio,trainers-dev]' tensorboard
	@touch $@

$(VENV)/.installed-train: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing multiserverrl and torch into $(VENV) (the first time takes minutes)"
	$(INSTALL) --editable '.[train,classic-control]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-train
	@echo "installing the development tools into $(VENV)"
	$(INSTALL) --editable '.[train,classic-control,dev]'
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev
	$(INSTALL) --editable '.[train,classic-control,dev,fuzz]'
	@touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "missing: $(PYTHON). Install Python 3.11 or newer (Debian, Ubuntu: apt install python3), or: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "missing: Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Choose another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "missing: python3-venv (the modules venv and ensurepip of $(PYTHON)). Debian, Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip --version >/dev/null || { \
	  echo "missing: pip in $(VENV). Debian, Ubuntu: apt install python3-pip python3-venv; then: make clean and again"; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) $(TRAINERS_VENV) $(TRACKERS_VENV) $(AUDIT_VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests docs examples -name __pycache__ -type d -prune -exec rm -rf {} +
