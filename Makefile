# Every target makes .venv by itself. Without a GPU, add the CPU build of torch once:
#   make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH_INDEX ?=
TORCH ?= torch==2.13.0
PLATFORM ?= linux-$(shell uname -m)
EXTRA ?= train
KIT ?= offline-kit
SEEDS ?= 3
JOBS ?= 2
SECONDS ?= 600
WORK ?= build/bench-large

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := sdk plugins cli tests benchmarks tools examples
LIGHT := cli tools sdk/edgelora/*.py sdk/edgelora/registry sdk/edgelora/plan sdk/edgelora/manifest sdk/edgelora/conformance sdk/edgelora/store sdk/edgelora/signing sdk/edgelora/freshness sdk/edgelora/transfer sdk/edgelora/bundles \
	sdk/edgelora/micro sdk/edgelora/scaffold plugins/edgelora_plugins/*/__init__.py
# A caller's PYTHONPATH or user packages must not decide what is tested.
export PYTHONNOUSERSITE := 1

.PHONY: help quickstart test lint format acceptance llama-cpp fuzz conformance bench bench-large results compare micro offline-kit wheel wheel-test docs clean

help:
	@echo "make quickstart    the whole job on the built-in model, offline once installed (DERIVATIVE=qlora)"
	@echo "make test          the test suite, JOBS=2 files at a time"
	@echo "make lint          ruff and mypy"
	@echo "make acceptance    slow checks: kill rounds, three seeds"
	@echo "make llama-cpp     compiles llama.cpp (ten minutes) and compares exported adapters with it"
	@echo "make fuzz          SECONDS=600 per target: broken manifests, weights, …"
	@echo "make conformance   the second reader, driven over the conformance suite"
	@echo "make bench         ratios against peers, and memory (a quarter of an hour)"
	@echo "make bench-large   8B, 70B and phone shapes: WORK=build/bench-large takes 50 GB of disk"
	@echo "make results       docs/reference/results.md from what the benchmarks left"
	@echo "make compare       the derivatives side by side, three seeds (half an hour)"
	@echo "make micro         rebuild the built-in base model"
	@echo "make wheel-test    build the wheel, try it without the train extra"
	@echo "make offline-kit   PLATFORM=linux-x86_64|linux-aarch64 EXTRA=train|light: one folder that installs offline"
	@echo "TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the CPU build of torch"

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) -c constraints.txt '$(TORCH)'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

quickstart: $(READY)
	$(BIN)/edgelora quickstart $(if $(DERIVATIVE),--derivative $(DERIVATIVE))

test: $(READY)
	$(BIN)/python -m pytest -m 'not acceptance' -n $(JOBS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(LIGHT)

format: $(READY)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

acceptance: $(READY)
	$(BIN)/python -m pytest -m acceptance

# LLAMA_CPP_CONVERTER=…/convert_lora_to_gguf.py of a source tree prints its error beside ours.
llama-cpp: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt llama-cpp-python
	$(BIN)/python -m pytest -m acceptance tests/acceptance/test_llama_cpp.py

fuzz: $(READY)
	$(BIN)/python tests/fuzz/targets.py $(SECONDS) $(TARGET)

conformance: $(READY)
	$(BIN)/edgelora conformance run --vectors spec/v1/vectors --command '$(BIN)/python examples/strict_reader.py {kind} {path}' \
		--kind manifests --kind weights --kind directories --kind paths

bench: $(READY)
	failed=0; for name in plugins_list icq_search verify_speed packing transient_memory quantizers mixed_adapters adapter_loading; do \
		$(BIN)/python benchmarks/$$name.py --out build/bench/$$name.json || failed=1; \
	done; exit $$failed

bench-large: $(READY)
	failed=0; for name in estimate_accuracy phone_budget stream_8b stream_70b; do \
		$(BIN)/python benchmarks/$$name.py --work $(WORK) --out build/bench/$$name.json || failed=1; \
	done; exit $$failed

results: $(READY)
	$(BIN)/python benchmarks/results_page.py

compare: $(READY)
	$(BIN)/python benchmarks/derivatives.py --out build/bench/derivatives.json
	$(BIN)/python benchmarks/task_conflict.py --out build/bench/task_conflict.json
	$(BIN)/python benchmarks/forgetting.py --out build/bench/forgetting.json
	$(BIN)/python benchmarks/quality_paths.py --out build/bench/quality_paths.json

micro: $(READY)
	$(BIN)/python -m edgelora.micro.build

wheel: $(READY)
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

wheel-test: wheel
	$(BIN)/python tools/wheel_test.py dist/*.whl

offline-kit: wheel
	$(BIN)/python tools/offline_kit.py --platform $(PLATFORM) --extra $(EXTRA) --out $(KIT) \
		$(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) dist/*.whl

docs: $(READY)
	$(BIN)/python tools/reference_docs.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
