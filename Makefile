# The two commands: `make book` builds the site, `make test` runs every test. `make help` lists the rest.
# They need Python 3.11 or newer and make; each makes its own environment and keeps it until requirements change.
PYTHON ?= python3
NOTEBOOK ?=
VENV := .venv
BOOK := .venv-book
PIP := -m pip install -qq --disable-pip-version-check --no-input
SHELL := /bin/bash

.DEFAULT_GOAL := book
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: book test setup lint unit nbval notebooks stale benchmark pdf linkcheck browser colab serve lock clean help

# An environment counts as made when its stamp is written, which is the last thing that happens: an install that was
# interrupted is taken up again by the next call. Its scripts, and its way to minigpt, name the place where it was made:
# one that was moved or copied, or whose Python is gone, is made anew.
sound = grep -qsF ' $(CURDIR)/$(1)' $(1)/pyvenv.cfg && $(1)/bin/python -c 'import pip' 2>/dev/null
$(foreach env,$(BOOK) $(VENV),$(shell { $(call sound,$(env)); } || rm -f $(env)/.installed))

define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "minigpt needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@{ $(call sound,$(1)); } || { \
	  echo "making the environment $(1)"; rm -rf $(1); $(PYTHON) -m venv $(1); }
endef

$(BOOK)/.installed: requirements-book.txt constraints.txt
	$(call environment,$(BOOK))
	@echo "installing what builds the book into $(BOOK) (about a minute, once)"
	@$(BOOK)/bin/python $(PIP) -r requirements-book.txt
	@touch $@

$(VENV)/.installed: requirements.txt requirements-book.txt constraints.txt pyproject.toml
	$(call environment,$(VENV))
	@echo "installing torch, the tests' tools and minigpt into $(VENV) (a few minutes, once)"
	@$(VENV)/bin/python $(PIP) -r requirements.txt
	@$(VENV)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

book: $(BOOK)/.installed  ## build the site into _build/html (strict; needs no torch)
	@rm -rf _build
	@$(BOOK)/bin/jupyter-book build -n -W --keep-going . >_build.log 2>&1; status=$$?; \
	  mkdir -p _build; mv _build.log _build/build.log; \
	  grep -a -E "WARNING|ERROR|CRITICAL|Traceback|^[A-Za-z.]*Error" _build/build.log; \
	  if [ $$status -ne 0 ]; then echo "the book did not build; the whole log is _build/build.log"; exit 1; fi
	@echo "the book is in _build/html/index.html"

test: book lint unit browser nbval  ## run every test: style, types, layers, unit and browser tests, every notebook
	@echo "all tests passed"

setup: $(VENV)/.installed  ## make the environment for the notebooks and the command line, .venv
	@echo "write $(VENV)/bin/python, for example: $(VENV)/bin/python -m minigpt presets"

lint: $(VENV)/.installed  ## ruff, mypy and the layers of the package
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

unit: $(VENV)/.installed  ## the tests in tests/, but for those in a browser
	$(VENV)/bin/python -m pytest tests --ignore=tests/browser -n 2 --dist loadfile -q

# Two notebooks at a time, each on one core: a model this small gains little from a second one, and two threads that
# wait for each other on a busy machine can make five seconds four minutes.
nbval: $(VENV)/.installed  ## run every notebook and compare it with what is stored, strictly
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --nbval notebooks -n 2 --dist loadscope

notebooks: $(VENV)/.installed  ## run the notebooks and store their outputs (NOTEBOOK=01_text: only that one)
	$(VENV)/bin/python book/tools/notebooks.py $(NOTEBOOK)

stale: $(VENV)/.installed  ## list the notebooks whose code or minigpt changed since they were stored
	$(VENV)/bin/python book/tools/notebooks.py --check $(NOTEBOOK)

colab: $(VENV)/.installed  ## run every notebook as Colab would: torch there, minigpt not, an empty folder
	MINIGPT_COLAB=all $(VENV)/bin/python -m pytest tests/test_colab.py

browser: $(VENV)/.installed  ## the built site in a browser (needs Chromium: apt-get install chromium)
	$(VENV)/bin/python -m pytest tests/browser -n 2 -q

benchmark: $(VENV)/.installed  ## the benchmarks, side by side with Hugging Face's GPT-2 (RECORD=1: keep the race's table)
	$(VENV)/bin/python -m pytest tests/benchmarks --benchmark-sort=name

pdf: $(BOOK)/.installed  ## print the whole book to _build/minigpt.pdf (needs Chromium: apt-get install chromium)
	@$(BOOK)/bin/python book/tools/pdf.py

linkcheck: $(BOOK)/.installed  ## ask every outside link whether it still answers (needs the network)
	@$(BOOK)/bin/python book/tools/linkcheck.py

serve: $(BOOK)/.installed  ## show _build/html at http://localhost:8000
	@test -d _build/html || $(MAKE) book
	@$(BOOK)/bin/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

lock: $(VENV)/.installed  ## write constraints.txt from what is installed in .venv
	@set -o pipefail; { echo "# Every package that the environments hold, at the version that was tested. Written by 'make lock'."; \
	  $(VENV)/bin/python -m pip freeze --exclude-editable | grep -v -i -E '^(#|nvidia-|triton|cuda-)|@' \
	  | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > constraints.new && mv constraints.new constraints.txt

clean:  ## remove the site and both environments
	rm -rf _build $(BOOK) $(VENV)

help:  ## this list
	@grep -h -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1	\2/' | while IFS=$$'\t' read -r name text; do \
	  printf '  make %-10s %s\n' "$$name" "$$text"; done
