# A name for each command of README.md and CONTRIBUTING.md. What they do is in scripts/ and in cargo.

# The PostgreSQL meant: a major version, and for one that is not in Debian's usual place its pg_config.
#   make test PG=17
#   make install PG_CONFIG=/opt/postgresql/bin/pg_config
PG ?= $(shell scripts/postgres --default)

.DEFAULT_GOAL := help
.PHONY: help all demo install deb test test-all soak lint bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: ## from a table to a delivered event in a minute, on servers started for it and thrown away
	@scripts/prerequisites scratch $(PG)
	@scripts/with-extension release $(PG) cargo run --release -p bench --bin demo

install: ## build a release and install it into this machine's PostgreSQL (PG=15, or PG_CONFIG=path)
	@scripts/prerequisites install $(PG)
	@scripts/install $(PG)

all: ## build a release without installing it, which is what pgxn asks for first
	@scripts/prerequisites install $(PG)
	@scripts/install --build $(PG)

deb: ## a Debian package of a release, for PostgreSQL of that version from Debian or apt.postgresql.org (PG=15)
	@scripts/prerequisites package $(PG)
	@scripts/with-extension release $(PG) scripts/deb $(PG)

test: ## every test, on one PostgreSQL (PG=15)
	@scripts/prerequisites test $(PG)
	@scripts/counted cargo test -p fake-lago
	@scripts/test-in-server $(PG)
	@scripts/test-delivery $(PG)

test-all: ## every test, on PostgreSQL 14 to 18 (TEST_ALL=in-server: delivery tests on 15 only)
	@scripts/prerequisites test 14 15 16 17 18
	@scripts/test-all

soak: ## random trouble of every kind, one line for each seed (SEEDS=1..50 or 3,17; SECONDS=8 of trouble each)
	@scripts/prerequisites scratch $(PG)
	@scripts/soak $(PG) "$(or $(SEEDS),1..10)" "$(or $(SECONDS),8)"

lint: ## rustfmt and clippy, warnings are errors; shellcheck where it is installed
	@scripts/prerequisites scratch $(PG)
	@scripts/lint $(PG)

bench: ## the figures of the README, as ratios (QUICK=1: a rough idea; PARTS="bulk drain": some of them)
	@scripts/prerequisites bench $(PG)
	@QUICK=$(QUICK) scripts/with-extension release $(PG) cargo run --release -p bench --bin bench $(PARTS)

clean: ## remove everything built and fetched
	cargo clean
	rm -rf "$$(scripts/cache-folder)"
