# Every target sets up what it needs in .venv; nothing has to be installed by hand.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1
export MUJOCO_GL ?= egl

.PHONY: demo test test-slow lint type format docs-check install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps safety-gymnasium==1.0.0  # its own pins are of 2023
	touch $@

# The main job: Recovery RL against plain SAC on Navigation 2, from nothing but this clone.
demo: .venv/installed
	$(BIN)/safe-bench run recovery-rl/demo --jobs 2 --out demo
	$(BIN)/safe-bench report recovery-rl/demo --out demo --to demo/report

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Doctests of all modules, every Python block of README and docs, and the examples.
docs-check: .venv/installed
	$(BIN)/python -m pytest -n 2 tests/test_docs.py

clean:
	rm -rf .venv demo
