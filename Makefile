PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
.PHONY: demo test browser lint parity bench gpu fuzz soak

demo: $(VENV)/.installed  ## train, measure and ask a model about handwritten digits; look in ./demo
	$(RUN) examples/digits.py

test: $(VENV)/.installed browser
	$(RUN) -m pytest -n 2

browser:  # in which one test opens the report of a run
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo 'no Chromium: the test that opens a report in it will be skipped'

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

parity: $(VENV)/.installed  ## hold every model against the stored facts
	$(RUN) -m tests.parity

gpu: $(VENV)/.installed  ## hold optimizers on a CUDA GPU against the CPU
	$(RUN) -m tests.gpu

fuzz: $(VENV)/.installed  ## read 10,000 damaged and hostile weights files
	$(RUN) -m tests.fuzz

soak: $(VENV)/.installed  ## kill runs at random moments; each must end as one that nobody touched
	$(RUN) -W error -m tests.soak

bench: $(VENV)/.installed
	$(RUN) -m benchmarks

$(VENV)/.installed: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -e '.[dev]'
	touch $@
