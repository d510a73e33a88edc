# The two commands of a user are `make demo` and `make test`; `make` alone lists all.
SHELL := /bin/sh
BIN := .venv/bin
STATE ?= .demo
NODES ?= 3
WORKERS ?= 2
TESTS := tests/checks tests/unit tests/wire tests/service tests/cluster tests/real

.PHONY: help setup demo clean-demo test quick check format generate bench

help:
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1|/p' Makefile | awk -F'|' '{ printf "make %-11s %s\n", $$1, $$2 }'

setup: ## install what is missing: OS packages (as root on Debian) and .venv
	@tools/setup.sh

demo: setup ## start a cluster of three nodes, do the main job on it before your eyes, print its URI
	@$(BIN)/clusterhost demo up --nodes $(NODES) --state $(STATE)
	@$(BIN)/python tools/demo_tour.py --state $(STATE) --nodes $(NODES)

clean-demo: ## remove every trace of the demo
	@if [ -x $(BIN)/clusterhost ]; then $(BIN)/clusterhost demo down --state $(STATE); \
	elif [ -e $(STATE) ]; then echo "make clean-demo: $(STATE) is there but .venv is not; run make setup first" >&2; exit 1; fi

test: setup check ## all gates and all tests
	@$(BIN)/pytest $(TESTS) --dist loadfile --no-loadscope-reorder --tx '$(WORKERS)*popen//python=tools/apart.sh $(BIN)/python'

quick: check ## gates, and the tests that need no libvirtd
	@$(BIN)/pytest -x -q tests/checks tests/unit tests/wire

check: setup ## gates only: lint, format, layers, style, generated files, types
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/python tools/check_style.py
	@$(BIN)/python tools/check_tree.py
	@$(BIN)/lint-imports --no-logo --cache-dir .import_linter_cache
	@$(BIN)/python tools/check_generated.py
	@$(BIN)/mypy

format: setup ## rewrite the sources in the project's format
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .

generate: setup ## write the generated files anew
	@$(BIN)/python tools/check_generated.py --write

bench: setup ## measure the cluster against a node's own libvirtd, as ratios
	@$(BIN)/python -m tools.bench
