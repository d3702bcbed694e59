# make demo   the bundled anchor in a browser        make test   every test        make check   style and types
PYTHON ?= python3
DEMO := .venv
DEV := .venv-dev
PIP_FLAGS := --quiet --disable-pip-version-check -c constraints.txt
PORT ?= 0

.PHONY: demo test fast check format clean
.DELETE_ON_ERROR:

demo: $(DEMO)/.ready
	$(DEMO)/bin/liveanchor serve --port $(PORT)

test: $(DEV)/.ready
	$(DEV)/bin/python -m pytest -m 'not gpu'

fast: $(DEV)/.ready
	$(DEV)/bin/python -m pytest

check: $(DEV)/.ready
	$(DEV)/bin/pre-commit run --all-files

format: $(DEV)/.ready
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

# Serving needs no torch and no system GL.
$(DEMO)/.ready: pyproject.toml constraints.txt
	@echo "Making $(DEMO) with what serving needs (about 650 MB on disk, half a minute on a fast line)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "liveanchor: python: expected 3.11 or newer, got %d.%d (set PYTHON=...)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install $(PIP_FLAGS) -e '.[cpu]'
	@touch $@

# pyrender names an old PyOpenGL that fails beside a newer Python: the tests' reference is installed apart, without dependencies.
$(DEV)/.ready: pyproject.toml constraints.txt
	@echo "Making $(DEV) with what the tests need (torch, diffusers and TensorRT-RTX among it, a few minutes)"
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install $(PIP_FLAGS) 'torch==2.13.0'
	$(DEV)/bin/python -m pip install $(PIP_FLAGS) -e '.[cpu,int8,train,dev,rtx]' trimesh networkx six imageio freetype-py
	$(DEV)/bin/python -m pip install $(PIP_FLAGS) --no-deps pyrender PyOpenGL pyglet
	@touch $@

clean:
	rm -rf $(DEMO) $(DEV) artifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis
