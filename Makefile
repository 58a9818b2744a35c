# `make demo` needs Python 3.10 or newer (with venv), git and make; `make test` needs Java 17 or newer too.
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
BENCH_BIN := .venv-bench/bin
SERVER_BIN := .venv-server/bin
SERVICES_BIN := .venv-services/bin
OLDEST_BIN := .venv-oldest/bin
NEWEST_BIN := .venv-newest/bin
# What the lanes of oldest and newest dependencies run; LANE="..." chooses.
LANE ?= tests/unit tests/contract tests/behaviour tests/conformance tests/compat tests/cli
# docs/reference/cli.md is the help as the locked versions print it.
LANE_OPTIONS := --ignore=tests/cli/test_reference.py
# Where `make server` listens, and what it stores in.
PORT ?= 2024
STORE ?= file://$(CURDIR)/.server-store
# Two processes, with emulators of their own: tests of one file share what they set up, and stay together. Files run in the
# order of their names, so the short ones of tests/unit come last, and both processes end at about the same time.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

# Tests start hundreds of interpreters, and each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lint format soak notebooks docs bench server dist test-dist test-oldest test-newest test-storage emulators lock clean

demo: .venv/installed
	$(BIN)/langgraph-gcs demo $(DEMO)

test: lint emulators .venv-services/installed
	$(BIN)/pytest $(PARALLEL)

# A minute, without Java: modules one by one, the stores without a service, and stores of earlier formats.
quick: .venv/installed
	$(BIN)/pytest $(PARALLEL) -k "not emulators" tests/unit tests/compat \
		tests/contract/test_local.py tests/contract/test_memory.py tests/contract/test_rows.py

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m tests.twins --check
	$(BIN)/mypy
	$(BIN)/python -m tests.docs.prose

format: .venv/installed
	$(BIN)/python -m tests.twins
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: .venv/installed .venv-server/installed .venv-services/installed
	$(BIN)/pytest $(PARALLEL) -m soak

# Executes the notebooks and writes their outputs; NOTEBOOKS=notebooks/01-quickstart.ipynb executes one of them.
notebooks: .venv/installed
	$(BIN)/python -m tests.notebooks $(NOTEBOOKS)

# Beside other savers; needs Python 3.11, Java, and PostgreSQL's server. BENCH="--help" shows the choices.
bench: .venv-bench/installed
	$(BENCH_BIN)/python -m tests.emulators --check
	$(BENCH_BIN)/python -m benchmarks.compare $(BENCH)

# The site, in site/; a warning is an error. The variable hides the theme's news about its successor.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# LangGraph's server on 127.0.0.1 with the example of docs/guides/langgraph-server.md; needs Python 3.11.
server: .venv-server/installed
	cd docs/examples/langgraph-server && LANGGRAPH_GCS_STORE="$(STORE)" \
	  LANGGRAPH_CLI_NO_ANALYTICS=1 "$(CURDIR)/$(SERVER_BIN)/langgraph" dev --no-browser --port $(PORT)

# The sdist, and the wheel made of it, in dist/; the build backend is one of the locked requirements.
dist: .venv/installed
	rm -rf dist
	$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist
	@ls dist

# Tests what is in dist/, as installed; DIST_DIR=... names another folder.
test-dist: .venv/installed
	@test -n "$(wildcard $(or $(DIST_DIR),dist)/*.whl)" || { echo "There is no wheel in $(or $(DIST_DIR),dist): make dist"; exit 1; }
	DIST_DIR=$(or $(DIST_DIR),dist) $(BIN)/pytest -m "soak or not soak" tests/packaging

# On the oldest dependencies that pyproject.toml allows; needs Python 3.10 to 3.13.
test-oldest: .venv-oldest/installed
	$(OLDEST_BIN)/python -m tests.emulators --check
	$(OLDEST_BIN)/pytest $(PARALLEL) $(LANE_OPTIONS) $(LANE)

# On the newest releases of all dependencies, of today and not of the lock.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	$(NEWEST_BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(NEWEST_BIN)/uv pip install --quiet --python $(NEWEST_BIN)/python --upgrade -e ".[cli]" --group test
	$(NEWEST_BIN)/python -m tests.emulators --check
	$(NEWEST_BIN)/pytest $(PARALLEL) $(LANE_OPTIONS) $(LANE)

# The contract of the stores on another Cloud Storage service than our emulator: STORAGE_EMULATOR_HOST=http://...
test-storage: emulators
	@test -n "$(STORAGE_EMULATOR_HOST)" || { echo "Set STORAGE_EMULATOR_HOST to the service's URL"; exit 1; }
	$(BIN)/pytest tests/contract/test_google.py -k TestGoogle

# Finds the Firestore emulator and promtool, or fetches them, or says how to get them.
emulators: .venv/installed
	$(BIN)/python -m tests.emulators --check

.venv/installed: pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; call make with PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

.venv-bench/installed: pyproject.toml requirements-bench.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The savers to compare with need Python 3.11 or newer; call make with PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv --clear .venv-bench
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BENCH_BIN)/uv pip install --quiet --python $(BENCH_BIN)/python --require-hashes -r requirements-bench.txt
	$(BENCH_BIN)/uv pip install --quiet --python $(BENCH_BIN)/python --no-deps -e .
	@touch $@

.venv-server/installed: pyproject.toml requirements-server.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "LangGraph's server needs Python 3.11 or newer; call make with PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv --clear .venv-server
	$(SERVER_BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(SERVER_BIN)/uv pip install --quiet --python $(SERVER_BIN)/python --require-hashes -r requirements-server.txt
	$(SERVER_BIN)/uv pip install --quiet --python $(SERVER_BIN)/python --no-deps -e .
	@touch $@

# uv finds a Python for it, whichever the rest uses.
.venv-services/installed: .venv/installed pyproject.toml requirements-services.txt
	$(BIN)/uv venv --quiet --clear --python ">=3.11" .venv-services
	$(BIN)/uv pip install --quiet --python $(SERVICES_BIN)/python --require-hashes -r requirements-services.txt
	@touch $@

.venv-oldest/installed: pyproject.toml requirements-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "The oldest dependencies need Python 3.10 to 3.13; call make with PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv --clear .venv-oldest
	$(OLDEST_BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(OLDEST_BIN)/uv pip install --quiet --python $(OLDEST_BIN)/python --require-hashes -r requirements-oldest.txt
	$(OLDEST_BIN)/uv pip install --quiet --python $(OLDEST_BIN)/python --no-deps -e .
	@touch $@

# After changing dependencies in pyproject.toml. Hashes pin every file; no address is written down.
lock:
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --group dev --universal --generate-hashes \
	  --python-version 3.10 --no-annotate --upgrade -o requirements-dev.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --group bench --universal --generate-hashes \
	  --python-version 3.11 --no-annotate --upgrade -c requirements-dev.txt -o requirements-bench.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --group server --universal --generate-hashes \
	  --python-version 3.11 --no-annotate --upgrade -o requirements-server.txt
	$(BIN)/uv pip compile --quiet --group services --universal --generate-hashes \
	  --python-version 3.11 --no-annotate --upgrade -o requirements-services.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --group test --universal --generate-hashes \
	  --python-version 3.10 --no-annotate --resolution lowest-direct --upgrade -o requirements-oldest.txt

clean:
	rm -rf .venv .venv-bench .venv-server .venv-services .venv-oldest .venv-newest dist site \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis
