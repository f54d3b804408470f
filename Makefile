# Each target prepares what it needs, from Python, pip and make alone.

PYTHON ?= python3
UPGRADE ?=

VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an interrupted installation starts again.
INSTALLED := $(VENV)/.installed
LOCK_VENV := .venv-lock
BENCH_VENV := .venv-bench
JUDGES_VENV := .venv-judges
PROMETHEUS := .prometheus
SDK_VENV := .venv-sdk
UV_COMPILE := ../$(LOCK_VENV)/bin/uv pip compile --quiet --no-config --universal \
	--python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
	--no-emit-find-links $(UPGRADE)
LOCK_HEADER := '\# Made by "make lock" from the dependencies in pyproject.toml. Do not edit.'

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-masumi test test-full static check cover crash chaos feed fuzz soak torture million \
	settlement hiring masumi-sdk hashes judges protocol twin bench bench-quick bench-peers lock clean

# The tests start hundreds of processes. Without compiled modules each would compile ours again.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list of all commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## create .venv with everything that tollgate and its tests need

# The lock files name every package, so pip resolves nothing. With resolving, a newer release of a
# dependency that another one requires with extras would stop pip.
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

demo: setup ## run a broker, workers and a producer live, with real jobs
	$(BIN)/tollgate demo

demo-masumi: setup ## hire over HTTP, pay, work and prove live, with a stand-in for the payment service
	$(BIN)/python -m tests.masumi_demo

# Two workers a core: most tests wait for processes (tests/conftest.py). A worker that has finished
# its tests takes over half of what another one has left, so module-scoped brokers stay few.
PYTEST_PARALLEL := -n auto --dist worksteal

test: setup ## run all tests; of the long suites, a sample
	$(BIN)/pytest $(PYTEST_PARALLEL)

test-full: setup ## run all tests, and the long suites completely
	$(BIN)/pytest $(PYTEST_PARALLEL) --full --timeout 300

static: setup ## check style, types, import rules, spelling, dependencies and configuration files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/deptry .
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/hadolint Dockerfile

check: static cover ## run static and cover: what must pass before a commit

cover: setup ## run all tests and measure line and branch coverage; fail below 95 percent
	$(BIN)/coverage erase
	$(BIN)/pytest $(PYTEST_PARALLEL) --cov --cov-report=term --cov-report=html --cov-fail-under=95

crash: setup ## kill the broker a hundred times under load, and check that nothing is lost (minutes)
	$(BIN)/python -m tests.crash --kills 100
	$(BIN)/python -m tests.crash --commands 1000000 --kills 20
	$(BIN)/python -m tests.crash --term 50 --seconds 60
	$(BIN)/python -m tests.crash --kills 4 --in-snapshot --segment-bytes 4194304 --input-bytes 1000 \
		--seconds 30

chaos: setup ## kill workers, brokers and children while jobs go wrong in every way (minutes)
	$(BIN)/python -m tests.chaos --jobs 200 --kills 30

settlement: setup ## kill watchers, workers and brokers while results are proved on chain (minutes)
	$(BIN)/python -m tests.settlement --jobs 200 --kills 60
	$(BIN)/python -m tests.settlement.pages --pages 1000 --restarts 20

