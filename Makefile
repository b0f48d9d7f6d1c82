# make demo · test · test-slow · lint · bench: each creates .venv and installs on first use.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND := Agg

.PHONY: demo test test-slow lint format bench clean

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

# The main job of each paper on its offline sample; results under demo/.
demo: .venv/.installed
	cd cavl && ../$(BIN)/python main.py --sample --output_dir ../demo/cavl --overwrite
	@echo "demo done; figures, metrics and checkpoints lie in demo/"

test: .venv/.installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/.installed
	$(BIN)/python -m pytest -m slow

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.installed
	for b in benchmarks/bench_*.py; do $(BIN)/python $$b || exit 1; done

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
