#!/usr/bin/env bash
# The project's commands; `./go` alone lists them. Needs git, bash and a Python >= 3.11, and finds or installs the rest.
set -euo pipefail

root=$(unset CDPATH && cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
private=$root/.uv # this checkout's own uv, when the machine has none that is new enough

usage() {
  cat <<'LIST'
usage: ./go COMMAND [ARGUMENT...]

  install       make .venv from uv.lock (every other command does so by itself)
  demo          train a grid of models in parallel: examples/digits (--app NAME picks the backend, --detach leaves,
                --stop ends what a demo that was left has started)
  test          all tests on one Python (arguments go to pytest)
  check         format, lint, types, tests
  conformance   the contract's clauses x backend x Python; --require fails where one is missing
  bench         what is claimed, measured: all suites, or one: `bench localpool`, `emulator`, `modal`, `ray`
  docs          build the documentation into build/docs
  auth          log in to Modal, or say as whom (--check, --stdin, --no-input)
  nox           any other session: `./go nox -l` lists them
  mini          the command line of mini itself
  modal         Modal's own command line, behind TLS-inspecting proxies as well
LIST
}

die() {
  echo "go: $1" >&2
  exit "${2:-1}"
}

# Prints a list of the Python minors that the project supports, oldest first.
minors() {
  sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' "$root/pyproject.toml"
}

# Without a home, or with one that does not exist, half of the tools fail in their own ways.
ensure_home() {
  if [[ -z ${HOME:-} ]]; then
    unset HOME
    HOME=~ # from the password file
  fi
  if [[ ! -w $HOME ]]; then
    HOME=$private/home
    mkdir -p "$HOME"
  fi
  export HOME
}

# pyenv's own shims fail for every version that is not selected, so the real interpreters go before them on PATH.
# pyenv is looked for where it says, beside the shims on PATH, and in the homes: HOME may have been changed.
add_pyenv() {
  local dir minor found bins='' account roots=() path
  [[ -z ${PYENV_ROOT:-} ]] || roots+=("$PYENV_ROOT")
  IFS=: read -ra path <<<"$PATH"
  for dir in ${path[@]+"${path[@]}"}; do
    case $dir in */shims | */shims/) roots+=("$(dirname -- "$dir")") ;; esac
  done
  account=$(unset HOME && echo ~)
  roots+=("$HOME/.pyenv" "$account/.pyenv")
  for minor in $(minors); do
    for dir in "${roots[@]}"; do
      found=$(find "$dir/versions" -maxdepth 1 -name "$minor.*" 2>/dev/null | grep -E '/[0-9.]+$' | sort -V | tail -n 1) || continue
      if [[ -x $found/bin/python$minor ]]; then
        bins+=$found/bin:
        break
      fi
    done
  done
  export PATH=$bins$PATH
}

# The oldest uv that can read this lock, and the one that the lock itself pins.
needed_uv() { sed -n 's/^required-version = ">=\([0-9.]*\)"$/\1/p' "$root/pyproject.toml"; }
locked_uv() { sed -n '/^name = "uv"$/{n;s/^version = "\(.*\)"$/\1/p;}' "$root/uv.lock"; }

