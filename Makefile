# Two commands on a fresh machine: `make demo` trains, compresses and serves a real model, `make test` passes the tests.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lmops
VOLUMES := $(CACHE)/volumes
BIN := .venv/bin
LOCKS := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet

.PHONY: demo test lint crds bench bench-training bench-pruning bench-compression bench-operator bench-serving bench-room locks clean

demo: .venv/laptop
	@$(BIN)/python examples/fetch.py $(VOLUMES) reviews
	@$(BIN)/lmops local delete --ignore-not-found languagemodelservice/reviews quantizejob/reviews-int8 trainingjob/reviews
	$(BIN)/lmops local apply -f examples/reviews -f examples/compress-reviews/dynamic.yaml --volume data=$(VOLUMES)/data --volume models=$(VOLUMES)/models
	$(BIN)/lmops local apply -f examples/serve-reviews/service.yaml --detach
	@said="$$($(BIN)/lmops local wait languagemodelservice/reviews)" && echo "$$said" && echo "$${said##* }" > .venv/url
	@if command -v curl > /dev/null; then set -x; curl -s "$$(cat .venv/url)/v1/classify" -d '{"input": "A slow start, and then I could not look away."}'; fi; echo
	@echo '  (lmops is $(BIN)/lmops here; to stop the service: $(BIN)/lmops local delete languagemodelservice/reviews)'

test: .venv/dev
	@$(BIN)/python examples/fetch.py $(VOLUMES)
	LMOPS_TEST_VOLUMES=$(VOLUMES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(TESTS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

crds: .venv/dev
	$(BIN)/python -m lmops.api.crd crds charts/lmops/files/crds
	$(BIN)/python -m lmops.jobs.failure > docs/failures.md
	$(BIN)/python -m lmops.api.engines > docs/engines.md
	$(BIN)/python charts/schema.py

# `make bench BENCH=operator` runs that one only.
BENCH ?= training operator pruning compression serving room
bench: $(addprefix bench-,$(BENCH))

bench-training: .venv/dev
	@$(BIN)/python examples/fetch.py $(VOLUMES) reviews gpt2
	LMOPS_TEST_VOLUMES=$(VOLUMES) $(BIN)/python tests/bench/training.py

bench-pruning: .venv/dev
	@$(BIN)/python examples/fetch.py $(VOLUMES) reviews
	LMOPS_TEST_VOLUMES=$(VOLUMES) PYTHONPATH=tests $(BIN)/python tests/bench/pruning.py $(ARGS)

bench-compression: .venv/dev
	@$(BIN)/python examples/fetch.py $(VOLUMES) reviews gpt2
	LMOPS_TEST_VOLUMES=$(VOLUMES) PYTHONPATH=tests $(BIN)/python tests/bench/compression.py $(ARGS)

bench-serving: .venv/dev
	@$(BIN)/python examples/fetch.py $(VOLUMES) reviews gpt2
	PYTHONPATH=tests LMOPS_TEST_VOLUMES=$(VOLUMES) $(BIN)/python tests/bench/serving.py $(ARGS)

bench-room: .venv/dev
	@$(BIN)/python examples/fetch.py $(VOLUMES) reviews
	LMOPS_TEST_VOLUMES=$(VOLUMES) PYTHONPATH=tests $(BIN)/python tests/bench/room.py $(ARGS)

bench-operator: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m bench.operator

locks: .venv/uv
	$(BIN)/uv pip compile $(LOCKS) requirements/uv.in -o requirements/uv.txt
	$(BIN)/uv pip compile $(LOCKS) --no-deps examples/packages.in -o examples/packages.txt
	$(BIN)/uv pip compile $(LOCKS) pyproject.toml --extra local --extra trainer --extra compressor --extra server --extra checkout -o requirements/laptop.txt
	$(BIN)/uv pip compile $(LOCKS) pyproject.toml --extra trainer -c requirements/laptop.txt -o images/trainer/requirements.txt
	$(BIN)/uv pip compile $(LOCKS) pyproject.toml --extra trainer --extra compressor -c requirements/laptop.txt -o images/compressor/requirements.txt
	$(BIN)/uv pip compile $(LOCKS) pyproject.toml --extra trainer --extra compressor --extra server -c requirements/laptop.txt -o images/server/requirements.txt
	$(BIN)/uv pip compile $(LOCKS) pyproject.toml --extra operator -c requirements/laptop.txt -o images/operator/requirements.txt
	$(BIN)/uv pip compile $(LOCKS) pyproject.toml --all-extras -c requirements/laptop.txt -o requirements/dev.txt
	$(BIN)/uv pip compile $(LOCKS) requirements/clients.in -o requirements/clients.txt  # tests/clients.py
	$(BIN)/uv pip compile $(LOCKS) requirements/llm-compressor.in -o requirements/llm-compressor.txt  # tests/bench/llm_compressor.py

# The environment: `laptop` is what a user needs, `dev` what the tests need besides. uv keeps its downloads out of the tree.
.venv/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'lmops needs Python 3.11 or newer: make PYTHON=python3.12'; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/laptop .venv/dev: .venv/%: requirements/%.txt .venv/uv pyproject.toml
	@echo "installing $*: torch and its libraries take a minute or two the first time"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/$*.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true  # torch holds a file for Python 3.12
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
