# `make` lists the commands. Needs Python 3.11 to 3.14, and nothing else.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
PREFIX ?= $(HOME)/.local
PLUGINS := plugins/whisperd-ctranslate2 plugins/whisperd-whispercpp
# The newest Python that works, unless PYTHON names one. A version manager may offer names that do not run.
PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$name" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo "$$name" && break; done)

# Tests start a thousand processes; without stored byte code, each would compile the program again.
unexport PYTHONDONTWRITEBYTECODE
# Each worker takes consecutive tests, so that a daemon shared by the tests of a module is started only once.
PYTEST := $(BIN)/pytest -q -n 2 --dist=worksteal

.PHONY: help setup check lint types test test-quick test-gpu torture soak fuzz demo play install uninstall bench lock lock-dev docs walk wheels clean
.DEFAULT_GOAL := help

help: ## list these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## create the development environment

$(VENV)/.ready: requirements/dev.txt pyproject.toml $(PLUGINS:%=%/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 with venv and pip is required (on Debian: apt install python3-venv)."; exit 1; }
	@# An environment whose creation was interrupted has no pip; create it again.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(PLUGINS:%=-e ./%) -e .
	@touch $@

check: lint types test-quick ## lint, types and quick tests; run it before every commit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# These tests spend part of their time waiting; a third worker uses it.
test-quick: setup
	$(PYTEST) -n 3 --hypothesis-profile=quick -m "not real and not slow"

test: lint types ## all checks and all tests
	$(PYTEST)

test-gpu: setup ## run the tests that need an NVIDIA GPU; without one, say so and do nothing
	$(BIN)/python tests/gpu/run.py

torture: setup ## 200 clients with 10 runtimes, 24 with everything else, a minute each; a hundred kills during watching and during jobs
	WHISPERD_TORTURE_S=60 $(BIN)/pytest -q -s tests/runtimes/test_torture.py tests/daemon/test_crowd_torture.py
	WHISPERD_TORTURE_ROUNDS=100 $(BIN)/pytest -q -s tests/watch/test_watch_torture.py
	WHISPERD_TORTURE_ROUNDS=100 $(BIN)/pytest -q -s tests/jobs/test_job_torture.py

soak: setup ## use everything of one daemon for an hour (WHISPERD_SOAK_S), killing what can be killed: nothing may grow or get lost
	WHISPERD_SOAK_S=$${WHISPERD_SOAK_S:-3600} $(BIN)/pytest -q -s tests/daemon/test_soak.py

fuzz: setup ## fuzz all code that reads untrusted input, half an hour on two cores; WHISPERD_FUZZ_EXAMPLES sets how many examples
	$(PYTEST) --timeout=3600 --hypothesis-profile=fuzz -m hypothesis

demo: ## install into a temporary folder, fetch what is needed, transcribe a recording, print the text
	@PYTHON="$(PYTHON)" sh scripts/demo.sh

play: ## install and start the daemon in the same way, then open a shell to try whisperctl
	@PYTHON="$(PYTHON)" sh scripts/demo.sh --play

wheels: ## build the wheels into dist/
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 with venv and pip is required (on Debian: apt install python3-venv)."; exit 1; }
	@PYTHON="$(PYTHON)" sh scripts/wheels.sh dist

install: wheels ## install whisperd and whisperctl on your path (PREFIX, ~/.local)
	@PYTHON="$(PYTHON)" PREFIX="$(PREFIX)" sh scripts/install.sh

uninstall: ## remove them; recordings, models and settings stay
	@PREFIX="$(PREFIX)" sh scripts/install.sh --remove

bench: setup ## run the benchmarks, against faster-whisper; print a table and write benchmarks/results/
	$(BIN)/python benchmarks/run.py

lock: setup ## update the locks of the native bundles from the package index
	$(BIN)/python -m whisperd.natives.make_lock scripts/bundles.toml

lock-dev: wheels ## update requirements/dev.txt
	build/wheels-venv/bin/python -m pip install --quiet uv
	build/wheels-venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--find-links dist --no-emit-package whisperd-ctranslate2 --no-emit-package whisperd-whispercpp --no-emit-find-links --no-emit-index-url \
		pyproject.toml requirements/dev.in -o requirements/dev.txt

docs: setup ## regenerate the pages that come from the program
	$(BIN)/python scripts/command_docs.py
	$(BIN)/python scripts/runtimes_page.py
	$(BIN)/python scripts/service_files.py

walk: setup ## run the commands of docs/runtimes.md and update their output on the page
	$(BIN)/python scripts/runtimes_page.py --outputs

clean: ## delete everything built and downloaded here
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
