# `make help` lists what there is. Each target does its own set-up: it looks for what it needs and installs only that.

.DEFAULT_GOAL := help
SHELL := /bin/sh

.PHONY: help demo dev test valkey chaos nightly check lints tidy pages bench fuzz fmt tools clean

# Most tests wait for servers and peers, so more of them run at once than there are processors.
RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
export RUST_TEST_THREADS

# The promises that depend on what kind of server keeps them: its scripts, memory, disk, replicas,
# streams and clock.
VALKEY_TESTS := clocks clustered corrupt deployments durability events faults fencing \
	forgotten_scripts full_memory lost_writes outage own_redis pace repair schedules \
	server_settings stream unreadable

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: tools ## Play a campaign of bounces against a cast of mail servers, in fast motion (ARGS="--keep" and others)
	cargo run --locked --bin redeliver -- demo $(ARGS)

dev: tools ## Run scheduler and worker over a Redis server of their own, until Ctrl-C
	cargo run --locked --bin redeliver -- dev $(ARGS)

test: ## Run all tests, against a real Redis and a real Postfix, and one minute of chaos
	@scripts/tools test
	cargo build --locked --workspace --bins
	cargo test --locked --workspace $(ARGS)
	scripts/chaos quick

valkey: ## Run the promises that depend on the server over Valkey, not Redis
	@scripts/tools valkey
	cargo build --locked --workspace --bins
	REDELIVER_REDIS_SERVER=valkey-server \
		cargo test --locked --workspace --test promises -- $(VALKEY_TESTS:%=%::) $(ARGS)

chaos: ## Break a running fleet in every way and check every promise (ARGS="--seed 7 --minutes 2 --shape sentinel"; docs/guides/chaos.md)
	@scripts/tools chaos
	cargo build --locked --bin redeliver
	cargo run --locked --package chaos -- $(ARGS)

nightly: ## What is too long for CI: fuzz targets, all promises over Valkey, and chaos (SEEDS="1 2 3" MINUTES=4)
	@scripts/tools chaos
	@scripts/tools valkey
	scripts/fuzz check
	cargo build --locked --workspace --bins
	REDELIVER_REDIS_SERVER=valkey-server cargo test --locked --workspace --test promises
	scripts/chaos long

check: lints tidy ## What needs no server: lints, and all of `make tidy`

lints: tools ## Let Clippy look at all code, fuzz targets too
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	scripts/fuzz check

tidy: tools ## Check format, architecture, licences, advisories, unused dependencies, links, texts
	cargo fmt --all --check
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	cargo test --locked --quiet --workspace --test repository
	scripts/advisories
	scripts/tidy
	scripts/links

pages: ## Write what is made from code and tests: reference pages, a picture, calls of scripts
	REDELIVER_WRITE_PAGES=1 cargo test --locked --quiet --workspace --test repository page
	@scripts/tools test
	REDELIVER_WRITE_PAGES=1 \
		cargo test --locked --quiet --workspace --test promises -- script_calls traces::

bench: tools ## Measure this machine and print the table of docs/guides/benchmarks.md, an hour in all (ARGS="cycle --runs 5")
	cargo run --locked --release --bin redeliver -- bench $(ARGS)

fuzz: ## Give each parser's fuzz target FUZZ_SECONDS (60), six minutes in all, to find what the tests did not
	@scripts/tools fuzz
	scripts/fuzz $(FUZZ_SECONDS)

fmt: tools ## Format the code
	cargo fmt --all

tools: ## Install what is missing of what the other targets need
	@scripts/tools

clean: ## Remove what was built, and the data of `make dev`
	cargo clean
	rm -rf .redeliver
