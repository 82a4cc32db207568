# Every target works on a fresh clone: it first installs what it needs into $(VENV), and only when pyproject.toml changed.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
EARLYBIRD := $(VENV)/bin/earlybird

DEMO := --model vgg16 --width 0.25 --data digits --epochs 40 --batch-size 64

DEV_STAMP := $(VENV)/.installed-dev
DEMO_STAMP := $(VENV)/.installed-demo

.DEFAULT_GOAL := help
.PHONY: help venv demo test slow lint format types bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	$(PYTHON) -m venv $(VENV)

$(DEV_STAMP): pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(DEMO_STAMP): pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

venv: $(DEV_STAMP)  ## install earlybird and the development tools into .venv

demo: $(DEMO_STAMP)  ## train digits dense and as an Early-Bird ticket, then compare (minutes, no download)
	$(EARLYBIRD) train $(DEMO) --method dense --out runs/demo/dense
	$(EARLYBIRD) train $(DEMO) --method early_bird --ratio 0.5 --out runs/demo/early_bird
	@echo; echo "== Both runs side by side"
	$(EARLYBIRD) report runs/demo
	@echo "Pictures: runs/demo/early_bird/mask_distance.svg, accuracy.svg, kept_channels.svg (and runs/demo/dense/accuracy.svg)"

test: $(DEV_STAMP)  ## run the default tests
	$(PY) -m pytest

slow: $(DEV_STAMP)  ## run the slow tests
	$(PY) -m pytest -m slow

lint: $(DEV_STAMP)  ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(DEV_STAMP)  ## mend what can be mended by machine
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(DEV_STAMP)  ## check types
	$(PY) -m mypy --strict src

bench: $(DEV_STAMP)  ## run every script benchmarks/bench_*.py
	@set -e; for script in benchmarks/bench_*.py; do \
		test -e "$$script" || { echo "no benchmarks/bench_*.py yet"; exit 1; }; \
		echo "== $$script"; $(PY) "$$script"; \
	done

clean:  ## remove the environment and the caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
