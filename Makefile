# Two commands do all the set-up: `make demo` and `make test`. Each target makes its environment first, and
# again only when pyproject.toml or constraints.txt has changed.
PYTHON ?= python3
INSTALL = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test test-browser test-faults parity bench lint clean

# Renders the inspection rig, learns its normal parts by MVEAD, by PatchCore and by the hull of the nearest patches
# (20 of 60 parts are held out, so that all decide), scores the others, and prints all beside each other.
DECIDE = --config.decision.held_out=0.33
demo: .venv/.made
	.venv/bin/python scripts/render_rig.py --train 60 --output data/rig
	.venv/bin/python scripts/train.py --config configs/demo.py --workdir runs/demo $(DECIDE)
	.venv/bin/python scripts/score.py --workdir runs/demo
	.venv/bin/python scripts/reproduce.py compare --output runs configs/demo.py:patchcore configs/demo.py \
		configs/demo.py:hull $(DECIDE)
	@echo "Open runs/demo/scores/report/index.html in a browser. Epipolar lines: runs/demo/geometry/pictures/"

test: .venv/.made
	.venv/bin/python -m pytest -m "not parity and not browser and not faults" --numprocesses auto --maxprocesses 4 --dist loadfile

# The report in chromium: CHROMIUM names another one than that of the path.
test-browser: .venv/.made
	.venv/bin/python -m pytest -m browser tests/browser

# Kills, full disks, damage and hostile input: docs/reliability.md. Seven minutes on two cores; the longest
# files begin with test_crash, and in the order of the names they come first.
test-faults: .venv/.made
	.venv/bin/python -m pytest -m faults tests/faults --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The ports against PyTorch.
parity: .venv-parity/.made
	XLA_FLAGS=--xla_backend_optimization_level=3 .venv-parity/bin/python -m pytest -m parity

# Speed beside PyTorch, FAISS and scikit-learn.
bench: .venv-bench/.made
	.venv-bench/bin/python scripts/benchmark.py all

lint: .venv/.made
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# Removes what the targets above made, and nothing of your own runs and data.
clean:
	rm -rf .venv .venv-parity .venv-bench .pytest_cache .ruff_cache mvead_jax.egg-info build data/rig runs/demo runs/demo-patchcore runs/compare.md runs/compare.json

.venv/.made: EXTRAS = rig,test,browser,tensorboard,serve,mqtt,onnx,openvino
.venv-parity/.made: EXTRAS = parity,rig,test
.venv-bench/.made: EXTRAS = bench
.venv/.made .venv-parity/.made .venv-bench/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.11 ..."; exit 1; }
	@echo "making $(@D) (a few minutes the first time)"
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python $(INSTALL) '.[$(EXTRAS)]'
	@touch $@
