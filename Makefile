# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= python3

.DELETE_ON_ERROR:
.PHONY: demo test lint bench requirements clean

demo: $(VENV)/.installed  ## generate data, train, evaluate, predict; names report.html
	$(VENV)/bin/tercel demo

# Two test processes on one thread each: more threads than cores wait for each other.
test: $(VENV)/.installed lint  ## lint, types, tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -q

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.installed  ## every figure in docs/benchmarks.md (about two hours on two quiet cores)
	$(PY) -m benchmarks

# uv is taken from the PATH, else from a small environment of its own, so that pip never has to match torch wheels.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv

$(VENV)/.installed: requirements.txt pyproject.toml | $(filter .uv/bin/uv,$(UV))
	test -x $(PY) || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	touch $@

requirements: | $(filter .uv/bin/uv,$(UV))  ## pin and hash again (no registry host is written)
	$(UV) pip compile pyproject.toml --extra dev --extra build --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --no-emit-index-url --upgrade --quiet --output-file requirements.txt

clean:
	rm -rf $(VENV) .uv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
