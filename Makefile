# `make demo` and `make test` do all the set-up: they need Python >= 3.10, make and a package index.
PYTHON ?= python3
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
MINUTES ?= 5
SEED ?= 1
BIN := .venv/bin

.PHONY: demo test test-slow check format

demo: .venv/ready
	$(BIN)/python examples/demo.py --minutes $(MINUTES) --seed $(SEED)

test: .venv/ready
	$(PYTEST) -m "not slow"

test-slow: .venv/ready
	$(PYTEST) -m slow

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet uv
	@# With bytecode, as pip does: the first prediction then takes half the time.
	VIRTUAL_ENV=.venv $$(command -v uv || echo $(BIN)/uv) pip install --quiet --compile-bytecode --editable '.[export,serve,bulk]' --group dev
	touch $@
