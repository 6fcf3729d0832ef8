# Everything a fresh machine with Python >= 3.11 needs: `make demo`, `make test`. `make help` lists the rest.
#   make demo ARGS="--help"     make test ARGS="-k ragged"     make test PYTHON=/opt/python3.12/bin/python3

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?=
ARGS ?=
LIVE_ARGS ?=
GUI_ARGS ?=

BIN := $(VENV)/bin
PY := $(BIN)/python
SETUP := setup.cfg pyproject.toml
KERNELS := $(wildcard libstream/kernels/*.py udfs/*.py udfs/kernels/*.py)

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types contracts package docs bench soak warmup links clean distclean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:
	@echo "make demo      a simulated detector streams, UDFs process it live, a page shows it (ARGS=--headless: one scan and a summary)"
	@echo "make test      all tests (ARGS=... are passed to pytest)"
	@echo "make check     what CI does after the tests: lint, types, import contracts, packaging"
	@echo "make docs      write docs/reference anew from the docstrings"
	@echo "make bench     benchmarks, written to docs/reference/performance.md, scaling.md (ARGS= of those of files, LIVE_ARGS= of live ones, GUI_ARGS= of the page)"
	@echo "make soak      long proofs, written with their date to docs/reference/soak.md"
	@echo "make warmup    compile the kernels of the built-in UDFs into the user's cache"
	@echo "make clean     remove what was built; make distclean: the environment too"

# -- set-up ------------------------------------------------------------------------------------------------------------

$(PY):
	@set -e; \
	ok() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	found=; \
	if [ -n "$(PYTHON)" ]; then \
		ok "$(PYTHON)" || { echo "PYTHON=$(PYTHON) is not a Python >= 3.11: $$("$(PYTHON)" --version 2>&1)" >&2; exit 1; }; \
		found="$(PYTHON)"; \
	else \
		for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
			if ok $$p; then found=$$p; break; fi; \
		done; \
		[ -n "$$found" ] || { echo "libstream needs Python >= 3.11; found: $$(python3 --version 2>&1)." \
			"Install one and run: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv "$(VENV)" || { rm -rf "$(VENV)"; \
		echo "$$found cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv (or python3.12-venv ...)" >&2; \
		exit 1; }

# a stamp for each set of extras, so that nothing is installed twice
$(VENV)/.installed-%: $(SETUP) | $(PY)
	@echo "installing libstream[$*] into $(VENV)"
	@$(PY) -m pip install -qq --disable-pip-version-check --editable ".[$*]"
	@touch $@

# what the demo needs; tests compile what they use, and `make warmup` compiles all
$(VENV)/.warm-demo: $(VENV)/.installed-all $(KERNELS)
	@$(BIN)/libstream warmup CenterOfMass Sum VirtualDetector --dtype uint16
	@touch $@

warmup: $(VENV)/.installed-all
	@$(BIN)/libstream warmup

# -- use ---------------------------------------------------------------------------------------------------------------

demo: $(VENV)/.warm-demo
	@$(BIN)/libstream demo $(ARGS)

test: $(VENV)/.installed-test
	@$(PY) -m pytest tests --ignore=tests/bench $(ARGS)

bench: $(VENV)/.installed-test warmup
	@$(PY) -m tests.bench $(ARGS)
	@$(PY) -m tests.bench.live --page $(LIVE_ARGS)
	@mkdir -p build && $(PY) -m tests.bench.scale_rates --json build/scale.json
	@$(PY) -m tests.bench.scale_sim --rates build/scale.json --page >/dev/null
	@$(PY) -m tests.bench.gui --page $(GUI_ARGS)

soak: $(VENV)/.installed-test
	@$(PY) -m tests.system.soak $(ARGS)

docs: $(VENV)/.installed-all
	@$(PY) docs/reference/build.py

# -- what CI does after the tests --------------------------------------------------------------------------------------

check: lint types contracts package
	@echo "make check: all passed"

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format" >&2; exit 1; }

links: $(PY)
	@$(PY) tests/links.py >/dev/null

types: $(VENV)/.installed-dev links
	@$(BIN)/mypy

contracts: $(VENV)/.installed-dev links
	@cd build/links && "$(abspath $(BIN))/lint-imports" --config ../../setup.cfg --no-cache --no-logo

package: $(VENV)/.installed-test
	@$(PY) -m tests.packaging.dist

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage demo-output
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)" .venv-interop
