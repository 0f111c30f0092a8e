# make demo    train, sample and say what to try next (sets up .venv the first time)
# make demo-chat   from text to a model that answers: pretrain, fine-tune, judgements, DPO, chat
# make demo-rlhf   go on with a reward model, PPO and GRPO
# make test    the tests
# make test-quick   some of them, in a minute: after every change
# make test-long    what takes long: browsers, kills, fuzzing, demos, commands pasted from the docs
# make lint    ruff and mypy
# make bench   all benchmarks against PyTorch and JAX, into bench.json (see docs/performance.md)
# make bench-quick   a few of them, in minutes
# make docs    write docs/commands.md from the commands' help, docs/config.md from the schema
# make clean   remove what these verbs made, .venv included

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := runs/demo
# Says that runs/demo may be removed by the next demo.
MARK := $(DEMO)/made-by-make-demo.txt

.PHONY: demo demo-chat demo-rlhf test test-quick test-long lint bench bench-quick docs clean
.DELETE_ON_ERROR:

# Each stamp is newer than what it was made from, so that setting up happens once.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit('bptool needs Python 3.11 or later; name one with: make PYTHON=python3.11' if sys.version_info < (3, 11) else 0)"
	@echo "Setting up $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e ".[test]"
	@touch $@

$(VENV)/ready-lint: $(VENV)/ready
	@$(INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/ready-bench: $(VENV)/ready
	@echo "Installing PyTorch, JAX and MKL to compare with (once; a large download)"
	@$(INSTALL) -e ".[bench,mkl]"
	@touch $@

demo: $(VENV)/ready
	@if [ -e $(DEMO) ] && [ ! -e $(MARK) ]; then \
	  echo "$(DEMO) was not made by 'make demo', or its demo was killed; move or remove it"; exit 2; fi
	@rm -rf $(DEMO)
	@code=0; $(BIN)/bptool train configs/quickstart.yaml --out $(DEMO) || code=$$?; \
	  if [ -d $(DEMO) ]; then echo "The next 'make demo' removes this folder." > $(MARK); fi; \
	  exit $$code
	@echo
	@$(BIN)/bptool generate $(DEMO) --num-samples 3 --max-tokens 220 --temperature 0.8
	@echo
	@echo "Plot of the losses:  $(DEMO)/loss.png"
	@echo "Try next:            $(BIN)/bptool generate $(DEMO) --prompt \"Early one\""
	@echo "Train on your text:  $(BIN)/bptool train book.txt"

demo-chat: $(VENV)/ready
	@if [ -e $(DEMO)-chat ] && [ ! -e $(DEMO)-chat/made-by-the-demo.txt ]; then \
	  echo "$(DEMO)-chat was not made by 'make demo-chat'; move or remove it"; exit 2; fi
	@rm -rf $(DEMO)-chat
	@$(BIN)/python docs/demo_chat.py chat --out $(DEMO)-chat
	@echo "Talk with it:  $(BIN)/bptool chat $(DEMO)-chat/dpo"
	@echo "Go on with:    make demo-rlhf"

demo-rlhf: $(VENV)/ready
	@rm -rf $(DEMO)-chat/more-judgements.jsonl $(DEMO)-chat/reward $(DEMO)-chat/ppo $(DEMO)-chat/grpo
	@$(BIN)/python docs/demo_chat.py rlhf --out $(DEMO)-chat
	@echo "Talk with it:  $(BIN)/bptool chat $(DEMO)-chat/grpo"

test: $(VENV)/ready
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-quick: $(VENV)/ready
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m quick

test-long: $(VENV)/ready
	@$(BIN)/python -m pytest -m long -v

lint: $(VENV)/ready-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready-bench
	@$(BIN)/python -m benchmarks all --out bench.json

bench-quick: $(VENV)/ready-bench
	@$(BIN)/python -m benchmarks all --quick

docs: $(VENV)/ready
	@$(BIN)/python docs/write_commands.py
	@$(BIN)/python docs/write_config.py

clean:
	@if [ -e $(MARK) ]; then rm -rf $(DEMO); fi
	@if [ -e $(DEMO)-chat/made-by-the-demo.txt ]; then rm -rf $(DEMO)-chat; fi
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
