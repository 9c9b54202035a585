#!/bin/sh
# `install.sh run` puts what run.lock names into .venv, and Penstock itself, to be run in place.
#
# uv does in seconds what takes pip a minute. It does not know pip's settings: whoever told pip of
# an index of their own is served by pip, and so is whoever uv fails for. Hashes are checked by both.
set -eu
cd "$(dirname "$0")/.."
lock=requirements/$1.lock
python=.venv/bin/python
pip="$python -m pip --disable-pip-version-check --quiet"
uv=".venv/bin/uv --quiet pip install --python $python"

with_uv() {
	! $python -m pip config list | grep -Eq '\.(index-url|no-index)=' || return 1
	$pip install --require-hashes -r requirements/installer.lock || return 1
	$uv --compile-bytecode --require-hashes -r "$lock" || return 1
	$uv --no-build-isolation --no-deps --editable .
}

if ! with_uv > .venv/install.log 2>&1; then
	$pip install --require-hashes -r "$lock"
	$pip install --no-build-isolation --no-deps --editable .
fi
