# make quickstart   install, train a small encoder on the built-in corpus, evaluate, export, search
# make test         lint, types and the fast tests
# make test-full    lint, types and every test
# make torture      kill runs of one and of two processes, with a mirror, and of every system, and compare
# make fuzz         what must hold for any input, on many thousand random ones
PYTHON ?= python3
VENV ?= .venv
# Test processes. Each holds eight CPU devices of JAX and imports it once.
WORKERS ?= 2
# Arguments for `simjax quickstart`, for pytest, or for the torture.
ARGS ?=

# Tests of what is computed, which the full tier compiles as users do; objectives among them where
# they are held to their peers. Programs of all others, and of the fast tier, run once or twice:
# optimising them costs more than they gain by it.
COMPUTED := $(addprefix tests/,cli/test_published_scores.py eval inference models ops parity postprocess \
	tpu_aot)
QUICK := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false $(XLA_FLAGS)"

BIN := $(VENV)/bin
# The TPU compiler lies apart: found beside JAX, it complains in every program that there is no TPU.
TPU := $(VENV)/tpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help quickstart lint types test test-full fuzz torture clean

help:
	@sed -n 's/^# make/make/p' Makefile

quickstart: $(VENV)/.installed
	$(BIN)/simjax quickstart $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

test: lint types $(VENV)/.installed-tpu
	$(QUICK) PYTHONPATH=$(abspath $(TPU)) $(BIN)/pytest -n $(WORKERS) -m "not slow and not multiprocess and not tpu_aot and not faults" $(ARGS)

test-full: lint types $(VENV)/.installed-tpu
	PYTHONPATH=$(abspath $(TPU)) $(BIN)/pytest -n $(WORKERS) $(COMPUTED) $(ARGS)
	$(QUICK) PYTHONPATH=$(abspath $(TPU)) $(BIN)/pytest -n $(WORKERS) $(addprefix --ignore=,$(COMPUTED)) $(ARGS)

fuzz: $(VENV)/.installed-test
	$(BIN)/pytest -n $(WORKERS) -m hypothesis --hypothesis-profile=fuzz $(ARGS)

torture: $(VENV)/.installed-test
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.torture.torment --processes 1 $(ARGS)
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.torture.torment --processes 2 $(ARGS)
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.torture.torment --processes 1 --mirror $(ARGS)
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.torture.systems

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find simjax tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("simjax needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": name another one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than what they were installed from, so that nothing is installed twice.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing simjax into $(VENV)"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-tpu: constraints.txt | $(VENV)/.installed-test
	$(PIP) --upgrade --target $(TPU) libtpu
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing simjax and what its tests need into $(VENV)"
	$(PIP) -e '.[test]'
	@touch $(VENV)/.installed $@
