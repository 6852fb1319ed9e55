# `make` alone lists the targets.

.DEFAULT_GOAL := help
.PHONY: help build demo demo-down test test-long explore bench soak lint

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

bench: ## figures: from a change to its traffic, many containers, a large catalog, a burst, the balancer in Lua, the pure part; one table
	$(call stage,toolchain,manifests/demo/toolchain.sh)
	$(call stage,servers,manifests/demo/servers.sh)
	$(call stage,images,manifests/demo/images.sh)
	$(call stage,wrk,command -v wrk >/dev/null || { apt-get update && apt-get install -y --no-install-recommends wrk; })
	$(call stage,the pure part,cargo bench --locked --bench plan)
	$(call stage,on real servers,cargo bench --locked --bench real)

soak: ## 20,000 changes of all kinds within an hour (SOAK=5m for fewer): is what the daemon holds flat at the end?
	$(call stage,toolchain,manifests/demo/toolchain.sh)
	$(call stage,servers,manifests/demo/servers.sh)
	$(call stage,images,manifests/demo/images.sh)
	$(call stage,soak,cargo bench --locked --bench real -- soak $(or $(SOAK),60m))
