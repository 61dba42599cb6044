# The README's commands. `make demo` and `make test` need Python 3.11+, git and make; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
COVERING := tests/attacks tests/features $(wildcard tests/extract/test_video*.py) \
	tests/extract/test_isolate.py tests/extract/test_decoders.py tests/extract/test_clip_stream.py \
	tests/pipelines/test_bad_inputs.py tests/pipelines/test_store_commands.py tests/pipelines/test_lifecycle.py

# Tests start hundreds of processes, and each would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check install fuzz soak sabotage coverage container-check clean

demo: install
	$(BIN)/vadx demo

# Two at a time: tests wait for processes, disks and one thread. Two times two threads of torch would wait for each other.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p vadx

install: $(READY)

# uv fills the environment in half the time; where it cannot reach the registry that pip is configured for, pip does it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e . --group dev \
		|| $(BIN)/python -m pip install --quiet -c constraints.txt -e . --group dev
	touch $(READY)

# As long as one likes, for instance: make fuzz ARGS="--minutes 60 --seed 7"; make soak ARGS="--hours 24". docs/robustness.md
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(ARGS)

soak: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/soak.py $(ARGS)

# Removes one guard at a time, in copies, and prints the test that turns red for each; half an hour on 2 cores.
sabotage: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/sabotage.py $(ARGS)

# Which branches of what stores and decodes its tests take; 9 minutes on one core.
coverage: install
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest $(COVERING)
	$(BIN)/python -m coverage report

# Runs the Dockerfile's steps word for word without a container engine; needs root and a package registry.
container-check: install
	$(BIN)/python tests/container/check_dockerfile.py --light

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .demo
