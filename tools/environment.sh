# Sourced by tools/demo and tools/check: goes to the repository's root, makes .venv there with the project and all that
# its tools need, or brings it up to date, and activates it. Minutes the first time, a moment when nothing has changed.
#
#   PYTHON=python3.12     another Python, 3.11 or newer
#   ONNXPOOL_PURE=1       without the native library: no C++ compiler needed

cd "$(dirname "${BASH_SOURCE[0]}")/.."

onnxpool_fail() {
  echo "$1" >&2
  exit 1
}

# What the installation depends on: when none of it has changed, there is nothing to do.
onnxpool_state() {
  echo "pure=${ONNXPOOL_PURE:-}"
  find pyproject.toml custom_ops -type f | LC_ALL=C sort | xargs cksum
}

onnxpool_install() {
  local python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    onnxpool_fail "onnxpool needs Python 3.11 or newer, and '$python' is not: install one, or name it: PYTHON=python3.12 $0"
  [ -n "${ONNXPOOL_PURE:-}" ] || command -v "${CXX:-c++}" >/dev/null ||
    onnxpool_fail "there is no C++ compiler '${CXX:-c++}': install one (Debian, Ubuntu: apt-get install g++), or go without native kernels: ONNXPOOL_PURE=1 $0"
  if [ ! -x .venv/bin/pip ]; then
    echo "Making .venv"
    "$python" -m venv --clear .venv ||
      onnxpool_fail "Python could not make .venv: install its venv module (Debian, Ubuntu: apt-get install python3-venv)"
  fi
  # PyTorch first and by an exact version: for repeatable results, and because a range takes the newest build, on Linux
  # several GB of CUDA packages, even where a CPU build of this version is at hand. What builds onnxpool is installed, too:
  # in an environment of its own, new for each build, it would compile everything each time.
  local requires='import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
  local programs='from scikit_build_core import build; print("pip", *build.get_requires_for_build_editable(), sep="\n")'
  echo "Installing PyTorch, onnxpool and its tools into .venv, some minutes the first time"
  .venv/bin/pip install --quiet --upgrade 'pip>=25.1' &&
    .venv/bin/pip install --quiet torch==2.13.0 &&
    .venv/bin/pip install --quiet --requirement <(.venv/bin/python -c "$requires") &&
    .venv/bin/pip install --quiet --requirement <(.venv/bin/python -c "$programs") &&
    .venv/bin/pip install --quiet --no-build-isolation --editable '.[export,cpu,serve,grpc,otel,ray,openvino]' --group dev \
      --config-settings=cmake.define.ONNXPOOL_OPENVINO= ||
    onnxpool_fail "pip could not install onnxpool, for the reason above: see that a package index can be reached, or, if it was the native build, go without it: ONNXPOOL_PURE=1 $0"
}

if [ "$(cat .venv/onnxpool-state 2>/dev/null)" != "$(onnxpool_state)" ]; then
  onnxpool_install
  onnxpool_state >.venv/onnxpool-state
fi
. .venv/bin/activate
