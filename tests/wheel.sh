#!/bin/sh
# Builds the wheel, installs it in an empty environment and imports it from another folder, as a stranger would.
set -eu
here=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m build --quiet --wheel --no-isolation --outdir "$work/dist" "$here"
python -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --constraint "$here/constraints.txt" "$work"/dist/*.whl
cd "$work"
"$work/venv/bin/python" -c "
from graph import build_graph
import graph, nodes, server
assert build_graph().get_graph().nodes.keys() >= {'greeting', 'closing'}
assert '$here' not in (graph.__file__ or ''), graph.__file__
"
"$work/venv/bin/flows" check call
echo "the wheel works in an empty environment"
