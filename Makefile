# `make demo` and `make test` need a Rust toolchain and, for what is missing, apt-get (as root or with sudo).

CARGO ?= cargo
# Optimised, but without the minutes that the release profile takes to link.
FAST := --locked --profile fast
SERVERS := cc redis-server redis-sentinel redis-cli setpriv
# What the tests have beside them: networks whose cables can be cut, and threads that are stopped.
FAULTS := ip perl dnsmasq

.PHONY: help build demo test test-all faults failover-compare instructions soak page limits model mutants fuzz fuzz-build fuzz-smoke lint doc deb deb-try audit bench bench-syscalls bench-growth \
	conformance conformance-valkey conformance-resp3 conformance-ready clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 28

build: ## the release binary, target/release/pointsman
	@tests/install.sh cc
	$(CARGO) build --locked --release

# BESIDE='--test architecture' takes what `make test` has built: cargo builds the libraries for a program alone once more,
# without the features that only tests need, which takes two minutes.
demo: ## two failovers on real servers, with what the clients noticed of them (under a minute)
	@tests/install.sh $(SERVERS)
	$(CARGO) build $(FAST) --bin pointsman $(BESIDE)
	target/fast/pointsman demo $(ARGS)

# What needs a server waits for it most of the time; the few tests that must not be disturbed wait for each other.
THREADS := 4
RUN_TESTS = RUST_TEST_THREADS=$(THREADS) $(CARGO) test $(FAST) --no-fail-fast
# These wait for Sentinel nearly all the time, two minutes with hardly any CPU: they run beside the others.
BESIDE_OTHERS := control switchover
PROGRAMS := $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs)) $(patsubst tests/%.rs,%,$(wildcard tests/*.rs))
OTHERS = $(filter-out $(BESIDE_OTHERS),$(PROGRAMS))

test: ## all tests but the few that take minutes
	@tests/install.sh $(SERVERS) $(FAULTS) promtool amtool haproxy curl python3
	@tests/e2e/install.sh
	@tests/deploy/install.sh
	$(CARGO) test --locked --lib --bins
	$(CARGO) test $(FAST) --test '*' --no-run
	@$(RUN_TESTS) $(addprefix --test ,$(BESIDE_OTHERS)) >target/beside.log 2>&1 & beside=$$!; \
	$(RUN_TESTS) $(addprefix --test ,$(OTHERS)); status=$$?; \
	wait $$beside || status=$$?; cat target/beside.log; exit $$status

test-all: test ## and those too
	@tests/install.sh chromium valgrind
	$(CARGO) test $(FAST) --test '*' -- --ignored --nocapture --skip beside_haproxy

# Most of the time they wait, so that more of them than there are cores can run at once.
faults: ## every fault around a failover, and a table of what it cost (2 minutes; as root for those in network namespaces)
	@tests/install.sh $(SERVERS) $(FAULTS)
	@rm -f target/tmp/faults.table
	$(CARGO) test $(FAST) --test faults -- --include-ignored --skip beside_haproxy --test-threads 6; status=$$?; \
		echo '|   # | scenario | errors | drops | longest stall, ms | acknowledged and lost | run twice | acknowledged |'; \
		sort -t '|' -k 2 target/tmp/faults.table; exit $$status

failover-compare: ## planned, crash and hang, through pointsman and through HAProxy with role checks: a table (5 minutes)
	@tests/install.sh $(SERVERS) haproxy
	$(CARGO) test $(FAST) --test faults -- --ignored --nocapture beside_haproxy

page: ## the status page in headless Chromium; PAGE_PICTURES=directory keeps pictures (base64) of it
	@tests/install.sh $(SERVERS) chromium
	$(CARGO) test $(FAST) --test operating page:: -- --ignored

instructions: ## how many instructions a command costs, and whether they have become more (seconds)
	@tests/install.sh $(SERVERS) valgrind
	$(CARGO) test $(FAST) --test proxy -- --ignored --nocapture instructions

soak: ## a hundred clients through planned failovers and killed masters for ten minutes; SOAK_SEED=n repeats one
	@tests/install.sh $(SERVERS)
	$(CARGO) test $(FAST) --test isolation -- --ignored --nocapture ten_minutes

model: ## the failover machine in a larger world, every way that it can go (minutes, and some GB of memory)
	@tests/install.sh cc
	$(CARGO) test $(FAST) --test model -- --ignored --nocapture

# ARGS='--file src/topology/failover/commit.rs', or any others of `cargo mutants`.
mutants: ## faults planted in src/topology, one by one: which of them would no test notice? (an hour)
	@tests/install.sh cc
	@command -v cargo-mutants >/dev/null 2>&1 || $(CARGO) install --locked cargo-mutants
	CARGO='$(CARGO)' tests/mutants.sh $(ARGS)

limits: ## every limit at full size, and what the neighbours notice (minutes, on a quiet machine)
	@tests/install.sh $(SERVERS)
	$(CARGO) test $(FAST) --test limits -- --include-ignored --nocapture --test-threads 1

# libFuzzer without cargo-fuzz, which takes longer to install than all this: its coverage is a pass of the compiler that
# the stable toolchain has. `--target` keeps that from build scripts. The sanitizers need a nightly one, and would look
# for what cannot be in code that forbids `unsafe`.
FUZZERS := requests replies sessions sentinel proxy_header
FUZZ_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_DIR := target/fuzz
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
# Each fuzzer's: seconds, and what libFuzzer is told besides. What it finds worth keeping stays below target/.
FUZZ_SECONDS ?= 600
FUZZ_ARGS ?= -timeout=5 -rss_limit_mb=1024 -max_len=4096

fuzz: fuzz-build ## the fuzzers, each for FUZZ_SECONDS (600); FUZZERS=name for one of them
	@for fuzzer in $(FUZZERS); do \
		mkdir -p $(FUZZ_DIR)/corpus/$$fuzzer && \
		$(FUZZ_DIR)/$(FUZZ_TARGET)/fuzz/$$fuzzer -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 \
			-artifact_prefix=$(FUZZ_DIR)/$$fuzzer- $(FUZZ_ARGS) \
			$(FUZZ_DIR)/corpus/$$fuzzer fuzz/corpus/$$fuzzer || exit; \
	done

fuzz-smoke: ## the fuzzers, ten seconds each
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=10

# With the versions that are shipped.
fuzz-build:
	@tests/install.sh cc c++
	cp Cargo.lock fuzz/Cargo.lock
	RUSTFLAGS='$(FUZZ_FLAGS)' $(CARGO) build --manifest-path fuzz/Cargo.toml --target-dir $(FUZZ_DIR) \
		--target $(FUZZ_TARGET) --profile fuzz

lint: ## formatting and clippy, warnings denied
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
	@tests/install.sh cc
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc: ## the documentation of the code, broken links denied
	@tests/install.sh cc
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --locked --no-deps --document-private-items

# As on the machine that makes it: what it needs there it finds in Debian of the same version.
deb: build ## a Debian package of it, below target/deb
	@tests/install.sh dpkg-buildpackage dh_installsystemd go-md2man
	deploy/debian/build.sh target/release/pointsman target/deb

deb-try: ## the package, of a build that takes less time: lintian, and installed, upgraded and purged in a small Debian (as root)
	@tests/install.sh cc dpkg-buildpackage dh_installsystemd go-md2man lintian mmdebstrap
	$(CARGO) build $(FAST) --bin pointsman
	deploy/debian/try.sh "$$(deploy/debian/build.sh target/fast/pointsman target/deb-try)" target/deb-try

# The advisory database is fetched from GitHub; where that cannot be reached, everything else is still checked.
audit: ## licences, bans, sources, and known vulnerabilities where the database can be had
	@command -v cargo-deny >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check --hide-inclusion-graph licenses bans sources
	@if $(CARGO) deny --locked fetch db; then \
		$(CARGO) deny --locked check --hide-inclusion-graph advisories; \
	else \
		echo 'audit: the advisory database cannot be reached; advisories were NOT checked'; \
	fi

# Some ten minutes each. ARGS="unit/auth …" runs only these files.
conformance: conformance-ready ## Redis' own test suite, directly and through pointsman, compared test by test (minutes)
	tests/conformance/fetch.sh redis target/conformance/redis
	tests/conformance/run.sh redis $(ARGS)

conformance-valkey: conformance-ready ## Valkey's, with Valkey 8 from Debian's backports, or built from Debian's source
	tests/conformance/fetch.sh valkey target/conformance/valkey
	tests/conformance/run.sh valkey $(ARGS)

conformance-resp3: conformance-ready ## the same with clients that speak RESP3
	tests/conformance/fetch.sh valkey target/conformance/valkey
	tests/conformance/run.sh resp3 $(ARGS)

conformance-ready:
	@tests/install.sh cc $(SERVERS) redis-benchmark tclsh dpkg-source
	$(CARGO) build $(FAST) --bin pointsman

# What is shipped is measured, and not what a `cargo bench` makes of the program: that one is linked with libraries that can do
# what only tests need, such as tokio's clock, which can be stopped, and costs 6 % more instructions.
COMPARE := POINTSMAN=$${POINTSMAN:-target/release/pointsman} $(CARGO) bench $(FAST) --bench compare -- --out target/bench

bench: build ## pointsman beside its peers and beside Redis itself, in turns; ARGS='--rounds 3 --row GET'; on a quiet machine
	@tests/install.sh $(SERVERS) redis-benchmark haproxy nutcracker
	$(COMPARE) $(ARGS)

bench-syscalls: build ## how many system calls a command costs, and how many commands a turn has (as root)
	@tests/install.sh $(SERVERS) redis-benchmark haproxy nutcracker perf
	$(COMPARE) --syscalls $(ARGS)

bench-growth: build ## how the cost of a command grows with clients, pipelines, the size of values and services
	@tests/install.sh $(SERVERS)
	$(COMPARE) --growth $(ARGS)

clean: ## remove what was built
	$(CARGO) clean
