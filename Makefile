# Two commands are all the set-up there is: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV ?= .venv
ENGINES_VENV ?= .venv-engines
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt
SOURCES := agent analyzer rules schemas tests

.PHONY: demo test check bench fuzz check-gpu test-engines bench-engines format docs clean help
help:
	@echo "make demo   install, profile a tiny vision-language model, print its report"
	@echo "make test   install and run all tests but those of real engines"
	@echo "make check  formatting, lint, types, import contract, Python floor of the probe, generated docs"
	@echo "make bench  benchmarks: ratios measured in one run"
	@echo "make fuzz   ten thousand broken trace files through the analyzer; takes half an hour"
	@echo "make check-gpu   on a machine with an NVIDIA GPU: what its counters tell, against loads of known size"
	@echo "make test-engines   install a real vLLM for CPU beside (4 GB) and run what needs it"
	@echo "make bench-engines  what the probe costs that vLLM"
	@echo "make docs   regenerate the pages that are made from the sources"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing vtprof with what the demo needs (torch, transformers); this takes a few minutes once" >&2
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing vtprof with what the tests need; this takes a few minutes once" >&2
	$(PIP) -e '.[demo,dev]'
# Its resizing is pure torch, but there is no CPU build: beside the packages, where only the tests look (tests/torchvision_path.py).
	$(PIP) --no-deps --upgrade --target $(VENV)/torchvision torchvision
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/vtprof demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin --no-tips --violations -t=3.9- agent/vtprof_probe schemas/vtprof_schemas
	$(BIN)/python -m pytest -q tests/schemas tests/rules/test_rule_packs.py -k "page or readme"

bench: $(VENV)/.dev
	@missed=; for bench in tests/bench/bench_*.py; do echo; echo "== $$bench"; $(BIN)/python $$bench || missed="$$missed $$bench"; done; \
	if [ -n "$$missed" ]; then echo; echo "over budget, or failed:$$missed" >&2; exit 1; fi

# FUZZ_ARGUMENTS="--first 10000 --files 500"
fuzz: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m fuzz.campaign $(FUZZ_ARGUMENTS)

# Exit code 1: something differs from what is assumed; 2: no GPU. GPU_CHECK_ARGUMENTS="--gpu 1 --json findings.json"
check-gpu: $(VENV)/.demo
	$(BIN)/python tests/gpu/check_counters.py $(GPU_CHECK_ARGUMENTS)

# The server runs in an environment of its own; the tests and the agent in that of the other tests.
test-engines: $(VENV)/.dev
	tests/engines/install_vllm.sh $(ENGINES_VENV) $(PYTHON)
	VTPROF_ENGINE_VENV=$(ENGINES_VENV) $(BIN)/python -m pytest tests/engines

bench-engines: $(VENV)/.dev
	tests/engines/install_vllm.sh $(ENGINES_VENV) $(PYTHON)
	VTPROF_ENGINE_VENV=$(ENGINES_VENV) $(BIN)/python tests/engines/bench_engines.py

format: $(VENV)/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(VENV)/.dev
	$(BIN)/python -m vtprof_schemas.reference > schemas/REFERENCE.md
	$(BIN)/python -m vtprof_agent.metrics.reference > deploy/prometheus/METRICS.md
	$(BIN)/python -m vtprof_rules.catalogue
	$(BIN)/python -m vtprof_analyzer.models.reference > analyzer/MODELS.md

clean:
	rm -rf $(VENV) $(ENGINES_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
