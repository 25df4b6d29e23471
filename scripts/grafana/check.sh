#!/usr/bin/env bash
# Evaluates every expression of the dashboard and of the alert rules in a real Prometheus that scrapes a
# running Midge. Needs prometheus, promtool, jq and curl. Starts and ends all processes itself.
#
# Usage: scripts/grafana/check.sh [--help] [PATH_OF_MIDGE]
set -euo pipefail

if [[ "${1:-}" == "--help" ]]; then
  sed --quiet '2,5s/^# \{0,1\}//p' "$0"
  exit 0
fi
here="$(cd "$(dirname "$0")" && pwd)"
midge="${1:-$here/../../target/release/midge}"
work="$(mktemp --directory)"
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
  rm --recursive --force "$work"
}
trap finish EXIT

promtool check rules "$here/midge-alerts.yml"

"$midge" --addr 127.0.0.1 --port -1 --http_port -1 --shards 2 --no-pin \
  --jetstream --store_dir "$work/store" 2>"$work/midge.log" &
pids+=($!)
for _ in $(seq 100); do
  monitor="$(sed --quiet 's/.*Starting http monitor on //p' "$work/midge.log")"
  [[ -n "$monitor" ]] && grep --quiet 'Server is ready' "$work/midge.log" && break
  sleep 0.1
done

port=$((20000 + RANDOM % 10000))
cat >"$work/prometheus.yml" <<CONFIG
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["$here/midge-alerts.yml"]
scrape_configs:
  - {job_name: midge, static_configs: [{targets: ["$monitor"]}]}
CONFIG
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" \
  --web.listen-address="127.0.0.1:$port" 2>"$work/prometheus.log" &
pids+=($!)

ask() { curl --silent --get --data-urlencode "query=$1" "http://127.0.0.1:$port/api/v1/query"; }
for _ in $(seq 900); do
  samples="$(ask 'count_over_time(midge_start_time_seconds[1m])' | jq --raw-output '.data.result[0].value[1] // 0' || true)"
  [[ "${samples:-0}" -ge 5 ]] && break
  sleep 0.1
done
if [[ "${samples:-0}" -lt 5 ]]; then
  echo "refused: Prometheus took fewer than five samples of Midge in the time given"
  exit 1
fi

failed=0
while IFS= read -r expression; do
  concrete="${expression//\$__rate_interval/10s}"
  concrete="${concrete//\$instance/.*}"
  answer="$(ask "$concrete")"
  if [[ "$(jq --raw-output .status <<<"$answer")" != success ]]; then
    echo "refused: $expression: $(jq --raw-output .error <<<"$answer")"
    failed=1
  elif [[ "$(jq '.data.result | length' <<<"$answer")" == 0 ]]; then
    echo "no series: $expression"
    failed=1
  fi
done < <(jq --raw-output '.panels[].targets[].expr' "$here/midge-dashboard.json")

rules="$(curl --silent "http://127.0.0.1:$port/api/v1/rules")"
unhealthy="$(jq --raw-output '.data.groups[].rules[] | select(.health != "ok") | "\(.name): \(.health) \(.lastError // "")"' <<<"$rules")"
if [[ -n "$unhealthy" ]]; then
  echo "$unhealthy"
  failed=1
fi
# Each name that a rule uses must exist, or the rule would be silent for ever.
while IFS= read -r name; do
  if [[ "$(ask "count($name)" | jq '.data.result | length')" == 0 ]]; then
    echo "no such series: $name"
    failed=1
  fi
done < <(jq --raw-output '.data.groups[].rules[].query' <<<"$rules" | grep --only-matching --extended-regexp 'midge_[a-z_]+' | sort --unique)
[[ "$failed" == 0 ]] && echo "all expressions have series"
exit "$failed"
