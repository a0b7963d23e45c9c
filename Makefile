# Everything a developer or CI does here. Needs cargo, make and, for what is missing, apt with root or sudo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test ci conformance instructions bench bench-scaling bench-memory bench-pure slow fuzz chaos model build tools \
	test-tools advisories

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
ENSURE := CARGO="$(CARGO)" scripts/ensure

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

tools:
	@$(ENSURE) cc cmake

build: tools
	$(CARGO) build --locked --release

run: build ## build and start the gateway with its demo origin behind it
	exec $(TARGET)/release/tidegate demo

test: test-tools ## all tests, against real Redis, Flask and Chromium; the last line counts them
	$(CARGO) test --locked --doc --quiet
	$(CARGO) nextest run --locked

test-tools: tools
	@$(ENSURE) redis-server node npm chromium systemd-analyze faketime cargo-nextest
	@scripts/test-environment

ci: test-tools ## what CI runs: format, lints, documentation, licences, build, conformance, then the tests
	@$(ENSURE) cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --package floor -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources
	$(if $(ADVISORIES),$(CARGO) deny --locked check --hide-inclusion-graph advisories)
	$(CARGO) build --locked --all-targets
	@$(MAKE) --no-print-directory conformance
	@$(MAKE) --no-print-directory instructions
	@$(MAKE) --no-print-directory test

conformance: build ## the HTTP caching conformance suite (CACHE_TESTS_DIR=another copy of it)
	@$(ENSURE) node npm
	@scripts/test-environment tests/conformance
	@said=$$(node tests/conformance/judge.test.mjs) || { echo "$$said"; exit 1; }
	node tests/conformance/run.mjs --tidegate $(TARGET)/release/tidegate \
		$(if $(CACHE_TESTS_DIR),--suite $(CACHE_TESTS_DIR))

instructions: build ## instructions per hit and miss, beside those on record (RECORD=1 puts them on record)
	@$(ENSURE) python3 valgrind
	python3 -B benches/instructions/run.py --tidegate $(TARGET)/release/tidegate $(if $(RECORD),--record)

bench: tools ## what answers cost, beside nginx, HAProxy, Varnish and a bare loop (40 minutes; BENCH_ARGS=--help)
	@$(ENSURE) python3 nginx nchan haproxy varnishd wrk h2load oha curl openssl taskset redis-server
	@$(ENSURE) pushpin || echo "bench: without Pushpin" >&2
	@scripts/test-environment tests/python
	$(CARGO) build --locked --release
	$(CARGO) build --locked --release --package floor
	python3 -B benches/compare/run.py --tidegate $(TARGET)/release/tidegate --floor $(TARGET)/release/floor $(BENCH_ARGS)

bench-scaling: tools ## how costs grow with entries, tenants, routes (10 minutes; SCALING_ARGS="--entries 10000000 --out docs/scaling")
	@$(ENSURE) python3 nginx wrk taskset
	$(CARGO) build --locked --release
	python3 -B benches/compare/laws.py --tidegate $(TARGET)/release/tidegate $(SCALING_ARGS)

bench-memory: tools ## what an entry and an idle connection take (5 minutes; BENCH_ARGS=--help)
	@$(ENSURE) python3 openssl
	$(CARGO) build --locked --release
	python3 -B benches/memory/run.py --tidegate $(TARGET)/release/tidegate $(BENCH_ARGS)

bench-pure: tools ## what the pure parts of the way of a request cost, in nanoseconds
	$(CARGO) bench --locked --bench pure -- $(PURE_ARGS)

slow: build ## what slow and hostile clients cost the others (slowhttptest, 3 minutes)
	@$(ENSURE) python3 slowhttptest
	python3 -B benches/slow/run.py --tidegate $(TARGET)/release/tidegate

SECONDS ?= 60
SEED ?= 1
chaos: build ## whole nodes under faults by a seed, then streams; prints how old answers were (SECONDS=600 SEED=7,8: so long for each)
	@$(ENSURE) redis-server
	TIDEGATE_BIN=$(TARGET)/release/tidegate CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) \
		$(CARGO) test --locked --quiet --test it -- --ignored --nocapture --test-threads=1 coherence::chaos::long live::chaos::long

DEPTH ?= 6
model: tools ## all orders of events between two nodes and a store up to a depth, and many long ones (DEPTH=7)
	MODEL_DEPTH=$(DEPTH) MODEL_WALKS=2000000 $(CARGO) test --locked --release --quiet --test it coherence::model -- --nocapture

fuzz: tools ## bytes at random against the readers of heads and chunks (3 minutes; SECONDS=600 for each of three)
	@$(ENSURE) cargo-fuzz
	@cp Cargo.lock fuzz/Cargo.lock
	$(CARGO) fuzz build --sanitizer none
	@for target in requests answers chunks; do \
		mkdir -p fuzz/corpus/$$target; \
		$(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-dict=fuzz/words.dict -max_len=4096 -max_total_time=$(SECONDS) -print_final_stats=1; \
	done
