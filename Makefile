# make demo    a simulated night through the whole chain
# make test    all checks and tests
# make truth   the accuracy table   -> build/truth.json
# make bench   the speed table      -> build/bench.json
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONHASHSEED = 0
# A run starts dozens of interpreters: without compiled modules each takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint check truth bench test-external install lock generate clean

install: $(STAMP)

$(STAMP): envs/requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: install
	$(BIN)/skymill demo build/demo

test: lint check

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --lint
	$(BIN)/mypy

check: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not external"

truth: install
	$(BIN)/python -m bench.truth

bench: install
	$(BIN)/python -m bench.bench

# Uses the real SWarp and Slurm from the system's packages where they can be installed.
test-external: install
	bench/external.sh
	$(BIN)/python -m pytest -m external

# Needs uv; run after a change of the dependencies.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --extra dev pyproject.toml -o envs/requirements.txt

generate: install
	$(BIN)/python -m skymill.settings

clean:
	rm -rf build dist