# The SDK stays out of .venv: it pulls in packages that nothing else needs.
$(SDK_VENV)/.installed: pyproject.toml requirements/sdk.txt
	@test -x $(SDK_VENV)/bin/python || $(PYTHON) -m venv $(SDK_VENV)
	$(SDK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --no-deps -r requirements/sdk.txt
	$(SDK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@touch $@

masumi-sdk: $(SDK_VENV)/.installed ## run the real Masumi SDK over tollgate, and kill its web workers (minutes)
	$(SDK_VENV)/bin/python -m pytest -q -p no:cacheprovider tests/masumi_sdk
	$(SDK_VENV)/bin/python -m tests.masumi_sdk --jobs 40 --asking 12
	$(SDK_VENV)/bin/python -m tests.masumi_sdk --jobs 40 --asking 12 --kills 12 --faults 0.1 --seconds 300

hiring: setup ## kill gateways, watchers, workers and brokers while buyers hire over HTTP (minutes)
	$(BIN)/python -m tests.hiring --jobs 200 --kills 30

feed: setup ## hold replicas made from the event feed against a broker that is killed (minutes)
	$(BIN)/python -m tests.feed --events 1000000 --kills 20
	$(BIN)/python -m tests.feed.crowd

fuzz: setup ## send a million damaged frames to the core, and 100,000 to a broker (minutes)
	$(BIN)/python -m tests.fuzz
	FUZZ_EXAMPLES=20000 $(BIN)/pytest -q --timeout 900 tests/fuzz/test_shapes.py

soak: setup ## run attacks, 10,000 clients and ten million commands (15 minutes)
	$(BIN)/python -m tests.soak --write docs/reliability.md

torture: setup ## torture broker, workers and producers with random faults (11 minutes)
	$(BIN)/python -m tests.torture --seconds 600 --seed 14

million: setup ## run a million commands with a fixed clock and seed, and print their digest
	$(BIN)/python -m tests.million

twin: setup ## make the calls of the blocking client from those of the asyncio client
	$(BIN)/python -m tests.blocking_calls

protocol: setup ## regenerate the examples and pictures in docs/protocol.md
	$(BIN)/python -m tests.protocol_page

hashes: setup ## hash random inputs and outputs anew with a canonicaliser of npm; needs Node.js
	cd tests/hashing && npm ci
	$(BIN)/python -m tests.hashing.cases

# What schemathesis needs stays out of .venv.
$(JUDGES_VENV)/.installed: requirements/judges.txt
	@test -x $(JUDGES_VENV)/bin/python || $(PYTHON) -m venv $(JUDGES_VENV)
	$(JUDGES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --no-deps -r requirements/judges.txt
	@touch $@

# Debian's package, unpacked: nothing is installed, and no service starts.
$(PROMETHEUS)/.installed:
	@rm -rf $(PROMETHEUS) && mkdir $(PROMETHEUS)
	cd $(PROMETHEUS) && apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb unpacked \
		&& mv unpacked/usr . && rm -r unpacked prometheus_*.deb
	@touch $@

judges: setup $(JUDGES_VENV)/.installed ## let programs of others judge schemas, hashes, OpenAPI and metrics; needs Node.js
	command -v promtool >/dev/null || $(MAKE) $(PROMETHEUS)/.installed \
		|| echo "prometheus cannot be had with apt-get: its tests are skipped" >&2
	cd tests/judges && npm ci
	cd tests/hashing && npm ci
	$(BIN)/pytest tests/judges tests/hashing

# The libraries of other job queues stay out of .venv.
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
		|| echo "redis-server or beanstalkd is missing: their benchmarks are skipped" >&2

bench: bench-peers $(BENCH_VENV)/.installed ## run all benchmarks beside Redis and others, and update docs/performance.md
	$(BENCH_VENV)/bin/python -m benchmarks

bench-quick: bench-peers $(BENCH_VENV)/.installed ## print the ratios to Redis and others, one a line
	$(BENCH_VENV)/bin/python -m benchmarks --quick

# Pins stay as long as they are valid; "make lock UPGRADE=--upgrade" takes the newest.
# It runs inside requirements/, so that no path of this machine gets into the files.
lock: $(LOCK_VENV)/.installed ## pin all dependencies with hashes in requirements/
	cd requirements && $(UV_COMPILE) --group ../pyproject.toml:dev -o dev.txt ../pyproject.toml
	cd requirements && $(UV_COMPILE) -c dev.txt --extra masumi --extra gateway --extra metrics -o runtime.txt ../pyproject.toml
	cd requirements && $(UV_COMPILE) -c dev.txt -o build.txt --group ../pyproject.toml:build
	cd requirements && $(UV_COMPILE) -c dev.txt -o judges.txt --group ../pyproject.toml:judges
	cd requirements && $(UV_COMPILE) -c dev.txt -o bench.txt --group ../pyproject.toml:bench \
		../pyproject.toml
	cd requirements && $(UV_COMPILE) -c dev.txt --extra masumi -o sdk.txt --group ../pyproject.toml:sdk \
		../pyproject.toml
	for file in dev runtime build judges bench sdk; do \
		{ echo $(LOCK_HEADER); grep -v '^#' requirements/$$file.txt; } > requirements/$$file.new \
		&& mv requirements/$$file.new requirements/$$file.txt || exit 1; \
	done
	! grep -n -E '://|^-' requirements/*.txt

$(LOCK_VENV)/.installed:
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/pip install --quiet --disable-pip-version-check uv
	@touch $@

clean: ## remove all generated files, .venv too
	rm -rf $(VENV) $(LOCK_VENV) $(BENCH_VENV) $(JUDGES_VENV) $(SDK_VENV) $(PROMETHEUS) build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache \
		.pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
