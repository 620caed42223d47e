# `make demo` turns a trained model into four verified packages; `make test` shows that everything holds.
# Both need Python 3.11 and pip alone: they make .venv once and reuse it until the pins or pyproject.toml change.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := .ci/constraints.txt

.PHONY: demo test lint bench schemas clean help

demo: $(STAMP)  ## export examples/digits to dist/demo: four packages, release.json, report.html
	$(RUN)/edgewright export examples/digits/release.toml --out dist/demo

test: lint  ## lint, types and all tests
	$(RUN)/pytest -n 2 --dist worksteal

lint: $(STAMP)  ## ruff and mypy --strict
	$(RUN)/ruff check .
	$(RUN)/mypy

# As modules: each imports its neighbours in bench/.
bench: $(STAMP)  ## time and memory of exports; the latency predictor against published measurements
	$(RUN)/python -m bench.export
	$(RUN)/python -m bench.prediction

schemas: $(STAMP)  ## write pipeline/schemas/*.json anew from the models
	$(RUN)/python -m edgewright.pipeline.schemas

$(STAMP): pyproject.toml $(CONSTRAINTS)
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) torch==2.13.0
	$(RUN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $(STAMP)

clean:  ## remove .venv, dist and build
	rm -rf $(VENV) dist build

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "%-8s %s\n", $$1, $$2 }'
