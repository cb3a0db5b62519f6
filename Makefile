# Commands for contributors. All of them work on a fresh checkout: the virtual environment is created when necessary.
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# Test files run in parallel: most tests wait for a server or a timer, not for the CPU.
WORKERS ?= 3
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=25
SOURCES := config.py settings api processor uploader pipeline demo devstack deploy benchmarks scripts

# Cached byte code saves seconds at every start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install lint mypy prose secrets audit sbom docs reference audio-table format test test-fast test-kafka chaos chaos-destructive bench-download bench-separate bench-quality bench-gpu bench-pipeline bench-front bench-resampling bench-sandbox demo lock mutate

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: ## create the virtual environment with the development tools
	@./start_local.sh install dev

lint: install ## check style, types, import rules, dead code, Dockerfile and shell scripts
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	@$(MAKE) --no-print-directory mypy
	.venv/bin/lint-imports
	$(PYTHON) -m vulture
	.venv/bin/hadolint Dockerfile
	for script in start_local.sh requirements/compile.sh .ci/run; do bash -n $$script || exit; done
	@$(MAKE) --no-print-directory prose secrets

mypy:
	$(PYTHON) -m mypy $(SOURCES) tests

prose: install ## wording, spelling, and one name for one thing
	$(PYTHON) -m scripts.check_prose
	$(PYTHON) -m scripts.check_names
	.venv/bin/typos --format brief

secrets: install ## search the tracked files for secrets
	$(PYTHON) -m scripts.secret_scan

audit: install ## search the history for secrets, and the locks for known vulnerabilities where PyPI's data can be reached
	$(PYTHON) -m scripts.secret_scan --history
	$(PYTHON) -m scripts.audit

sbom: install ## write a bill of materials (CycloneDX) of each image into .local/sbom
	$(PYTHON) -m scripts.sbom .local/sbom

docs: install ## the documentation site in site/, strict: a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

reference: install ## write the generated pages of docs/reference anew from the code
	$(PYTHON) -m scripts.reference

audio-table: install ## write the table of measurements in docs/AUDIO.md anew
	$(PYTHON) -m tests.processor.corpus.table

format: install ## format the sources
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test: install ## run all tests; skip those for Kafka and S3 if these are unavailable (fail with REQUIRE_KAFKA=1)
	$(PYTEST) $(SPREAD)

test-fast: install ## run the tests that take seconds and need no server
	$(PYTEST) $(SPREAD) -m "not slow and not kafka and not s3"

test-kafka: install ## run the tests that need a real Kafka or a real S3 server
	REQUIRE_KAFKA=1 $(PYTEST) $(SPREAD) -m "kafka or s3"

SEED ?= 1
MINUTES ?= 30
MUTATE_MINUTES ?= 60
chaos: install ## kill, pause and disconnect all parts for half an hour, then check that no job was lost
	$(PYTHON) -m tests.chaos --seed $(SEED) --minutes $(MINUTES) --faults 19 --jobs 14 --crashes 8

chaos-destructive: install ## destroy logs and working files under load, then check that no job is gone that a member held
	$(PYTHON) -m tests.chaos --destructive --seed $(SEED) --minutes $(MINUTES) --faults 8 --jobs 40 --crashes 3

mutate: install ## test the tests of the core with mutants of it, for an hour (MUTATE_MINUTES=, MUTATE_GROUPS=); a later run goes on
	$(PYTHON) -m scripts.mutate --minutes $(MUTATE_MINUTES) $(MUTATE_GROUPS)

bench-download: install ## compare the download engine with curl, wget, axel, aria2c and others; writes docs/BENCHMARKS.md (15 minutes)
	-$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --target .local/bench -r requirements/bench.lock
	$(PYTHON) -m benchmarks.download --write docs/BENCHMARKS.md $(ARGS)

bench-separate: install ## compare the separation engine with audio-separator, in process and as a command; writes docs/BENCHMARKS.md (7 minutes)
	$(PYTHON) -m benchmarks.separate --write docs/BENCHMARKS.md $(ARGS)

bench-quality: install ## compare SDR, SI-SDR and SIR with audio-separator on songs with known stems; writes docs/BENCHMARKS.md (10 minutes)
	$(PYTHON) -m benchmarks.quality --write docs/BENCHMARKS.md $(ARGS)

bench-gpu: install ## compare the engine with audio-separator on a GPU, with networks of full size; writes docs/BENCHMARKS.md (30 minutes or more)
	-$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --target .local/bench -r requirements/bench.lock
	PYTHONPATH=.local/bench $(PYTHON) -m benchmarks.gpu --write docs/BENCHMARKS.md $(ARGS)

bench-pipeline: install ## compare the services on a real Kafka and S3 with a sequential program; writes docs/BENCHMARKS.md (7 minutes)
	$(PYTHON) -m benchmarks.pipeline --write docs/BENCHMARKS.md $(ARGS)

bench-front: install ## measure the API while clients occupy it; writes docs/BENCHMARKS.md (5 minutes)
	$(PYTHON) -m benchmarks.front_door --write docs/BENCHMARKS.md $(ARGS)

bench-resampling: install ## measure the sample-rate conversion and compare it with others; writes docs/AUDIO.md (a minute)
	$(PYTHON) -m benchmarks.resampling --write docs/AUDIO.md

bench-sandbox: install ## measure what the isolation of each source costs; writes docs/AUDIO.md (ten seconds)
	$(PYTHON) -m benchmarks.sandbox --write docs/AUDIO.md

demo: ## separate a demo song with all services
	@./start_local.sh demo

lock: install ## regenerate the lock files from requirements/*.in
	PATH="$(CURDIR)/.venv/bin:$$PATH" requirements/compile.sh
