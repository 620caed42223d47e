# `make demo` turns a trained model into four verified packages; `make test` shows that everything holds.
# Both need Python 3.11 and pip alone: they make .venv once and reuse it until the pins or pyproject.toml change.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := .ci/constraints.txt

.PHONY: demo test lint bench clean

demo: $(STAMP)
	$(RUN)/edgewright export examples/digits/release.toml --out dist/demo

test: lint
	$(RUN)/pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/mypy

bench: $(STAMP)
	$(RUN)/python bench/export.py
	$(RUN)/python bench/prediction.py

$(STAMP): pyproject.toml $(CONSTRAINTS)
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) torch==2.13.0
	$(RUN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) dist build
