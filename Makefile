# make demo: generate data, pretrain, finetune, evaluate, in minutes on a CPU.   make test: the quick tests.
PYTHON ?= python3
BIN := .venv/bin
RECIPES := run_scripts/recipes

.PHONY: install demo test test-slow lint clean

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "torch>=2.9,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	rm -rf demo
	$(BIN)/python run_scripts/prepare_data.py shapes --output demo/shapes --only captions nlvr2
	$(BIN)/python run_scripts/run_pretrain.py $(RECIPES)/pretrain_shapes_two_tower.yaml
	$(BIN)/python run_scripts/run_nlvr2.py $(RECIPES)/nlvr2_shapes.yaml
	$(BIN)/python run_scripts/demo.py demo/nlvr2

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