new_enough() { # UV
  local have
  have=$("$1" --version 2>/dev/null) || return 1
  have=${have#uv }
  [[ $(printf '%s\n' "$(needed_uv)" "${have%% *}" | sort -V | head -n 1) == "$(needed_uv)" ]]
}

find_python() {
  local name
  for name in python3 $(minors | sed 's/^/python/') python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  die "no Python >= 3.11 on PATH nor under pyenv; install one (Debian: apt-get install python3 python3-venv)"
}

install_uv() {
  local python found
  python=$(find_python)
  mkdir -p "$private/bin"
  new=$(mktemp -d "$private/new.XXXXXX") # not local: the trap outlives the function
  trap 'rm -rf -- "$new"' EXIT
  echo "go: installing uv $(locked_uv) from PyPI into .uv/" >&2
  # Debian has Pythons with neither venv nor pip, with only one of them, and with both.
  if { "$python" -m venv "$new/venv" && "$new/venv/bin/python" -m pip install "uv==$(locked_uv)"; } >"$new/log" 2>&1; then
    found=$new/venv/bin/uv
  elif "$python" -m pip install --target "$new/target" "uv==$(locked_uv)" >>"$new/log" 2>&1; then
    found=$new/target/bin/uv
  else
    cat "$new/log" >&2
    die "cannot install uv with $python: it needs either venv or pip (Debian: apt-get install python3-venv), and to reach PyPI"
  fi
  # One rename, so that a second ./go at the same time, or one cut short, never leaves half a program.
  mv -f "$found" "$private/bin/uv"
}

ensure_uv() {
  local uv
  if uv=$(command -v uv) && new_enough "$uv"; then return; fi
  export PATH=$private/bin:$PATH
  new_enough "$private/bin/uv" || install_uv
}

prepare() {
  ensure_home
  add_pyenv
  ensure_uv
  # Behind a proxy that signs for others only the system's store knows who to trust; a bare container has none.
  if [[ -e /etc/ssl/certs/ca-certificates.crt || -e /etc/pki/tls/certs/ca-bundle.crt || -e /etc/ssl/cert.pem ]]; then
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
    export UV_NATIVE_TLS=${UV_NATIVE_TLS:-true} # what the oldest uv that we work with calls it
  fi
  unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONHOME PYTHONPATH
}

# Runs a program in the project's environment, which is brought up to date first.
in_env() { uv run --locked --all-packages --project "$root" "$@"; }

# Several at a time, one more than there are cores, because much of what tests do is wait; those of a class or module
# one after the other, in the order of tests/conftest.py. `-n0` is one at a time, and so is whatever asks for a debugger.
run_tests() {
  local cores
  cores=$(getconf _NPROCESSORS_ONLN)
  # xdist's own way to say how many `logical` are.
  export PYTEST_XDIST_AUTO_NUM_WORKERS=${PYTEST_XDIST_AUTO_NUM_WORKERS:-$((cores + 1))}
  in_env python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadscope --no-loadscope-reorder "$@"
}

demo() {
  local runner=() words=" $* " app=${MINI_APP:-local} given=' --app[= ]([^ ]+) ' detach=''
  [[ ! $words =~ $given ]] || app=${BASH_REMATCH[1]}
  [[ $words != *' --detach '* ]] || detach=yes
  if [[ $words == *' --stop '* ]]; then
    in_env mini ray stop
    stop_emulator
    return
  elif [[ $app$detach == rayyes && -z ${RAY_ADDRESS:-} ]]; then
    in_env mini ray start >&2
  elif [[ $app == modal ]] && ! in_env mini auth modal --check --no-input >/dev/null 2>&1; then
    echo "go: there is no token for Modal here, so this runs on modal-emulator, which stands in for it" >&2
    if [[ -z $detach ]]; then runner=(modal-emulator run --); else start_emulator; fi
  fi
  in_env ${runner[@]+"${runner[@]}"} python examples/digits/sweep.py "$@"
  [[ -z $detach ]] || echo "In this checkout \`mini\` is ./go mini; ./go demo --stop ends what was started for this."
}

# A demo that is left needs a Modal that stays. Its variables are in a file, by which `./go mini` and `./go modal` find it.
emulator=$root/.mini/modal-emulator

start_emulator() {
  local exports
  ! use_emulator || return 0
  mkdir -p "$emulator"
  in_env true
  # It closes its standard output when it is ready.
  exports=$(setsid "$root/.venv/bin/modal-emulator" serve --state "$emulator/state" </dev/null 2>"$emulator/log" &)
  [[ -n $exports ]] || die "modal-emulator cannot be started: $(cat "$emulator/log")"
  (umask 077 && cat >"$emulator/env" <<<"$exports")
  use_emulator || die "modal-emulator has ended at once; its log is $emulator/log"
  echo "go: it stays, at $MODAL_SERVER_URL, with its log and its state in $emulator; to end it: ./go demo --stop" >&2
}

# It holds a lock for as long as it is there.
emulator_runs() { [[ -f $emulator/env ]] && ! flock --shared --nonblock "$emulator/state/lock" true; }

# Has what comes next use the emulator that a demo has left, if it is still there.
use_emulator() {
  emulator_runs || return 1
  # shellcheck source=/dev/null
  . "$emulator/env"
}

has_token() {
  [[ -n ${MODAL_TOKEN_ID:-} ]] || grep -qs '^token_id' "${MODAL_CONFIG_PATH:-$HOME/.modal.toml}"
}

stop_emulator() {
  local pid _
  if ! emulator_runs; then
    echo "there is no modal-emulator that stays for this checkout"
    return
  fi
  pid=$(<"$emulator/state/lock")
  kill "$pid"
  for _ in {1..600}; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  ! emulator_runs || die "modal-emulator does not end; see $emulator/log"
  rm "$emulator/env"
  echo "the modal-emulator has ended; what it has kept is in $emulator/state"
}

main() {
  local command=${1:-}
  [[ $# -eq 0 ]] || shift
  case $command in
    '' | help | -h | --help)
      usage
      return
      ;;
    install | demo | test | check | conformance | bench | docs | nox) cd -- "$root" ;;
    auth | mini | modal) ;; # stay where the caller is: their arguments are paths
    *)
      echo "go: no command called '$command'" >&2
      usage >&2
      return 2
      ;;
  esac
  prepare
  case $command in
    install) uv sync --locked --all-packages ;;
    demo) demo "$@" ;;
    test) run_tests "$@" ;;
    check)
      in_env ruff format .
      in_env nox -s lint types
      run_tests "$@"
      ;;
    conformance)
      rm -rf build/conformance # what was true of other code does not belong in the table
      in_env nox -s conformance -- "$@"
      ;;
    bench | docs) in_env nox -s "$command" -- "$@" ;;
    nox) in_env nox "$@" ;;
    auth) in_env mini auth modal "$@" ;;
    mini | modal)
      [[ $command == mini ]] || set -- modal "$@"
      has_token || use_emulator || true
      in_env mini "$@"
      ;;
  esac
}

# Sourced, it only defines its functions: tests/test_go.py calls some of them one by one.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
