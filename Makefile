# `make` alone lists the targets. Everything lands in .venv; nothing needs root, a daemon or a GPU.

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=
COMPILE := $(VENV)-lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint slow e2e e2e-tests bench docs images lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  ARGS passes arguments on: make test ARGS='-k config'"

venv: $(VENV)/.dev-installed ## install everything for running and developing into .venv

demo: $(VENV)/.run-installed ## run the planner against simulated engines and recorded traffic
	$(BIN)/sla-planner demo $(ARGS)

test: $(VENV)/.dev-installed ## run the tests
	@# Bytecode is kept, whatever the shell says: every test file and every program that a test starts would be compiled again.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(VENV)/.dev-installed ## style, types, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

slow: $(VENV)/.dev-installed ## run the long tests: whole sweeps, a real llama.cpp, a Prometheus server on PATH
	@command -v prometheus >/dev/null || { echo "make slow: no prometheus on PATH; install it, e.g. apt-get install prometheus"; exit 1; }
	$(BIN)/python -m pytest -m e2e $(ARGS)

e2e: $(VENV)/.dev-installed ## run the delivery in a real Kubernetes made on the spot (root on Debian, Go; tests/e2e/README.md)
	PATH="$(abspath $(BIN)):$$PATH" tests/e2e/run ARGS="$(ARGS)"

e2e-tests: $(VENV)/.dev-installed ## the same tests in the cluster that KUBECONFIG names
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m cluster $(ARGS)

bench: $(VENV)/.dev-installed ## print the benchmark tables (ARGS=--quick: short; TRACES=DIR: policies on the recorded days in it, hours)
	@for bench in tests/bench/bench_*.py; do echo "== $$bench"; \
	case $$bench in *policies.py) traces="$(if $(TRACES),--traces $(TRACES))";; *) traces=;; esac; \
	$(BIN)/python $$bench $$traces $(ARGS) || exit 1; done

docs: $(VENV)/.run-installed ## write the flag references (jobs/*/flags.md), the fields of requests, and everything that templates/ renders
	$(BIN)/python -m sla_planner.flag_reference jobs
	$(BIN)/sla-planner render
	$(BIN)/python -m sla_planner.request_reference manifests/crds/dynamographdeploymentrequest.yaml manifests/requests/fields.md

images: | $(BIN)/python ## build the container images (IMAGES, PREFIX, TAG, BASE_IMAGE, BUILDER: images/README.md)
	$(BIN)/python images/build.py $(ARGS)

lock: $(VENV)-lock/bin/uv ## resolve the dependencies anew into requirements/*.txt and images/*/requirements.txt
	$(COMPILE) --upgrade pyproject.toml requirements/build.in --extra plots -o requirements/run.txt
	$(COMPILE) --upgrade pyproject.toml requirements/build.in --extra plots --extra dev -c requirements/run.txt -o requirements/dev.txt
	$(COMPILE) --upgrade requirements/build.in -c requirements/run.txt -o images/build.txt
	for wanted in images/*/requirements.in; do $(COMPILE) --upgrade $$wanted -c requirements/run.txt -c requirements/dev.txt -o $${wanted%.in}.txt || exit 1; done

clean: ## remove the virtual environments, caches and outputs
	rm -rf $(VENV) $(VENV)-lock build dist demo-output scripts/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call install nothing. The package itself is installed editable, built with the locked setuptools.
$(VENV)/.run-installed: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "installing requirements/run.txt into $(VENV)"
	@$(PIP) install -q --require-hashes -r requirements/run.txt
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev-installed: requirements/dev.txt $(VENV)/.run-installed
	@echo "installing requirements/dev.txt into $(VENV)"
	@$(PIP) install -q --require-hashes -r requirements/dev.txt
	@touch $@

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then exec $$python -m venv $(VENV); fi; \
	done; echo "error: no Python >= 3.11 with venv found; install one (e.g. apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3"; exit 1

$(VENV)-lock/bin/uv: | $(BIN)/python
	@$(BIN)/python -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip --disable-pip-version-check install -q uv
