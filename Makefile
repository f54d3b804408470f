# Each target makes what it needs, from nothing but Python, pip and make.

PYTHON ?= python3
UPGRADE ?=

VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an installation that broke off is begun anew.
INSTALLED := $(VENV)/.installed
LOCK_VENV := .venv-lock
BENCH_VENV := .venv-bench
UV_COMPILE := ../$(LOCK_VENV)/bin/uv pip compile --quiet --no-config --universal \
	--python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
	--no-emit-find-links $(UPGRADE)
LOCK_HEADER := '\# Made by "make lock" from the dependencies in pyproject.toml. Do not edit.'

.DEFAULT_GOAL := help
.PHONY: help setup demo test static check cover crash fuzz soak million protocol bench bench-quick \
	bench-peers lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv with everything that tollgate and its tests need

# The lock files name everything, so nothing is to be resolved: a newer release of a dependency that
# another one asks for with extras would stop pip here.
$(INSTALLED): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "tollgate needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --no-deps -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@touch $@

demo: setup ## a broker, workers and a producer, live, with real jobs
	$(BIN)/tollgate demo

test: setup ## all tests
	$(BIN)/pytest -n auto

static: setup ## all checks that run nothing: style, types, import rules, spelling, dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/deptry .
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/hadolint Dockerfile

check: static cover ## what must pass before a commit: static, then all tests with their coverage

cover: setup ## all tests, with line and branch coverage; below 95 percent is an error
	$(BIN)/coverage erase
	$(BIN)/pytest -n auto --cov --cov-report=term --cov-report=html --cov-fail-under=95

crash: setup ## kill the broker a hundred times under load, and look for what is lost (minutes)
	$(BIN)/python -m tests.crash --kills 100
	$(BIN)/python -m tests.crash --commands 1000000 --kills 20
	$(BIN)/python -m tests.crash --term 50 --seconds 60
	$(BIN)/python -m tests.crash --kills 4 --in-snapshot --segment-bytes 4194304 --input-bytes 1000 \
		--seconds 30

fuzz: setup ## a million damaged frames for the core, a hundred thousand for a running broker
	$(BIN)/python -m tests.fuzz
	FUZZ_EXAMPLES=20000 $(BIN)/pytest -q --timeout 900 tests/fuzz/test_shapes.py

soak: setup ## attacks, 10,000 clients and ten million commands (a quarter of an hour)
	$(BIN)/python -m tests.soak --write docs/reliability.md

million: setup ## a million steps of the core, with a fixed clock and seed: prints their digest
	$(BIN)/python -m tests.million

protocol: setup ## write the examples in docs/protocol.md anew
	$(BIN)/python -m tests.test_protocol_examples --write

# The peers' libraries stay out of .venv.
$(BENCH_VENV)/.installed: pyproject.toml requirements/bench.txt
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --no-deps -r requirements/bench.txt
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@touch $@

bench-peers:
	@command -v redis-server >/dev/null && command -v beanstalkd >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get install -y redis-server beanstalkd; } \
		|| echo "redis-server or beanstalkd is missing: what needs it is skipped" >&2

bench: bench-peers $(BENCH_VENV)/.installed ## measure all beside Redis and others, into docs/performance.md
	$(BENCH_VENV)/bin/python -m benchmarks

bench-quick: bench-peers $(BENCH_VENV)/.installed ## the ratios beside Redis and others, one a line
	$(BENCH_VENV)/bin/python -m benchmarks --quick

# Pins stay as they are while they fit; "make lock UPGRADE=--upgrade" takes the newest.
# Run inside requirements/, so that nothing of this machine's paths gets into the files.
lock: $(LOCK_VENV)/.installed ## pin the dependencies anew, with hashes, in requirements/
	cd requirements && $(UV_COMPILE) --group ../pyproject.toml:dev -o dev.txt ../pyproject.toml
	cd requirements && $(UV_COMPILE) -c dev.txt -o runtime.txt ../pyproject.toml
	cd requirements && $(UV_COMPILE) -c dev.txt -o build.txt --group ../pyproject.toml:build
	cd requirements && $(UV_COMPILE) -c dev.txt -o bench.txt --group ../pyproject.toml:bench \
		../pyproject.toml
	for file in dev runtime build bench; do \
		{ echo $(LOCK_HEADER); grep -v '^#' requirements/$$file.txt; } > requirements/$$file.new \
		&& mv requirements/$$file.new requirements/$$file.txt || exit 1; \
	done
	! grep -n -E '://|^-' requirements/*.txt

$(LOCK_VENV)/.installed:
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/pip install --quiet --disable-pip-version-check uv
	@touch $@

clean: ## remove all that was made, .venv included
	rm -rf $(VENV) $(LOCK_VENV) $(BENCH_VENV) build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache \
		.pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
