#!/usr/bin/env bash
# Shows the worker at work: a private Redis and a worker with files on free ports of 127.0.0.1, a dozen evaluations
# published, their confirmations and records, the health, a drain. Leaves nothing behind. Run by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/bin:/usr/sbin:/opt/homebrew/bin"

repository=$PWD
binary="${CARGO_TARGET_DIR:-$repository/target}/debug/storage-worker"
directory=$(mktemp -d)
redis_id='' worker_id='' listener_id=''

# Ends what was started, by its id, however this script ends.
clean_up() {
    for id in $listener_id $worker_id $redis_id; do
        kill -9 "$id" 2>/dev/null || true
        wait "$id" 2>/dev/null || true
    done
    rm -rf "$directory"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

fail() {
    echo "demo: $*" >&2
    tail -n 20 "$directory/worker.log" >&2 2>/dev/null || true
    exit 1
}

# A port of 127.0.0.1 on which nobody answers.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# Waits up to ten seconds until a command succeeds.
eventually() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        if "$@" 2>/dev/null; then return; fi
        sleep 0.05
    done
    fail "waited in vain for: $*"
}

redis_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$redis_port" && printf 'PING\r\n' >&3 && read -r answer <&3 && [[ $answer == +PONG* ]]); }

# The body of a GET to the worker.
http_get() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$http_port"
        printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
        sed '1,/^\r*$/d' <&3
    )
}

is_ready() { http_get /readyz >/dev/null && grep -q '"http.listening"' "$directory/worker.log"; }

# Writes down every confirmation, one a line: its channel and its JSON.
listen() {
    local line channel=''
    exec 3<>"/dev/tcp/127.0.0.1/$redis_port"
    printf 'PSUBSCRIBE storage:*\r\n' >&3
    while IFS= read -r line <&3; do
        line=${line%$'\r'}
        case "$line" in
            storage:\**) ;;
            storage:*) channel=$line ;;
            '{'*) printf '%-28s %s\n' "$channel" "$line" ;;
            psubscribe) echo "listening" >&2 ;;
        esac
    done
}

# A command of the worker, with the configuration that the worker has.
storage_worker() { "$binary" "$@" "${configuration[@]}"; }

published=0
publish() {
    printf '  %-22s %s\n' "$1" "$2"
    storage_worker publish "$1" "$2" >/dev/null
    published=$((published + 1))
}

# What other programs might send: past the command, which does not publish what is no JSON.
publish_raw() {
    printf '  %-22s %s\n' "$1" "$2"
    (
        exec 3<>"/dev/tcp/127.0.0.1/$redis_port"
        printf '*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n' "${#1}" "$1" "${#2}" "$2" >&3
        read -r _ <&3
    )
}

start_redis() {
    redis_port=$(free_port)
    redis-server --port "$redis_port" --bind 127.0.0.1 --save '' --appendonly no --dir "$directory" >"$directory/redis.log" 2>&1 &
    redis_id=$!
    eventually redis_answers
    export REDIS_URL="redis://127.0.0.1:$redis_port"
}

start_worker() {
    http_port=$(free_port)
    admin_port=$(free_port)
    export FILE_STORAGE_PATH="$directory/data"
    configuration=(--config "$repository/storage-worker.toml"
        --set "http.listen=127.0.0.1:$http_port" --set "admin.listen=127.0.0.1:$admin_port")
    # Relative paths of the configuration lead into the temporary directory.
    (cd "$directory" && exec "$binary" run "${configuration[@]}") >"$directory/worker.log" 2>&1 &
    worker_id=$!
    eventually is_ready
}

