# Two commands for a newcomer: `make quickstart` and `make test`. Both need only Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/quickstart

.PHONY: quickstart test test-long test-peers test-cluster test-llama check wheel clean

quickstart: .venv/ready
	$(BIN)/pocketlm run quickstart --out $(OUT)

test: .venv/ready-development check
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long"

test-long: .venv/ready-development
	$(BIN)/python -m pytest -m long

# Against the libraries that users would pick, and on a local Ray cluster; in an environment of their own.
test-peers: .venv-peers/ready
	.venv-peers/bin/python -m pytest tests/peers

test-cluster: .venv-peers/ready
	.venv-peers/bin/python -m pytest tests/cluster

# Exported GGUF files in llama.cpp, which is compiled into an environment of its own: minutes to an hour.
test-llama: .venv/ready-development .venv-llama/ready
	LLAMA_PYTHON=.venv-llama/bin/python $(BIN)/python -m pytest tests/llama

check: .venv/ready-development
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: .venv/ready-development
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pocketlm needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/ready-development: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[development]'
	touch $@

.venv-peers/ready: pyproject.toml constraints.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint constraints-peers.txt --editable '.[development,peers]'
	touch $@

.venv-llama/ready: constraints-peers.txt
	test -x .venv-llama/bin/python || $(PYTHON) -m venv .venv-llama
	.venv-llama/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-peers.txt \
		llama-cpp-python numpy
	touch $@

clean:
	rm -rf .venv .venv-peers .venv-llama build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
