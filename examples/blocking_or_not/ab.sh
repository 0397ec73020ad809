#!/bin/sh
# Measures requests per second of /hello with ApacheBench, with and without the layer, on 1 and on
# 2 workers.
#
# All servers run at the same time and are measured in turn, so that other load on the machine
# affects them equally. ApacheBench takes CPU time from the servers: compare the ratios, not the
# requests per second. On a busy machine the server's CPU time per request (of all its threads, from
# /proc) is more reliable than either.
#
#   REQUESTS=5000 ROUNDS=5 CONCURRENCIES="1 500 1000" examples/blocking_or_not/ab.sh
set -eu
cd "$(dirname "$0")/../.."
requests=${REQUESTS:-5000} rounds=${ROUNDS:-5} concurrencies=${CONCURRENCIES:-1 500 1000}
server=${CARGO_TARGET_DIR:-target}/release/blocking-or-not

if ! command -v ab >/dev/null; then
    echo "ab.sh: ab not found; on Debian, it is in the package apache2-utils" >&2
    exit 1
fi
# Each client needs a file descriptor of ab.
ulimit -n 4096
cargo build --quiet --release --package blocking-or-not

work=$(mktemp -d)
servers=
finish() {
    for server in $servers; do
        kill "$server" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

# start NAME OPTIONS: starts a server and writes its process id and its address to files.
start() {
    name=$1
    shift
    : >"$work/$name.out"
    "$server" --serve --port 0 "$@" >"$work/$name.out" 2>"$work/$name.err" &
    servers="$servers $!"
    echo $! >"$work/$name.pid"
    until grep -q '^http://' "$work/$name.out"; do
        kill -0 $! 2>/dev/null || { cat "$work/$name.err" >&2; exit 1; }
        sleep 0.1
    done
    sed -n '1s|^http://\([0-9.:]*\).*|\1|p' "$work/$name.out" >"$work/$name.address"
}

# cpu NAME: prints the CPU time of a server, in ticks.
cpu() { awk '{ print $14 + $15 }' "/proc/$(cat "$work/$1.pid")/stat" 2>/dev/null || echo 0; }

# measure NAME CONCURRENCY: prints the requests per second of one run, and appends the CPU time that
# the server used to a file.
measure() {
    before=$(cpu "$1")
    url=http://$(cat "$work/$1.address")/hello
    ab -q -n "$requests" -c "$2" "$url" >"$work/ab" 2>&1 || { cat "$work/ab" >&2; exit 1; }
    echo $(($(cpu "$1") - before)) >>"$work/$1-$2.cpu"
    awk '/^Failed requests/ && $3 > 0 { print "failed requests: " $3 > "/dev/stderr"; exit 1 }
        /^Requests per second/ { print $4 }' "$work/ab"
}

# per_request FILE: prints the microseconds of CPU time per request.
per_request() {
    awk -v hz="$(getconf CLK_TCK)" -v requests="$requests" \
        '{ sum += $1 } END { printf "%.1f", sum * 1e6 / hz / requests / NR }' "$1.cpu"
}

median() {
    sort -n "$1" |
        awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

for workers in 1 2; do
    start "bare-$workers" --bare --workers "$workers"
    start "layer-$workers" --workers "$workers"
done
for name in bare-1 layer-1 bare-2 layer-2; do
    measure "$name" 10 >/dev/null # warm-up
done

round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    for concurrency in $concurrencies; do
        for workers in 1 2; do
            # The order alternates from round to round.
            pair="bare layer"
            [ $((round % 2)) = 1 ] || pair="layer bare"
            for kind in $pair; do
                measure "$kind-$workers" "$concurrency" >>"$work/$kind-$workers-$concurrency"
            done
        done
    done
done

printf '| workers | concurrency | bare, requests/s | with the layer | with/without '
printf '| lowest to highest round | bare, CPU µs/request | with the layer |\n'
echo "|--:|--:|--:|--:|--:|--:|--:|--:|"
for workers in 1 2; do
    for concurrency in $concurrencies; do
        bare=$work/bare-$workers-$concurrency layer=$work/layer-$workers-$concurrency
        paste "$layer" "$bare" | awk '{ printf "%.4f\n", $1 / $2 }' | sort -n >"$work/ratios"
        printf '| %s | %s | %.0f | %.0f | %.2f | %.2f to %.2f | %s | %s |\n' \
            "$workers" "$concurrency" "$(median "$bare")" "$(median "$layer")" \
            "$(median "$work/ratios")" "$(head -1 "$work/ratios")" "$(tail -1 "$work/ratios")" \
            "$(per_request "$bare")" "$(per_request "$layer")"
    done
done
