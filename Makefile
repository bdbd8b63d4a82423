# Everything a developer runs, by name. `make help` lists the targets; CONTRIBUTING.md says more.

PG ?= 15
export PG

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-pg test-crates test-regress test-client test-docs test-reference test-pgspot test-orm \
        test-interop test-fuzz test-site fuzz bench lint install package clean distclean

help: ## this list
	@echo 'make TARGET [PG=15|16|17|18]      PostgreSQL $(PG) is selected'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## system packages, tools and a private PostgreSQL under target/
	@scripts/setup

build: setup ## build the extension and install it into the private PostgreSQL
	@scripts/build

demo: build ## from nothing to a running example: catalog, accounts, answers, row-level security
	@scripts/cluster start
	@PGOPTIONS='-c client_min_messages=warning' scripts/cluster psql -X -q -c 'DROP DATABASE IF EXISTS demo WITH (FORCE)' -c 'CREATE DATABASE demo'
	@scripts/cluster psql -X -v ON_ERROR_STOP=1 -d demo -f examples/demo.sql
	@echo
	@echo 'Look around with: scripts/cluster psql $(PG) demo'

test: build ## all tests on one PostgreSQL
	@scripts/test

test-pg: build ## those tests that depend on the PostgreSQL version
	@scripts/test regress client docs reference

test-crates: setup ## tests of the crates, without a server
	@scripts/test crates

test-regress: build ## the SQL surface
	@scripts/test regress

test-client: build ## many connections, roles, errors
	@scripts/test client

test-docs: build ## the SQL in README.md and docs/
	@scripts/test docs

test-reference: build ## docs/reference.md against the comments in the database
	@scripts/test reference

test-pgspot: build ## the install script, for security holes
	@scripts/test pgspot

test-orm: build ## the recipes for ORMs and drivers, also through PgBouncer
	@scripts/test orm

test-interop: build ## our signed documents in other people's libraries, and theirs in ours
	@scripts/setup interop
	@scripts/test interop

test-fuzz: ## every fuzz target for some seconds
	@scripts/test fuzz

test-site: package ## the steps of docker/ through the life of a site, in a Debian that debootstrap makes; needs root
	@docker/prove

fuzz: ## every fuzz target, an hour in all
	@scripts/fuzz

bench: build ## measurements on one PostgreSQL, with results in target/bench
	@scripts/cluster stop
	@SETTINGS='shared_buffers=4GB' scripts/cluster start
	@scripts/cluster exec bench/run; status=$$?; scripts/cluster stop; exit $$status

lint: setup ## formatting, warnings, shell scripts, where unsafe code may be
	@scripts/lint

install: ## install into the server of PG_CONFIG=/path/to/pg_config
	@test -n '$(PG_CONFIG)' || { echo 'usage: make install PG_CONFIG=/path/to/pg_config' >&2; exit 2; }
	@scripts/setup tools
	@scripts/build --into '$(PG_CONFIG)'

package: setup ## a tarball of the built extension in target/package
	@scripts/build --package

clean: ## stop and remove clusters and what cargo built; keep tools and servers
	@for pg in 15 16 17 18; do scripts/cluster destroy $$pg; CLUSTER=meter scripts/cluster destroy $$pg; done
	@rm -rf target/release target/debug target/test target/package target/orm/cargo

distclean: clean ## also remove tools and servers
	@test ! -L target/place || rm -rf "$$(readlink target/place)"
	@rm -rf target tests/orm/*/node_modules
