# `make` lists what there is. Needs Python 3.11 or newer, and nothing else.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
PREFIX ?= $(HOME)/.local
PLUGINS := plugins/whisperd-ctranslate2 plugins/whisperd-whispercpp
# The newest Python that works, unless PYTHON names one. A version manager may offer names that do not run.
PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$name" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo "$$name" && break; done)

# Tests start a thousand processes, each of which compiles the program anew where no byte code is kept.
unexport PYTHONDONTWRITEBYTECODE
# Each worker takes tests in a row: a daemon that the tests of a module share is started once, not by both.
PYTEST := $(BIN)/pytest -q -n 2 --dist=worksteal

.PHONY: help setup check lint types test test-quick test-gpu torture soak fuzz demo play install uninstall bench lock lock-dev docs walk wheels clean
.DEFAULT_GOAL := help

help: ## list these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make the environment that developing needs

$(VENV)/.ready: requirements/dev.txt pyproject.toml $(PLUGINS:%=%/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 with venv and pip is needed (on Debian: apt install python3-venv)."; exit 1; }
	@# One that was interrupted while it was made has no pip, and is made anew.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(PLUGINS:%=-e ./%) -e .
	@touch $@

check: lint types test-quick ## what to run before every commit: lint, types, quick tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# A part of their time is waiting, for which a third worker makes up.
test-quick: setup
	$(PYTEST) -n 3 --hypothesis-profile=quick -m "not real and not slow"

test: lint types ## all checks and all tests
	$(PYTEST)

test-gpu: setup ## what needs an NVIDIA GPU; without one it says so and does nothing
	$(BIN)/python tests/gpu/run.py

torture: setup ## 200 clients and 10 runtimes, 24 and everything else, for a minute each; a watched tree and jobs, killed in them a hundred times
	WHISPERD_TORTURE_S=60 $(BIN)/pytest -q -s tests/runtimes/test_torture.py tests/daemon/test_crowd_torture.py
	WHISPERD_TORTURE_ROUNDS=100 $(BIN)/pytest -q -s tests/watch/test_watch_torture.py
	WHISPERD_TORTURE_ROUNDS=100 $(BIN)/pytest -q -s tests/jobs/test_job_torture.py

soak: setup ## everything with one daemon for an hour (WHISPERD_SOAK_S), killed in it what can be: nothing may grow or get lost
	WHISPERD_SOAK_S=$${WHISPERD_SOAK_S:-3600} $(BIN)/pytest -q -s tests/daemon/test_soak.py

fuzz: setup ## whatever reads what it cannot trust, hammered for half an hour on two cores; WHISPERD_FUZZ_EXAMPLES says how hard
	$(PYTEST) --timeout=3600 --hypothesis-profile=fuzz -m hypothesis

demo: ## install into a throw-away folder, fetch what is needed, transcribe a recording, print the text
	@PYTHON="$(PYTHON)" sh scripts/demo.sh

play: ## the same, but keep the daemon running in a shell of its own
	@PYTHON="$(PYTHON)" sh scripts/demo.sh --play

wheels: ## build the wheels into dist/
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 with venv and pip is needed (on Debian: apt install python3-venv)."; exit 1; }
	@PYTHON="$(PYTHON)" sh scripts/wheels.sh dist

install: wheels ## put whisperd and whisperctl on your path (PREFIX, ~/.local)
	@PYTHON="$(PYTHON)" PREFIX="$(PREFIX)" sh scripts/install.sh

uninstall: ## take them away again; recordings, models and settings stay
	@PREFIX="$(PREFIX)" sh scripts/install.sh --remove

bench: setup ## measure, against faster-whisper; prints a table and writes benchmarks/results/
	$(BIN)/python benchmarks/run.py

lock: setup ## renew the locks of the native bundles from the package index
	$(BIN)/python -m whisperd.natives.make_lock scripts/bundles.toml

lock-dev: wheels ## renew requirements/dev.txt
	build/wheels-venv/bin/python -m pip install --quiet uv
	build/wheels-venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--find-links dist --no-emit-package whisperd-ctranslate2 --no-emit-package whisperd-whispercpp --no-emit-find-links --no-emit-index-url \
		pyproject.toml requirements/dev.in -o requirements/dev.txt

docs: setup ## renew the pages that are made from the program
	$(BIN)/python scripts/command_docs.py
	$(BIN)/python scripts/runtimes_page.py
	$(BIN)/python scripts/service_files.py

walk: setup ## run the commands of docs/runtimes.md and keep what they print
	$(BIN)/python scripts/runtimes_page.py --outputs

clean: ## delete what was built and downloaded here
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
