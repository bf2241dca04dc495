# For GNU make 3.81 and newer. Paths are relative, so that the clone may lie anywhere, also below a folder with spaces.
.PHONY: help book check test test-elsewhere reproduce bench mutants lab publish lint clean lock

P =
PROFILE =
ONLINE =
PY = .venv/bin/python
PYTHON =
ARGS =
export P PROFILE ONLINE
unexport SNAKEMAKE_PROFILE PYTHONWARNINGS  # a user's own, which would change or stop what is run

ifeq ($(wildcard Snakefile),)
$(error Run make in the folder of the clone, or name that folder: make -C FOLDER book)
endif

help:
	@printf '%s\n' \
	'make book     runs, notebooks and book; prints the path of the book    first time 2 to 6 min, 2.1 GB; then seconds' \
	'make check    style, types and the quick tests                         1 to 2 min' \
	'make test     all tests, with warnings as errors                       7 to 22 min; first time 1 more' \
	'make test-elsewhere  the numeric tests as on another processor          6 min' \
	'make reproduce  every study from raw pixels, with the time of each      4 to 6 h, 4 GB; resumes' \
	'make bench    our measures beside those of other packages              10 min; first time 10 MB more' \
	'make mutants  200 small mistakes put into the code, each to be noticed  6 to 18 min; goes on later; first time 20 MB more' \
	'make lab      the notebooks in JupyterLab                              first time 5 s and 100 MB more' \
	'make publish  puts the fresh runs into data/results                    seconds after make book' \
	'make lint     style of the code and of the English                     3 s' \
	'make clean    removes the book, fresh runs and caches, keeps .venv     1 s' \
	'' \
	'The first of them makes .venv, which is 40 s and 2.1 GB of the above (2 cores, fast line); to undo it, remove that' \
	'folder. Only pip writes outside of this folder, its cache of downloads.' \
	'' \
	'make reproduce PROFILE=paper     the paper'"'"'s own runs alone, with as many seeds as it has; 50 min, 4 GB' \
	'make reproduce PROFILE=smoke     all on tiny sizes, 5 min; PROFILE=slurm runs them on a SLURM cluster' \
	'make book P="seed=3 bits=[8,5]"  other parameters, named in the first cell of the notebooks' \
	'make book ONLINE=1               with links to the pages of numpy, torch and xarray, where they answer' \
	'make test ARGS="-k slices"       arguments for pytest; likewise for bench and lab' \
	'make book PYTHON=python3.12      which Python makes .venv; else the first on the PATH that is 3.11 or newer' \
	'make book PY=python              a ready environment, such as one of conda; .venv is not used'

# environment.py makes .venv if it is not whole, or looks whether a ready environment (PY=) has the groups named.
READY = $(filter-out file,$(origin PY))
environment = \
	for python in $(if $(READY),"$(PY)",$(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python)); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && \
	    exec "$$python" environment.py $(if $(READY),check) $(1); \
	done; \
	echo "Python 3.11 or newer is missing:" \
	  "$(if $(READY),$(PY) is none,$(if $(PYTHON),$(PYTHON) is none,the PATH has none))." \
	  "Install one or name one, as make PYTHON=/usr/local/bin/python3.12." >&2; exit 1

# The tools keep what they keep in .cache, so that a missing or read-only home does not matter and no one's own settings
# change a result; pip alone, called by environment.py, keeps the user's cache. Only a ready environment may need a
# PYTHONPATH of its own.
RUN = PYTHONPATH="$$PWD$(if $(READY),$${PYTHONPATH:+:$$PYTHONPATH})" PYTHONUTF8=1 XDG_CACHE_HOME="$$PWD/.cache" \
	XDG_CONFIG_HOME="$$PWD/.cache/config" MPLCONFIGDIR="$$PWD/.cache/matplotlib" IPYTHONDIR="$$PWD/.cache/ipython" \
	JUPYTER_CONFIG_DIR="$$PWD/.cache/jupyter" JUPYTER_DATA_DIR="$$PWD/.cache/jupyter" \
	JUPYTER_RUNTIME_DIR="$$PWD/.cache/jupyter/runtime" "$(PY)"
