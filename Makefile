# One door for contributors. Everything below works on a fresh checkout: the virtual environment is made when needed.
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# Side by side, a file at a time: most tests wait for a server or a clock rather than for the processor.
WORKERS ?= 3
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=25
SOURCES := config.py settings api processor uploader pipeline demo devstack deploy benchmarks

# Kept byte code saves seconds at every start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install lint format test test-fast test-kafka chaos bench-download bench-separate bench-quality bench-gpu bench-pipeline demo lock

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: ## the virtual environment, with the development tools
	@./start_local.sh install dev

lint: install ## style, types, house rules, dead code, shell, compose, Dockerfile
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy $(SOURCES) tests
	.venv/bin/lint-imports
	$(PYTHON) -m vulture
	.venv/bin/hadolint Dockerfile
	for script in start_local.sh requirements/compile.sh .ci/run; do bash -n $$script || exit; done

format: install ## rewrite the sources in the house style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test: install ## everything; the Kafka and S3 part where it can be had, or else (REQUIRE_KAFKA=1) failing
	$(PYTEST) $(SPREAD)

test-fast: install ## what takes seconds and needs no server
	$(PYTEST) $(SPREAD) -m "not slow and not kafka and not s3"

test-kafka: install ## what needs a real Kafka and a real S3 server
	REQUIRE_KAFKA=1 $(PYTEST) $(SPREAD) -m "kafka or s3"

SEED ?= 1
MINUTES ?= 30
chaos: install ## kill, freeze and cut off everything for half an hour, then check that nothing was lost
	$(PYTHON) -m tests.chaos --seed $(SEED) --minutes $(MINUTES) --faults 19 --jobs 14 --crashes 8

bench-download: install ## the download engine beside curl, wget, axel, aria2c and others: docs/BENCHMARKS.md (15 minutes)
	-$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .local/bench -r requirements/bench.lock
	$(PYTHON) -m benchmarks.download --write docs/BENCHMARKS.md $(ARGS)

bench-separate: install ## the separation engine beside audio-separator, in process and as a command: docs/BENCHMARKS.md (seven minutes)
	$(PYTHON) -m benchmarks.separate --write docs/BENCHMARKS.md $(ARGS)

bench-quality: install ## SDR, SI-SDR and SIR of songs with known stems, beside audio-separator: docs/BENCHMARKS.md (ten minutes)
	$(PYTHON) -m benchmarks.quality --write docs/BENCHMARKS.md $(ARGS)

bench-gpu: install ## audio-separator and the engine on a GPU, with networks of full size: docs/BENCHMARKS.md (half an hour or more)
	-$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .local/bench -r requirements/bench.lock
	PYTHONPATH=.local/bench $(PYTHON) -m benchmarks.gpu --write docs/BENCHMARKS.md $(ARGS)

bench-pipeline: install ## jobs through the services on a real Kafka and S3, beside one after the other: docs/BENCHMARKS.md (seven minutes)
	$(PYTHON) -m benchmarks.pipeline --write docs/BENCHMARKS.md $(ARGS)

demo: ## a song in, its stems out
	@./start_local.sh demo

lock: install ## write the lock files anew from requirements/*.in
	PATH="$(CURDIR)/.venv/bin:$$PATH" requirements/compile.sh
