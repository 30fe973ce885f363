# Everything below works on a machine that has nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
# two test processes on two cores, each with one thread, beat one process with two
WORKERS ?= 2
export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: demo test test-long test-page lint docs bench bench-autogluon clean

demo: $(VENV)/installed
	$(BIN)/sensorium demo --out demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not long and not page" tests

test-long: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group fuzz
	$(BIN)/python -m pytest -m long tests

# Needs Debian's chromium and chromium-driver, or others of the same names.
test-page: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m page tests/serving/test_page.py

lint: $(VENV)/installed
	$(BIN)/ruff check --no-cache src tests scripts benchmarks
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/mypy
	$(BIN)/python scripts/write_docs.py --check

# `make bench ONLY=infonce`; `make bench ONLY="data startup" THREADS=1`
THREADS ?= 2
bench: $(BENCH)/installed
	$(BENCH)/bin/python benchmarks/run.py $(ONLY) --threads $(THREADS)
	$(BENCH)/bin/python benchmarks/table.py

# AutoGluon wants other versions than constraints.txt has, so it lives in a third environment.
bench-autogluon: .venv-autogluon/installed
	.venv-autogluon/bin/python benchmarks/run.py late_fusion --threads $(THREADS)
	.venv-autogluon/bin/python benchmarks/table.py

docs: $(VENV)/installed
	$(BIN)/python scripts/write_docs.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed: make PYTHON=python3.12 ...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group test --group lint
	touch $@

# The peers live apart: nothing of the package or its tests needs them.
$(BENCH)/installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BENCH)/bin/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BENCH)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[all]"
	$(BENCH)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	touch $@

.venv-autogluon/installed: pyproject.toml
	$(PYTHON) -m venv .venv-autogluon
	.venv-autogluon/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-autogluon/bin/python -m pip install --quiet "torch==2.13.0" "autogluon.multimodal==1.6.3" --editable ".[all]"
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) .venv-autogluon demo dist build
