# Two commands are all that one needs: `make demo` and `make test`.
#
# They want Python 3.10 or newer, and bring everything else into .venv and
# .tox. What they run is said in tox.ini.

pythons := python3.14 python3.13 python3.12 python3.11 python3.10 python3

# pyenv's shims answer only for the versions that are activated, so the folders
# of the interpreters themselves go in front of them.
pyenv := $(PYENV_ROOT) $(HOME)/.pyenv $(patsubst %/shims,%,$(filter %/shims,$(subst :, ,$(PATH))))
empty :=
space := $(empty) $(empty)
export PATH := $(subst $(space),:,$(wildcard $(addsuffix /versions/3.*/bin,$(pyenv))) $(PATH))

.PHONY: demo test bench bench-peers bench-scale report docs pictures

# The shop on http://localhost:8888, or otherwise: make demo PORT=9000 BACKEND=memory PROCESSES=1
# tox would answer Ctrl-C as well, so it makes the environment and then gets out of the way.
demo: .venv/bin/tox
	@.venv/bin/tox run -qq -e demo --notest
	@.tox/demo/bin/python -m example_app $(if $(PORT),'--port=$(PORT)') $(if $(BACKEND),'--session-backend=$(BACKEND)') $(if $(PROCESSES),'--processes=$(PROCESSES)') $(if $(IDLE),'--session-idle-timeout=$(IDLE)')

# Every test, lint and typing.
test: .venv/bin/tox
	@.venv/bin/tox run

# In two minutes, but with what chance adds, and without a record: make bench QUICK=1
bench: .venv/bin/tox
	@.venv/bin/tox run -q -e bench -- $(if $(filter-out 0,$(QUICK)),,--results=docs/speed.json)

# The same beside the libraries of others, which are brought into .peers.
bench-peers: .venv/bin/tox
	@.venv/bin/tox run -q -e bench-peers -- $(if $(filter-out 0,$(QUICK)),,--results=docs/speed.json)

# Many sessions, many processes, many WebSockets.
bench-scale: .venv/bin/tox
	@.venv/bin/tox run -q -e bench-scale -- $(if $(filter-out 0,$(QUICK)),,--results=docs/speed.json)

# The tables and the plots of docs/speed.md, from docs/speed.json.
report: .venv/bin/tox
	@.venv/bin/tox run -q -e report

# The pages, in docs/_build/index.html.
docs: .venv/bin/tox
	@.venv/bin/tox run -q -e docs

pictures: .venv/bin/tox
	@.venv/bin/tox run -q -e pictures

# tox does not notice when a setup.py asks for something new, so then its
# environments are made anew.
.venv/bin/tox: Makefile setup.py $(wildcard plugins/*/setup.py)
	@echo "Bringing tox and what it needs. This takes a minute, and only the first time."
	@rm -rf .venv .tox
	@bare=; for python in $(pythons); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
		$$python -c 'import ensurepip' 2>/dev/null && exec $$python -m venv .venv; \
		bare=$$python; \
	done; \
	if [ "$$bare" ]; then \
		echo "$$bare cannot make an environment: its module ensurepip is missing."; \
		echo "On Debian and Ubuntu bring it with: apt install python3-venv"; \
	else \
		echo "Python 3.10 or newer is needed. Looked on PATH for:"; \
		echo "$(pythons)"; \
	fi >&2; exit 1
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check 'tox>=4.25'
