# make demo: generate data, pretrain, finetune, evaluate, in minutes on a CPU.   make test: the quick tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow lint clean

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	# The CPU build, before anything asks for another.
	$(BIN)/python -m pip install --quiet "torch>=2.9,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	rm -rf demo
	$(BIN)/renaissance prepare shapes --output demo/shapes --only captions nlvr2
	$(BIN)/renaissance pretrain pretrain_shapes_two_tower
	$(BIN)/renaissance nlvr2 nlvr2_shapes
	$(BIN)/renaissance demo demo/nlvr2

# A process a core, with one thread each: threads that wait for each other would stall both. Tests of one file share what they set up.
test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadscope

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv .cache build demo outputs
