#!/usr/bin/env bash
# simjax on all workers of a Cloud TPU VM, from a slice of one host to a pod.
#
#   export TPU=my-pod ZONE=europe-west4-b            # and PROJECT, where gcloud has no default
#   launch/tpu_pod.sh install                        # this folder and its libraries, on all workers
#   launch/tpu_pod.sh train configs/nli_small.yaml --data.root /mnt/data --output /mnt/runs/nli
#   launch/tpu_pod.sh stop                           # save and stop
#   launch/tpu_pod.sh ssh 'ls simjax'                # any command on all workers
#
# `train` lasts as long as the run: start it where it stays, such as in tmux. An interrupt ends it
# and not the run, which `stop` does.
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

train() {
  local command status restart
  command="$(printf ' %q' "$@")"
  # The number of the process is kept for `stop`; exec makes it that of simjax.
  command="cd $folder && echo \$\$ > .run.pid && exec .venv/bin/simjax train$command --distributed yes"
  status=1
  for ((restart = 0; restart <= ${MAX_RESTARTS:-3}; restart++)); do
    status=0
    on all "$command" || status=$?
    # 2: called wrongly, which another try does not mend; 143: stopped before there was anything to
    # save.
    case "$status" in
      0 | 2 | 143) break ;;
    esac
    echo "the run has failed with status $status (start $((restart + 1)))" >&2
    # What a lost connection has left running holds the TPU.
    on all "cd $folder && kill -KILL \"\$(cat .run.pid)\" 2> /dev/null || true" || true
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
  stop) on all "cd $folder && kill -TERM \"\$(cat .run.pid)\"" ;;
  ssh)
    [[ $# -eq 1 ]] || usage
    on all "$1"
    ;;
  *) usage ;;
esac
