# Each target does the set-up that it needs, on a machine with Python 3.11 or newer, make and git.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-all bench reproduce chaos audit check lint dashboards screenshots

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Stillhouse needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[examples,dev]'
	touch $(INSTALLED)

# Distils five nets into one on 5,000 digits of MNIST, a few minutes on two cores.
demo: install
	$(BIN)/stillhouse run examples/mnist/config.yaml

# Everything quick.
test: install
	$(BIN)/python -m pytest -m "not slow"

test-all: install
	$(BIN)/python -m pytest

# Kills and stops what belongs to a run at random moments, 55 times over at least 11 runs, and compares what comes of it.
# Before that, a million simulated schedules of faults; a seed that fails replays by `--seed` or `--lock`.
chaos: install
	$(BIN)/python -m tests.simulation --schedules 1000000 --contests 10000
	$(BIN)/python -m tests.chaos.monkey --runs 8 --disturbances 40
	$(BIN)/python -m tests.chaos.monkey --runs 3 --disturbances 15 --nodes 3

# A Ray head, Prometheus with the shipped configuration, and a run beside them; Ctrl-C ends them.
CONFIG ?= examples/mnist/config.yaml
dashboards: install
	dashboards/serve $(CONFIG)

# The documentation's pictures of MLflow and of a report, taken in a browser (chromium) of the three runs that they compare.
screenshots: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[screenshots]'
	rm -rf build/screenshots && mkdir -p build/screenshots
	set -e; for t in 1 5 20; do $(BIN)/stillhouse run examples/mnist/config.yaml --set name=mnist-t$$t --set storage=build/screenshots \
	    --set distillation.temperature=$$t --set tracking.uri=sqlite:///build/screenshots/mlflow.db --set tracking.experiment=mnist; done
	$(BIN)/python docs/screenshots.py --uri sqlite:///build/screenshots/mlflow.db --experiment mnist --report build/screenshots/mnist-t20/report.html

# Side-by-side measurements, about an hour on two cores; each writes benchmarks/results/<name>.json, those of forward passes <name>_<device>.json.
BENCHMARKS := soft_target_pass student_with_distillation simulated_accelerators scaling_cost memory teacher_forward end_to_end \
    text_teacher_pass text_student text_end_to_end text_memory text_forward wait_policy
bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done

# docs/REPRODUCTIONS.md: the papers' figures beside those of the reports. ONLY="mnist soft-tree" runs these experiments first, for hours.
reproduce: install
	$(BIN)/python -m benchmarks.reproduce $(ONLY)

# Known vulnerabilities in the pinned versions; needs PyPI itself, not a mirror of its files.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

check: lint test

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	set -e; for folder in $(sort $(dir $(wildcard examples/*/*.py))); do $(BIN)/mypy $$folder; done
