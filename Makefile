# What a contributor needs, each from a clean clone. `demo`, `test` and `lint` share one build (target/debug).

CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(PATH):$(CARGO_HOME)/bin:/usr/local/bin:/opt/homebrew/bin

.DEFAULT_GOAL := help
.PHONY: help setup build demo test soak fuzz bench lint

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Find or install what the tests need beside Rust: servers (Redis, PostgreSQL, PgBouncer, moto, azurite), strace, a C compiler
	@scripts/setup.sh cargo cc redis-server postgres pgbouncer strace moto azurite

build: ## Build the worker and its plugins
	@scripts/setup.sh cargo cc
	cargo build --workspace

demo: ## See it work: a private Redis, the worker, a dozen evaluations
	@scripts/setup.sh cargo cc redis-server
	cargo build --workspace
	@scripts/demo.sh

test: setup ## Run all tests
	@# With the tests, whose dependencies ask more of shared crates: else those and the worker are built twice.
	cargo build --workspace --lib --bins --tests
	@# Most tests wait for servers and workers, not for a core.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(getconf _NPROCESSORS_ONLN)))} cargo test --workspace
	CARGO_PROFILE_DEV_DEBUG=false cargo test --manifest-path examples/sqlite/Cargo.toml --locked --target-dir target/variants

soak: setup ## Run the long variants of tests: reloads, swaps, outages, conservation, under load (hours); SEED=1
	cargo build --workspace
	RELOADS=300 cargo test --workspace --test system many_changes -- --nocapture
	SWAP_RUNS=20 SWAP_RATE=2000 cargo test --workspace --test system swap:: -- --nocapture
	OUTAGE_SECONDS=20 cargo test --workspace --test system journal:: -- --nocapture
	SEED=$(or $(SEED),$(shell date +%s)) EVENTS=200000 FAULTS_EACH=20 HONESTY_KILLS=200 DEAD_WORKERS=10 cargo test --workspace --test system conservation:: -- --nocapture --test-threads 1
	OUTAGE_SECONDS=60 cargo test --workspace --test system composite::outages:: -- --nocapture --test-threads=1
	EVALUATIONS=1000000 cargo test --workspace --test cache -- --nocapture
	LAYERS=all cargo test --workspace --test conformance layers:: -- --nocapture
	POISON_EVENTS=60000 cargo test --workspace --test system poison:: -- --nocapture
	LONG_OUTAGE_SECONDS=300 cargo test --workspace --test system outage:: -- --nocapture
	REPLAY_SETS=5000 cargo test --workspace --test system replaying:: -- --nocapture
	SHARED_ROUNDS=100 cargo test --workspace --test conformance postgres_is_complete_and_shared -- --nocapture
	ROWS=1000000 cargo test --workspace --test system postgres::plans:: -- --nocapture

fuzz: ## Try odd input on decoding, merging, states, journal, manifests, configurations; SECONDS_EACH=600
	@scripts/setup.sh cargo cc c++
	scripts/fuzz.sh $(or $(SECONDS_EACH),600)

bench: ## Measure against the budgets (release build, some minutes); BENCH="--help" names the rows
	@scripts/setup.sh cargo cc redis-server postgres
	cargo build --release --workspace
	cargo bench --workspace --bench budgets -- $(BENCH)

lint: ## Check format, lints and documentation
	@scripts/setup.sh cargo cc
	cargo fmt --all --check
	cargo fmt --manifest-path examples/sqlite/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	CARGO_PROFILE_DEV_DEBUG=false cargo clippy --manifest-path examples/sqlite/Cargo.toml --all-targets --locked --target-dir target/variants -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
