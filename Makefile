# Every target sets up the virtual environment where it is missing or older than the project's files.
# PYTHON: python3 where it is 3.11, 3.12 or 3.13, else the newest of these that is there.
fits = $(shell $(1) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(1))
ifndef PYTHON
PYTHON := $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(call fits,$(name))))
endif
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PROFILE ?= demo

.PHONY: help study test torture demo-sensitivity gpu bench lab book publish pair lint constraints clean
help:            ## this list
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "dfnb needs Python 3.11, 3.12 or 3.13: install one, or use make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,cluster]'
	@touch $@

study: $(READY)  ## demo corpus, crops, training, all chapters, the book (PROFILE=demo)
	$(BIN)/dfnb study --profile $(PROFILE)

test: lint       ## lint, unit tests, the smoke profile through papermill, nbval, the book with -W
	$(BIN)/python -m pytest -n 2 --dist loadfile

torture: $(READY) ## runs killed at every write and at random moments, 2,000 broken videos, 1,000 ids to the book (half an hour)
	$(BIN)/python -m pytest -m torture

gpu: $(READY)    ## the tests that need a GPU (the other tests hide it)
	$(BIN)/python -m pytest -m gpu

demo-sensitivity: $(READY) ## one setting of the demo world at a time, into book/demo_sensitivity.md (half an hour)
	$(BIN)/python -m tools.demo_sensitivity

bench: $(READY)  ## speed against the plain recipes, into book/performance.md (ten minutes, a quiet machine)
	$(BIN)/python -m tools.bench

lab: $(READY)    ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

book: $(READY)   ## the report from the tracked chapters
	$(BIN)/jupyter-book build book

publish: $(READY) ## write the demo's executed chapters into book/chapters (tracked)
	$(BIN)/dfnb publish

pair: $(READY)   ## write each notebooks/*.ipynb from its .py
	$(BIN)/dfnb pair

lint: $(READY)   ## ruff, the import contract and the type checker, in seconds
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports
	$(BIN)/pyrefly check

constraints:     ## resolve pyproject.toml with all three Pythons, wheels only, into constraints.txt
	python3 tools/constraints.py python3.11 python3.12 python3.13 > constraints.new
	mv constraints.new constraints.txt

clean:           ## remove caches and built pages; runs/ and data/ stay
	rm -rf cache book/_build .pytest_cache .ruff_cache