# Figures are laid out in the order of sets, which would differ in the last bit from start to start.
# The Snakefile lets errors through --quiet, but for those in itself: if it fails, ask whether it can be read.
define snakemake
@PYTHONHASHSEED=0 $(RUN) -m snakemake --cores all --quiet all --nolock --rerun-incomplete --max-checksum-file-size 1000000000 $(1) || \
{ $(RUN) -m snakemake --list-rules >/dev/null; exit 1; }
endef

book:
	@$(call environment,book)
	@test -z "$$P" || $(RUN) notebooks/execute.py --check "$$P"
	$(call snakemake)
	@echo "$$PWD/_build/html/index.html"

test:
	@$(call environment,book test)
	@MPLBACKEND=agg $(RUN) -m pytest $(ARGS)

# While developing: what shows most mistakes soonest comes first.
check: lint
	@$(call environment,book test)
	@$(RUN) -m ty check --python "$$("$(PY)" -c 'import sys; print(sys.prefix)')" bqcore studies
	@MPLBACKEND=agg $(RUN) -m pytest -m "not book and not network and not slow" --hypothesis-profile=quick $(ARGS)

# Another processor: the libraries take the instructions of one without AVX (x86 only). NumPy has AVX2 and FMA3 in its
# group X86_V3; MKL obeys the first variable on every maker's processors, the second on Intel's alone.
ELSEWHERE = MKL_CBWR=COMPATIBLE MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default \
	OPENBLAS_CORETYPE=Nehalem NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
# What computes, without what trains or measures for minutes.
NUMERIC = tests/metrics tests/quantizers tests/auditing tests/studies \
	--ignore=tests/studies/data --ignore=tests/studies/figures \
	-k "not full_disk and not killed and not interrupted and not 4001 and not (a_published_run and (cnn or resnet))"
elsewhere = @MPLBACKEND=agg $(ELSEWHERE) OMP_NUM_THREADS=$(1) $(RUN) -m pytest -n $(2) $(NUMERIC) $(ARGS)

# Where several processes run the tests, each has one thread.
test-elsewhere:
	@$(call environment,book test)
	$(call elsewhere,1,2)
	$(call elsewhere,2,0)

# PROFILE=paper: the paper's own runs alone. PROFILE=smoke: tiny sizes. PROFILE=slurm, or any folder of profiles/: each
# study as a job of a cluster.
reproduce:
	@$(call environment,book$(if $(filter slurm,$(PROFILE)), slurm))
	$(call snakemake,reproduce $(if $(filter-out smoke paper,$(PROFILE)),--profile "profiles/$(PROFILE)"))

bench:
	@$(call environment,test bench)
	@MPLBACKEND=agg $(RUN) -m pytest -o addopts= tests/bench*.py --benchmark-group-by=group \
	  --benchmark-columns=min,median,rounds $(ARGS)

# A random sample of all mutants; ARGS="-n 0" all of them, overnight: what died is not run again.
mutants:
	@$(call environment,book test mutants)
	@$(RUN) tests/mutants.py $(ARGS)

lab:
	@$(call environment,book lab)
	@$(RUN) -m jupytext --quiet --sync notebooks/[0-9]*.py
	@$(RUN) -m jupyterlab --ContentsManager.allow_hidden=True $(ARGS)

publish:
	@$(call environment,book)
	$(call snakemake,runs)
	@$(RUN) -m studies publish

lint:
	@$(call environment,test)
	@$(RUN) -m ruff check --no-cache .
	@$(RUN) -m ruff format --check --no-cache .
	@$(RUN) -m tests.prose

clean:
	@rm -rf _build .cache .snakemake data/runs notebooks/executed notebooks/.paired .pytest_cache .hypothesis .benchmarks
	@find . -name .venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# For whoever changes a version in pyproject.toml: constraints.txt anew, with the oldest Python that is to work (1 min).
lock:
	@$(or $(PYTHON),python3) lock.py
