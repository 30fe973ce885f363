# Everything below works on a machine that has nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# two test processes on two cores, each with one thread, beat one process with two
WORKERS ?= 2
export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: demo test test-long lint docs clean

demo: $(VENV)/installed
	$(BIN)/sensorium demo --out demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not long" tests

test-long: $(VENV)/installed
	$(BIN)/python -m pytest -m long tests

lint: $(VENV)/installed
	$(BIN)/ruff check src tests scripts
	$(BIN)/ruff format --check src tests scripts
	$(BIN)/mypy
	$(BIN)/python scripts/write_docs.py --check

docs: $(VENV)/installed
	$(BIN)/python scripts/write_docs.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed: make PYTHON=python3.12 ...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group test --group lint
	touch $@

clean:
	rm -rf $(VENV) demo dist build
