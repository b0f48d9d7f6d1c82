# make demo · test · test-slow · test-browser · lint · docs · bench · compare · reproduce: each creates .venv and installs on first use.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND := Agg
# Modules are compiled once, whatever the environment says: the tests start a thousand processes.
unexport PYTHONDONTWRITEBYTECODE
# Tests share the cores: a process on each, one thread a process, as their tensors are small.
ONE_THREAD := OMP_NUM_THREADS=1
ALL_CORES := -n auto --dist loadfile

.PHONY: demo test test-slow test-browser lint format docs bench compare reproduce clean

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

# The main job of each paper on its offline sample; results under demo/.
demo: .venv/.installed
	cd cavl && ../$(BIN)/python main.py --sample --output_dir ../demo/cavl --overwrite
	cd csl && ../$(BIN)/python train.py --partial_loss_mode=selective --sample --output_dir ../demo/csl --overwrite
	cd mile && ../$(BIN)/python MILe.py --dataset mnist --sample --output_dir ../demo/mile --overwrite
	cd calm && ../$(BIN)/python main.py --sample --attribution_method=CALM_EM --output_dir ../demo/calm --overwrite
	cd oass && ../$(BIN)/python train_classification_with_puzzle_cTopk_w_ema.py --sample --output_dir ../demo/oass --overwrite
	@echo "demo done; figures, metrics and checkpoints lie in demo/"

test: .venv/.installed
	$(ONE_THREAD) $(BIN)/python -m pytest $(ALL_CORES) -m "not slow and not browser"

test-slow: .venv/.installed
	$(ONE_THREAD) $(BIN)/python -m pytest $(ALL_CORES) -m "slow and not browser"

# The page of compare.py in headless Chromium (Debian: apt-get install chromium).
test-browser: .venv/.installed
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m browser

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site: docs/_build/html/index.html. A warning is an error; nothing is fetched to read it.
docs: .venv/.installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: .venv/.installed
	for b in benchmarks/bench_*.py; do $(BIN)/python $$b --write || exit 1; done

# RUNS="DIR ..." adds the curves of run directories.
compare: .venv/.installed
	$(BIN)/python compare.py $(RUNS)

# SCALE=sample|small|full, PAPER=cavl|..., DATA=folder, LAUNCHER="accelerate launch"
SCALE ?= sample
export DATA LAUNCHER
reproduce: .venv/.installed
	$(BIN)/python scripts/reproduce.py --scale $(SCALE) $(if $(PAPER),--paper $(PAPER)) \
		$${DATA:+--data "$$DATA"} $${LAUNCHER:+--launcher "$$LAUNCHER"}

clean:
	rm -rf .venv build docs/_build *.egg-info .pytest_cache .ruff_cache
