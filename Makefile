# make install       a virtual environment in .venv with everything, quick when nothing changed
# make demo          real Jacobians from a local service on this machine
# make test          all tests
# make lint          ruff, mypy, and what is generated against what it is generated from
# make conformance   all of JAX's catalogue of primitives, of which make test tries a tenth
# make bench         the benchmarks, next to their floors
# make clean         removes what the other targets made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# More would fight for cores with the servers that they start.
IN_PARALLEL := --numprocesses 2
SOURCES := proto client server worker tests

.PHONY: install demo test conformance lint format bench constraints clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Jacloom needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try: make install PYTHON=python3.12")'
	@# Some distributions ship Python without the module that puts pip into a new environment; their pip can do it from outside.
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --clear --without-pip $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install pip
	$(BIN)/python -m pip install --quiet --editable '.[server,dev]' --constraint constraints.txt
	@touch $@

demo: install
	$(BIN)/jacloom demo

test: install
	$(BIN)/python -m pytest $(IN_PARALLEL) --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python proto/generate.py --check
	$(BIN)/python docs/generate.py --check

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: install
	$(BIN)/python -m pytest $(IN_PARALLEL) --dist worksteal tests/conformance --whole-catalogue

bench: install
	$(BIN)/python -m benchmarks

# Asks the package index for the newest versions that pyproject.toml allows and writes them down.
constraints:
	rm -rf $(VENV)-fresh
	$(PYTHON) -m venv $(VENV)-fresh
	$(VENV)-fresh/bin/python -m pip install --quiet '.[server,cluster,dev]'
	{ sed -n '/^#/p' constraints.txt; $(VENV)-fresh/bin/python -m pip freeze --exclude jacloom; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-fresh

clean:
	rm -rf $(VENV) $(VENV)-fresh build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
