# `make demo` and `make test` need Python 3.11 to 3.13, make and a package index; they set up everything else in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: demo test check

demo: $(INSTALLED)
	$(RUN) scripts/reproduce.py --out results/demo --overwrite

test: $(INSTALLED)
	$(RUN) -m pytest --numprocesses 2 --dist worksteal

check: $(INSTALLED)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or \
	  sys.exit("salrob_tf needs Python 3.11 to 3.13: run make PYTHON=python3.12. Received: Python %d.%d" % v)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@
