# `make` alone lists the targets.

.DEFAULT_GOAL := help
.PHONY: help build demo demo-down test test-long explore bench lint

# One step of a longer run: a banner, the time it took, and which step it was when it fails.
define stage
@printf '\n=== %s\n' '$(1)'; \
started=$$(date +%s); \
if $(2); then \
    printf '=== %s: ok (%s s)\n' '$(1)' "$$(($$(date +%s) - started))"; \
else \
    printf '\n=== %s: FAILED (%s s): %s\n' '$(1)' "$$(($$(date +%s) - started))" '$(2)' >&2; exit 1; \
fi
endef

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the original practice on this machine, from nothing to four replicas behind nginx
	@manifests/demo/demo.sh up

demo-down: ## remove what the demo made
	@manifests/demo/demo.sh down

build: ## target/release/reeve
	@manifests/demo/toolchain.sh
	cargo build --release --locked

test: ## everything: servers, images, build, format, lints, tests against real servers
	$(call stage,toolchain,manifests/demo/toolchain.sh fmt clippy)
	$(call stage,servers,manifests/demo/servers.sh)
	$(call stage,images,manifests/demo/images.sh)
	$(call stage,build,cargo build --locked)
	$(call stage,format,cargo fmt --check)
	$(call stage,lints,cargo clippy --locked --all-targets -- -D warnings)
	$(call stage,tests,RUST_TEST_THREADS=4 cargo test --locked)
	@printf '\n=== all stages passed\n'

test-long: ## the long tests on real servers: storms, a crash after every action; prints a table
	$(call stage,toolchain,manifests/demo/toolchain.sh)
	$(call stage,servers,manifests/demo/servers.sh)
	$(call stage,images,manifests/demo/images.sh)
	$(call stage,build,cargo build --locked)
	$(call stage,long tests,tests/long.sh)

explore: ## the planner against crashes, faults and late views in memory, at length; and without each of its gates
	@manifests/demo/toolchain.sh
	REEVE_EXPLORE=long cargo test --locked --profile explore --test explore -- --nocapture --test-threads=1

lint: ## format and lints alone
	@manifests/demo/toolchain.sh fmt clippy
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

bench: ## the pure part's figures (criterion); nginx's own balancer beside the one in Lua (needs wrk and nginx's Lua module)
	@manifests/demo/toolchain.sh
	cargo bench --locked --bench plan
	cargo bench --locked --bench balancer
