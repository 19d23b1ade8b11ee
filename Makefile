# Two commands do everything: `make demo` shows it, `make test` proves it. Both set up what they need in $(VENV).
VENV ?= .venv
export VENV
PYTEST_ARGS ?=

.PHONY: demo test lint format docs bench clean

demo: ## set up and show: a real model, built, served by a real Triton, streaming text
	@tools/setup.sh demo
	@$(VENV)/bin/trtbuild demo

test: ## set up and check: linters, types and every test
	@tools/setup.sh test
	@$(MAKE) --no-print-directory lint
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

lint: ## ruff and mypy (needs the environment of `make test`)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet builder clients tests tools
	$(VENV)/bin/mypy
	@for folder in model_repo_templates/*/1 model_repo_templates/tensorrt_llm/*/1; do \
	    MYPYPATH=$$folder $(VENV)/bin/mypy $$folder/*.py || exit 1; done # each is a program of its own: model.py beside its modules

format:
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: ## write the generated parts of the documentation anew
	$(VENV)/bin/python tools/reference.py
	$(VENV)/bin/python tools/trtllm_docs.py
	$(VENV)/bin/python -m tools.chart_docs
	$(VENV)/bin/python tools/architecture_docs.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

bench: ## every benchmark in its short form: tables, and files in benchmarks/results
	@tools/setup.sh test
	$(VENV)/bin/python -m benchmarks
