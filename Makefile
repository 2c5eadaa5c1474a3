# Everything starts here; each target does its own set-up first (infra/venv.sh: once, then at once).
#
#   make demo     the whole pipeline on the tabletop world: score table and report
#   make test     all tests            make test ARGS="tests/benchmarks -x"   some of them
#                 in 3 processes, each a file at a time; JOBS=0: in one, for a debugger
#   make check    format, lint, types
#   make bench    figures of speed on this machine: BENCH lines, and bench.json
#   make faults   what survives: kills, full disks, stores that go away (docs/faults.md)
#   make fresh-test   demo and test on a Debian 13 system made for it; takes root and debootstrap (infra/fresh_test.sh)
#                 make fresh-test ARGS="tests/stages": of the tests only these; ARGS=none: only the demo
#   make venv     only the set-up      make venv PYTHON=/path/to/python3.12
#   make clean    what make made, not ./zscir-store

VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 3
export VENV

.PHONY: help demo test check format bench faults fresh-test venv browser clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo: venv
	$(BIN)/zscir demo $(ARGS)

test: venv browser
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck infra/*.sh .ci/run

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	$(BIN)/python -m pytest tests/bench -o python_files='bench_*.py' --timeout=0 -s $(ARGS)

# Every test that docs/faults.md names.
FAULTS := tests/faults $(addprefix tests/data/download/test_,img2dataset_job.py decode_sandbox.py) \
	tests/lineage/test_reaper.py tests/maintenance/test_delete.py tests/maintenance/test_verify.py \
	$(addprefix tests/store/test_,leases.py file_locks.py retrying_fs.py) \
	$(addprefix tests/flows/test_,deployed_flows.py remote_dispatch.py pipeline_flow.py maintenance_flows.py local_server.py \
	waiting.py) \
	$(addprefix tests/training/test_,launch.py loop.py)

faults: venv
	ZSCIR_TEST_KILLS=10 ZSCIR_TEST_AWAY_S=60 $(BIN)/python -m pytest $(FAULTS) --timeout=900 $(ARGS)

# No set-up here: what is tested is a machine that has none.
fresh-test:
	@FRESH_TESTS="$(ARGS)" infra/fresh_test.sh

venv:
	@PYTHON="$(PYTHON)" infra/venv.sh

# For the test that looks at the report. Where it cannot be installed that test is skipped and says so.
browser:
	@infra/browser.sh

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fresh-test
	find zscir flows tests -name __pycache__ -type d -prune -exec rm -rf {} +