evaluations() {
    local at=2025-01-01T12 number id
    for number in 1 2 3 4 5 6; do
        id="20250101_12000${number}_demo000$number"
        publish evaluation:queued "{\"eval_id\": \"$id\", \"code\": \"print($number * 7)\", \"language\": \"python\", \"engine\": \"docker\", \"metadata\": {\"submitted_at\": \"$at:00:0$number+00:00\", \"timeout\": 30}}"
        publish evaluation:running "{\"eval_id\": \"$id\", \"executor_id\": \"job-$number\", \"container_id\": \"job-$number\", \"started_at\": \"$at:01:0$number+00:00\"}"
        publish evaluation:completed "{\"eval_id\": \"$id\", \"output\": \"$((number * 7))\\n\", \"exit_code\": 0, \"metadata\": {\"completed_at\": \"$at:01:0$number.25+00:00\"}}"
    done
    echo "  # failed, and failed by a timeout"
    publish evaluation:queued '{"eval_id": "demo-failed", "code": "1/0", "language": "python"}'
    publish evaluation:failed '{"eval_id": "demo-failed", "error": "ZeroDivisionError: division by zero", "exit_code": 1}'
    publish evaluation:completed '{"eval_id": "demo-timeout", "status": "timeout", "error": "timed out after 30 s", "exit_code": -1}'
    echo "  # cancelled, and told twice"
    publish evaluation:submitted '{"eval_id": "demo-cancelled", "code": "while True: pass", "language": "python"}'
    publish evaluation:cancelled '{"eval_id": "demo-cancelled", "job_name": "job-9", "cancelled_at": "2025-01-01T12:05:00+00:00", "reason": "Job deleted"}'
    publish evaluation:cancelled '{"eval_id": "demo-cancelled", "job_name": "job-9", "cancelled_at": "2025-01-01T12:05:00+00:00", "reason": "Job deleted"}'
    echo "  # out of order: the end comes first"
    publish evaluation:completed '{"eval_id": "demo-disorder", "output": "in the end all is well\n", "completed_at": "2025-01-01T12:06:03Z"}'
    publish evaluation:running '{"eval_id": "demo-disorder", "executor_id": "job-10", "started_at": "2025-01-01T12:06:01Z"}'
    publish evaluation:queued '{"eval_id": "demo-disorder", "code": "print()", "submitted_at": "2025-01-01T12:06:00Z"}'
    echo "  # not all ends yet, and Unicode"
    publish evaluation:running '{"eval_id": "demo-running", "executor_id": "job-11", "started_at": "2025-01-01T12:07:00Z"}'
    publish evaluation:completed '{"eval_id": "demo-unicode", "output": "größe 数 🦀\u0000\n", "exit_code": 0}'
    echo "  # invalid: an id that leads elsewhere, no code, no JSON"
    publish_raw evaluation:completed '{"eval_id": "../escape", "output": "x"}'
    publish_raw evaluation:queued '{"eval_id": "demo-incomplete"}'
    publish_raw evaluation:failed 'no JSON at all'
}

[ -x "$binary" ] || fail "\`$binary\` is not built; run \`make demo\`"
start_redis
listen >"$directory/confirmations" 2>"$directory/listening" &
listener_id=$!
eventually grep -q listening "$directory/listening"
start_worker
title "Redis on port $redis_port, the worker on port $http_port"

title "Publishing a dozen evaluations"
evaluations
all_confirmed() { [ "$(wc -l <"$directory/confirmations")" -eq "$published" ]; }
eventually all_confirmed

title "What the worker confirmed"
cat "$directory/confirmations"

title "What it refused, from its log, and kept as dead letters"
grep '"event rejected"' "$directory/worker.log"
cat "$directory/journal/dead-letters.jsonl"

title "storage-worker list"
storage_worker list
title "storage-worker get demo-disorder"
storage_worker get demo-disorder

title "GET /health"
http_get /health
echo

title "SIGTERM: the worker drains"
kill -TERM "$worker_id"
wait "$worker_id" || fail "the worker ended with status $?"
worker_id=''
tail -n 3 "$directory/worker.log"

title "What is on the disk"
(cd "$directory" && find data -type f | sort | head -n 40)
printf '\nDone: nothing runs any more, and %s is removed.\n' "$directory"
