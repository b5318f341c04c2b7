# Two commands on a fresh machine with Python 3.11: `make build` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNEL_TESTS := tests/test_distortion_*.py

# CI adds `bench`, so that other readers of data sets are compared too: make test EXTRAS=dev,bench
EXTRAS := dev

.PHONY: build test check kernels tests bench leaderboards networks gallery atlas schema clean

build: $(VENV)/.installed
	$(BIN)/emsynth build recipes/stem_hd.yaml --resume

test: check kernels tests

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "emsynth needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fast]' || $(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Once in plain Python, where coverage sees into the kernels, then compiled with all the rest.
kernels: $(VENV)/.installed-dev
	NUMBA_DISABLE_JIT=1 $(BIN)/pytest $(KERNEL_TESTS) --cov=emsynth.distortion --cov-report=term-missing --cov-fail-under=90

tests: $(VENV)/.installed-dev
	$(BIN)/pytest

# Kernels and chain beside NumPy/SciPy and torch; needs a quiet machine and a minute.
bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.speed.compare

# Every baseline on every frozen suite, about half an hour of two cores, and the shipped networks on their own. Goes on where it was cut off.
leaderboards: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.results.leaderboards

# From the trainings in runs/ to what emsynth ships: weights, model cards, pictures, leaderboards. Goes on where it was cut off.
networks: $(VENV)/.installed-dev
	for name in stem_hd tem_hd; do \
	  $(BIN)/python -m benchmarks.networks.release $$name --run runs/train_$$name --evaluation runs/evaluated_$$name || exit 1; \
	done
	$(BIN)/python -m benchmarks.results.leaderboards stem_hd_v1 tem_hd_v1

gallery: $(VENV)/.installed
	$(BIN)/python -m emsynth.preview.gallery docs/images/gallery.png

atlas: $(VENV)/.installed
	$(BIN)/python -m emsynth.preview.atlas docs/images

schema: $(VENV)/.installed
	$(BIN)/emsynth schema > recipes/recipe.schema.json
	$(BIN)/emsynth schema --training > recipes/training.schema.json

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
