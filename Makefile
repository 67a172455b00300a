# make demo      a sample drive goes through the node over ROS 2: out/demo/report.html
# make training  what training and importing labels need, into .venv: docs/own_data.md
# make check     format, lint, types and the unit tests, for before a commit: a few minutes
# make test      the same with the whole test suite
# make soak      the node under twice its load for SOAK_MINUTES (30): out/soak/report.html
# make fuzz      damaged inputs for every reader, FUZZ_MINUTES (10) in all
# make docs      the documents, built strictly: out/docs/index.html
# All make .venv themselves. Nothing outside this folder is changed.

PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
# Every file from outside is checked against its hash. The lists are complete, and pip does not take
# their hashes for what others require with an extra (coverage[toml]). It has none for a folder, so
# the package follows alone, built by the setuptools that is there by then.
INSTALL = $(PIP) --require-hashes --no-deps $(patsubst %,-r requirements/%.txt,$(1)) && \
  $(PIP) --no-deps --no-build-isolation --editable .
# A process for each of up to four cores; together they grow to 8 GB. In one: PYTEST_ARGS='-n 0'.
PYTEST = .venv/bin/pytest --numprocesses logical --maxprocesses 4 --dist loadgroup
PYTEST_ARGS ?=
SOAK_MINUTES ?= 30
FUZZ_MINUTES ?= 10

# Where apt's ROS 2 is sourced, the environment sees it, and PyPI's ROS wheels stay out of its way.
ROS := $(if $(wildcard $(addsuffix /share/rclpy/package.xml,$(subst :, ,$(AMENT_PREFIX_PATH)))),apt,pypi)
VENV_ARGS_apt = --system-site-packages
RUNTIME_pypi = runtime ros
RUNTIME_apt = runtime

.PHONY: demo training lint check test soak fuzz docs constraints clean
.DELETE_ON_ERROR:
# Two targets at once, as by `make -j2 docs check`, would both install into .venv.
.NOTPARALLEL:

demo: .venv/.runtime out/demo/sample_drive/metadata.yaml
	.venv/bin/python -m desertmind_seg.replay_bag out/demo/sample_drive \
	  --image /camera/color/image_raw --depth /camera/aligned_depth_to_color/image_raw \
	  --labels /labels/ycor_8 --bundle models/ycor8_rgbd.onnx --out out/demo

training: .venv/.test
	@echo 'Next: source .venv/bin/activate'

lint: .venv/.test
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

check: lint
	$(PYTEST) $(PYTEST_ARGS) test/unit

test: lint
	$(PYTEST) $(PYTEST_ARGS)

soak: .venv/.test
	.venv/bin/python test/soak/run.py --minutes $(SOAK_MINUTES) --out out/soak

fuzz: .venv/.test
	.venv/bin/python test/fuzz/run.py --minutes $(FUZZ_MINUTES)

# Warnings are errors: a broken link, a name that is gone, a page that no other leads to.
docs: .venv/.docs
	.venv/bin/python docs/generate.py
	.venv/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env --quiet \
	  docs out/docs
	@echo 'Open out/docs/index.html'

out/demo/sample_drive/metadata.yaml: $(wildcard training/synthetic.py training/scenery/*.py training/simulator/*.py) | .venv/.runtime
	.venv/bin/python -m training.synthetic --bag out/demo/sample_drive \
	  --frames 60 --jobs 2 --force

.venv/.runtime: .venv/.ros-$(ROS) setup.py package.xml $(wildcard requirements/*.txt)
	@echo 'Installing the runtime into .venv'
	$(call INSTALL,$(RUNTIME_$(ROS)))
	@touch $@

.venv/.test: .venv/.ros-$(ROS) setup.py package.xml $(wildcard requirements/*.txt)
	@echo 'Installing the runtime, training and development tools into .venv (several GB)'
	$(call INSTALL,$(RUNTIME_$(ROS)) test labels)
	@touch .venv/.runtime $@

.venv/.docs: .venv/.runtime
	@echo 'Installing what builds the documents into .venv'
	$(call INSTALL,$(RUNTIME_$(ROS)) docs)
	@touch $@

.venv/.ros-$(ROS):
	@if [ -e .venv ]; then \
	  echo '.venv is half made or made for another ROS 2 (now: $(ROS)). Remove it: make clean' >&2; \
	  exit 1; \
	fi
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); needed is Python 3.10 to 3.13." \
	    'Name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'Python cannot make virtual environments: sudo apt install python3-venv' >&2; exit 1; }
	@[ $(ROS) = pypi ] || $(PYTHON) -c 'import rclpy' || { \
	  echo "The ROS 2 that is sourced is not for $(PYTHON)." \
	    'Name its Python, or open a shell without ROS 2: make PYTHON=/usr/bin/python3 ...' >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV_ARGS_$(ROS)) .venv
	@touch $@

# Resolves for all of Python 3.10 to 3.13 at once: constraints.txt has every version, and each file
# in requirements/ one set of packages with their hashes, without those that every Python gets from
# runtime.txt.
EXTRAS = benchmark ros train tensorrt docs dev viewer fleet
COMPILE = .venv/bin/uv pip compile --quiet --no-python-downloads --universal \
  --python-version 3.10 --no-annotate --custom-compile-command 'make constraints'
UPGRADE = --upgrade
HASHES = $(COMPILE) --generate-hashes --constraints constraints.txt
constraints: .venv/.test
	$(PIP) uv
	$(COMPILE) $(UPGRADE) $(addprefix --extra ,$(EXTRAS)) --constraints constraints.in \
	  --output-file constraints.txt setup.py
	mkdir -p requirements
	echo setuptools | $(HASHES) --output-file requirements/runtime.txt setup.py -
	known=$$(sed -nE 's/^([a-z0-9-]+)==[^;]+$$/--no-emit-package \1/p' requirements/runtime.txt); \
	compile() { $(HASHES) $$known --output-file requirements/$$1.txt setup.py $$2; } && \
	compile ros '--extra ros' && compile docs '--extra docs' && \
	compile test '--extra train --extra dev --extra tensorrt --extra viewer' && \
	compile labels '--extra labels --override requirements/overrides.in'

clean:
	rm -rf .venv out build install log
