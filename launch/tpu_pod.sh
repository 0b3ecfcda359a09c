#!/usr/bin/env bash
# simjax on all workers of a Cloud TPU VM, from a slice of one host to a pod.
#
#   export TPU=my-pod ZONE=europe-west4-b            # and PROJECT, where gcloud has no default
#   launch/tpu_pod.sh install                        # this folder and its libraries, on all workers
#   launch/tpu_pod.sh train configs/nli_small.yaml --data.root /mnt/data --output /mnt/runs/nli
#   launch/tpu_pod.sh stop                           # save and stop
#   launch/tpu_pod.sh ssh 'tail simjax/.run.log'     # any command on all workers
#
# `train` shows what the workers say and lasts as long as the run: start it where it stays, such as
# in tmux. An interrupt ends it and not the run, which `stop` does; the run's last words are then in
# FOLDER/.run.log of each worker, and nothing starts it again if it fails.
#
# The TPU VM exists already (gcloud compute tpus tpu-vm create, or a queued resource), and data and
# output lie where all workers see them, such as a Filestore mount. The workers find each other by
# the TPU's own metadata.
#
#   TPU, ZONE, PROJECT   which TPU VM
#   MAX_RESTARTS         how often a run that fails is started again (default: 3)
#   FOLDER               folder on the workers (default: simjax)
#   PYTHON               Python there, 3.11 or newer (default: python3)
#
# Exit status: that of the run.
set -euo pipefail

usage() {
  sed -n '2,/^# Exit status/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

[[ $# -gt 0 ]] || usage
for variable in TPU ZONE; do
  if [[ -z "${!variable:-}" ]]; then
    echo "launch/tpu_pod.sh: set $variable" >&2
    exit 2
  fi
done
folder="${FOLDER:-simjax}"
python="${PYTHON:-python3}"
where=("--zone=$ZONE")
if [[ -n "${PROJECT:-}" ]]; then
  where+=("--project=$PROJECT")
fi

on() { # WORKER COMMAND
  gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" "--worker=$1" "--command=$2"
}

install() {
  local root packed
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  packed="$(mktemp -d)/simjax.tar.gz"
  tar -czf "$packed" -C "$root" --exclude-vcs --exclude=.venv --exclude=runs .
  gcloud compute tpus tpu-vm scp "$packed" "$TPU:simjax.tar.gz" "${where[@]}" --worker=all
  rm -r "$(dirname "$packed")"
  on all "mkdir -p $folder && tar -xzf simjax.tar.gz -C $folder && cd $folder \
&& $python -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]'"
}

# What follows runs on the workers, in FOLDER, as `there` has them do.

running() { # whether a run goes on; its number, for which another process may be meant by now
  pid="$(cat .run.pid 2> /dev/null)" && grep -qs simjax "/proc/$pid/cmdline"
}

run() { # COMMAND
  local pid status=0
  if running; then
    echo "$HOSTNAME: a run goes on already (process $pid): launch/tpu_pod.sh stop ends it" >&2
    return 2
  fi
  # In a session of its own and with a file to write to, it does not notice that the connection is
  # gone; this shell stays as well, and clears up behind it.
  trap '' HUP
  : > .run.log # so that it is there when `tail` looks
  setsid "$@" >> .run.log 2>&1 < /dev/null &
  pid=$!
  echo "$pid" > .run.pid
  tail -n +1 -f "--pid=$pid" .run.log || true
  wait "$pid" || status=$?
  # Unless it was given up and another one started.
  [[ "$(cat .run.pid)" != "$pid" ]] || rm .run.pid
  return "$status"
}

stop_run() {
  local pid
  if ! running; then
    echo "$HOSTNAME: there is no run" >&2
    return 1
  fi
  kill -TERM "$pid"
}

kill_run() { # and wait for the TPU to be free
  local pid tries
  for ((tries = 0; tries < 30; tries++)); do
    running || break
    kill -KILL "$pid" || true
    sleep 1
  done
}

there() { # FUNCTION ARGUMENTS
  local script
  script="$(declare -f running "$1"); \"\$@\""
  on all "cd $folder && bash -c $(printf '%q' "$script") bash$(printf ' %q' "$@")"
}

# What follows runs here.

train() {
  local status restart
  trap 'echo "the run goes on without this; launch/tpu_pod.sh stop ends it" >&2; exit 130' INT
  status=1
  for ((restart = 0; restart <= ${MAX_RESTARTS:-3}; restart++)); do
    status=0
    there run .venv/bin/simjax train "$@" --distributed yes || status=$?
    # 2: called wrongly, which another try does not mend; 143: stopped before there was anything to
    # save.
    case "$status" in
      0 | 2 | 143) break ;;
    esac
    echo "the run has failed with status $status (start $((restart + 1)))" >&2
    # What a lost connection has left running holds the TPU.
    there kill_run || true
  done
  return "$status"
}

what="$1"
shift
case "$what" in
  install) install ;;
  train)
    [[ $# -gt 0 ]] || usage
    train "$@"
    ;;
  stop) there stop_run ;;
  ssh)
    [[ $# -eq 1 ]] || usage
    on all "$1"
    ;;
  *) usage ;;
esac
