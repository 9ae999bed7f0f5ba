# Everything runs in .venv, which the first target makes from the pinned requirements.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint benchmark results clean help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/ready: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(VENV)/ready  ## set up, then train a VampPrior VAE on the embedded digits
	$(BIN)/python run_experiment.py --model=vampprior

test: $(VENV)/ready  ## set up, then run the tests
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

lint: $(VENV)/ready  ## style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

benchmark: $(VENV)/ready  ## speed, as ratios
	$(BIN)/python benchmarks/run.py

results: $(VENV)/ready  ## the table published | ours, from the runs' summaries
	$(BIN)/python -m tfhvae.results table results

clean:  ## remove the environment and build products
	rm -rf $(VENV) build dist *.egg-info
