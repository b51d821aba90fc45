# `make help` lists what there is. Each target does its own set-up: it looks for what it needs and installs only that.

.DEFAULT_GOAL := help
SHELL := /bin/sh

.PHONY: help demo dev test valkey chaos nightly check bench fuzz fmt tools clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: tools ## Play a campaign of bounces against a cast of mail servers, in fast motion (ARGS="--keep" and others)
	cargo run --locked --bin redeliver -- demo $(ARGS)

dev: tools ## Run scheduler and worker over a Redis server of their own, until Ctrl-C
	cargo run --locked --bin redeliver -- dev $(ARGS)

test: ## Run all tests, against a real Redis and a real Postfix, and one minute of chaos
	@scripts/tools test
	cargo build --locked --bin redeliver
	cargo test --locked --workspace $(ARGS)
	scripts/chaos quick

valkey: ## Run the tests that want a server over Valkey in place of Redis
	@scripts/tools valkey
	cargo build --locked --bin redeliver
	REDELIVER_REDIS_SERVER=valkey-server cargo test --locked --workspace --test promises $(ARGS)

chaos: ## Break a running fleet in every way and check every promise (ARGS="--seed 7 --minutes 2 --shape sentinel"; docs/chaos.md)
	@scripts/tools chaos
	cargo build --locked --bin redeliver
	cargo run --locked --package chaos -- $(ARGS)

nightly: ## What is too long for CI: chaos over all shapes, with several seeds (SEEDS="1 2 3" MINUTES=4)
	@scripts/tools chaos
	scripts/chaos long

check: tools ## What CI looks at first: format, lints, licences and advisories where cargo-deny is there, tidiness
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	scripts/fuzz check
	scripts/deny
	scripts/tidy

bench: tools ## Measure this machine and print the table of docs/BENCHMARKS.md, an hour in all (ARGS="cycle --runs 5")
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
