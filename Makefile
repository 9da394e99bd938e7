# `make serve` and `make test` set up what they need; the rest is for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests start hundreds of processes; without its bytecode, each would compile the package again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve test check fmt lock test-clients test-docker fuzz bench clean

serve: $(VENV)/serve.stamp
	@$(BIN)/hubmirror demo
	@exec $(BIN)/hubmirror serve

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 3

# Every client in an environment of its own, below .venvs/: some GB, and some minutes.
test-clients: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests/clients tests/openllm -n 2 -m ""

# The images and docker-compose.yml, by a Docker engine that the tests start as root: ten minutes.
# HUBMIRROR_TEST_DOCKER names a folder that keeps what was built for the next time.
test-docker: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests/docker -m docker

# Wrong bytes of every sort, in numbers: some ten minutes. `make test` tries fewer of them.
FUZZ ?= 20
fuzz: $(VENV)/dev.stamp
	HUBMIRROR_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/fuzz -n 2 --timeout 1800

# The mirror beside nginx (Debian: nginx-light), and a mirror of many repositories: a quarter of an hour.
bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/xet.py
	$(BIN)/python benchmarks/filling.py
	$(BIN)/python benchmarks/scale.py

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

fmt: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pin what pyproject.toml asks for. It needs uv, and names no index in what it writes.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url
ALL := pyproject.toml --extra bentoml --extra openllm
lock:
	$(LOCK) $(ALL) --group build -o requirements.txt
	$(LOCK) --group build -c requirements.txt -o requirements-build.txt
	$(LOCK) pyproject.toml -c requirements.txt -o requirements-slim.txt
	$(LOCK) $(ALL) --group dev -c requirements.txt -o requirements-dev.txt

clean:
	rm -rf $(VENV) .venvs

$(VENV)/serve.stamp: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hubmirror needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV), which takes a minute …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/serve.stamp requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
