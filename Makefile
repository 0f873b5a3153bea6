# Everything runs in .venv, which any target makes when it is missing. Needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 4
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test chaos check bench studio clean

.venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --constraint constraints.txt --editable .
	touch $@

demo: .venv/run  ## the agents, the service and one call; ONCE=1 stops after the call
	$(BIN)/flows demo $(if $(ONCE),--once)

test: .venv/dev  ## every test; they mostly wait, so JOBS of them at once
	$(BIN)/python -m pytest --numprocesses $(JOBS)

chaos: .venv/dev  ## a thousand calls on each store while everything that can go wrong does; ARGS="--seed 7" and others
	CHAOS=1 $(BIN)/python -m pytest -q tests/chaos/test_mutations.py
	$(BIN)/python -m tests.chaos $(ARGS)

check: .venv/dev  ## style, types, the direction of imports, the wheel in an empty environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/wheel.sh

bench: .venv/dev  ## this service against a hand-written one, in one run, into bench/RESULTS.md; ARGS="--part speed"
	$(BIN)/python -m bench $(ARGS)

# Both run in the background: a shell obeys its traps while it waits, but not while a foreground command runs.
studio: .venv/dev  ## LangGraph Studio's server with the demo agents, and /orchestrate beside it; Ctrl-C ends all
	@env=$$($(BIN)/flows demo-agents --env) && eval "$$env" && export LANGGRAPH_CLI_NO_ANALYTICS=1; \
	$(BIN)/flows demo-agents & agents=$$!; $(BIN)/langgraph dev --no-browser & studio=$$!; \
	trap 'kill $$agents $$studio 2>/dev/null; wait' INT TERM EXIT; wait $$studio

clean:  ## remove what the other targets made; the calls in .flows stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .langgraph_api dist
