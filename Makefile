# Everything runs in .venv, which any target makes when it is missing. Needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test check bench studio clean

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

test: .venv/dev  ## every test
	$(BIN)/python -m pytest

check: .venv/dev  ## style, types, the direction of imports, the wheel in an empty environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/wheel.sh

bench: .venv/dev  ## this service against a hand-written one, in one run, into bench/RESULTS.md
	$(BIN)/python -m bench

AGENTS := GREETING:8001 AUTH:8002 REFUND:8003 BILLING:8004 BOOKING:8005 COMPLAINT:8006 ACCOUNT:8007 BALANCE:8008 \
          CLOSING:8009 FALLBACK:8010

studio: .venv/dev  ## LangGraph Studio's server with the demo agents, and /orchestrate beside it; Ctrl-C ends all
	@$(BIN)/flows demo-agents & agents=$$!; trap 'kill $$agents 2>/dev/null' EXIT; \
	export LANGGRAPH_CLI_NO_ANALYTICS=1 $(foreach agent,$(AGENTS),$(subst :,_AGENT_URL=http://127.0.0.1:,$(agent))); \
	$(BIN)/langgraph dev --no-browser

clean:  ## remove what the other targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .langgraph_api dist
