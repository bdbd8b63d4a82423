# shellcheck shell=bash
# The part `meter` of bench/run, which reads this file: consumption against what people write or use instead. What costs is
# waiting for the disk and for each other, so the server must be durable: a cluster of its own with fsync, which is also
# killed in between.
#
# All subjects of an experiment are measured in turn, once a round, and a rate is that of units that are stored as used: if the
# server's count of them is not that of the answers, the run fails.

meter_seconds=${METER_SECONDS:-2}
meter_rounds=${METER_ROUNDS:-7}
meter_limit=${METER_LIMIT:-5000}
many=64 # clients

# In a subshell, so that the parts after it still measure on the server they were given.
meter() { (
    trap meter_finish EXIT
    meter_start
    for experiment in steady limit job crashes record bloat growth; do
        say "measuring: meter, $experiment"
        "meter_$experiment"
    done
    meter_report
); }

meter_start() {
    export CLUSTER=meter
    "$root/scripts/cluster" destroy "$PG"
    start_durable
    export PGOPTIONS="$PGOPTIONS -c session_preload_libraries=entitlements"
    say "building the clients"
    (cd "$root" && cargo build -q --release -p entitlements-bench)
    make_noop
    : >"$work/rates" >"$work/crashes" >"$work/bloat" >"$work/notes"
    load bench_meter "$million" 1 0 true
    sql bench_meter -v "accounts=$million" -v "limit=$meter_limit" -v "rounds=$meter_rounds" -f "$bench/meter.sql" >"$work/load.log"
    start_redis || note "Redis cannot be had on this machine, so nothing is compared with it."
}

meter_finish() {
    local clients
    mapfile -t clients < <(jobs -p)
    # Who is halted hears it when it goes on.
    [ ${#clients[@]} -eq 0 ] || kill -TERM "${clients[@]}" 2>/dev/null || true
    [ ${#clients[@]} -eq 0 ] || kill -CONT "${clients[@]}" 2>/dev/null || true
    "$root/scripts/cluster" destroy "$PG"
    rm -rf "$redis_data"
}

note() { echo "$1" | tee -a "$work/notes"; }

start_durable() {
    local environment attempt
    # After a kill its processes take a moment to notice.
    for attempt in 1 2 3 4 5; do
        ! FSYNC=on SETTINGS='shared_buffers=1GB' "$root/scripts/cluster" start "$PG" 2>"$work/start.log" || break
        [ "$attempt" -lt 5 ] || fail "$(cat "$work/start.log")"
        sleep 1
    done
    environment=$("$root/scripts/cluster" env "$PG")
    eval "$environment"
    export PGDATABASE=bench_meter
}

redis_data=$(place)/bench/redis

start_redis() {
    local programs=$target/redis/usr/bin attempt
    [ -x "$programs/redis-server" ] || "$root/scripts/setup" redis || return 1
    redis_libraries=$(find "$target/redis/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd :)
    mkdir -p "$redis_data"
    export REDIS_SOCKET=$work/redis
    LD_LIBRARY_PATH=$redis_libraries "$programs/redis-server" --port 0 --unixsocket "$REDIS_SOCKET" --dir "$redis_data" \
        --appendonly yes --appendfsync always --save '' >"$work/redis.log" 2>&1 &
    redis=$!
    for ((attempt = 0; attempt < 100; attempt++)); do
        [ "$(ask_redis PING)" != PONG ] || return 0
        sleep 0.1
    done
    redis=
    return 1
}

ask_redis() { LD_LIBRARY_PATH=$redis_libraries "$target/redis/usr/bin/redis-cli" -s "$REDIS_SOCKET" "$@" 2>/dev/null || true; }

# rate EXPERIMENT SUBJECT X ROUND VALUE: units a second
rate() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$work/rates"; }

units() { sql bench_meter -F ' ' -c 'SELECT * FROM bench.units()'; }

# pgbench_rate SCRIPT CLIENTS WARM [ARGUMENT …]: sets tps, and units_now for the next one to begin with. The first WARM seconds, in
# which the backends get warm, do not count.
pgbench_rate() {
    local script=$1 clients=$2 warm=$3 before after transactions output
    shift 3
    before=${units_now:-$(units)}
    output=$(pgbench -n -M prepared -c "$clients" -j "$(threads "$clients")" -T $((meter_seconds + warm)) -P 1 -f "$bench/$script.pgbench" -D warm=1 "$@" \
        bench_meter 2>"$work/pgbench.log") || fail "pgbench $script: $(cat "$work/pgbench.log")"
    after=$(units)
    units_now=$after
    transactions=$(transactions_in - <<<"$output")
    awk -v script="$script" -v transactions="$transactions" -v before="$before" -v after="$after" 'BEGIN {
        split(before, b, " "); split(after, a, " ")
        consumed = script ~ /^consume/ ? transactions : 0
        exit a[1] - b[1] != consumed || a[2] - b[2] != transactions - consumed
    }' || fail "$script: $transactions transactions, but used (consumed, updated) went from $before to $after"
    tps=$(awk -v warm="$warm" -v transactions="$transactions" -v overall="$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' <<<"$output")" '
        /^progress: / && since < warm - 0.5 { done += $4 * ($2 - since); since = $2 }
        END {
            seconds = transactions / overall
            # A busy machine may report a second too late to go by it.
            if (since == 0 || seconds - since < seconds / 4) print overall
            else print (transactions - done) / (seconds - since)
        }' "$work/pgbench.log")
}

# transactions_in FILE: what pgbench says in the end
transactions_in() { sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$1"; }

threads() { echo $(($1 < $(nproc) ? $1 : $(nproc))); }

meter_steady() {
    duel 'one client' 1 2 '' 1
    duel 'one account' $many 2 '' 1
    duel 'one account, 5 ms of work' $many 2 _and_work 1
    # As in a pool of connections that live for hours: each has met each account.
    duel '1,000 accounts' $many 10 '' $((million < 1000 ? million : 1000)) -D warm=0
}

# duel EXPERIMENT CLIENTS WARM SUFFIX-OF-THE-SCRIPTS ACCOUNTS [ARGUMENT …]: once their backends have been at work for WARM seconds
duel() {
    local experiment=$1 clients=$2 warm=$3 suffix=$4 accounts=$5 subject before
    local -A process
    shift 5
    before=$(units)
    for subject in update consume; do
        pgbench -n -M prepared -c "$clients" -j "$(threads "$clients")" -T $((warm + $(seconds_in_turns 2))) \
            -f "$bench/$subject$suffix.pgbench" -D warm=1 -D "accounts=$accounts" "$@" bench_meter >"$work/$subject.out" 2>"$work/$subject.log" &
        process[$subject]=$!
    done
    sleep "$warm"
    measure_in_turns "$experiment" "$clients" steady_units
    for subject in update consume; do
        wait "${process[$subject]}" || fail "pgbench $subject: $(cat "$work/$subject.log")"
    done
    awk -v consumed="$(transactions_in "$work/consume.out")" -v updated="$(transactions_in "$work/update.out")" -v before="$before" \
        -v after="$(units)" 'BEGIN { split(before, b, " "); split(after, a, " "); exit a[1] - b[1] != consumed || a[2] - b[2] != updated }' ||
        fail "$experiment: not as many units were used as there were transactions"
}

# steady_units SUBJECT: the time, and how many units it has used by then
steady_units() { sql bench_meter -F ' ' -c "SELECT extract(epoch FROM clock_timestamp()), ${1}d FROM bench.units(1, $accounts)"; }

# measure_in_turns EXPERIMENT CLIENTS COUNT: of what is in `process`, all live all the time, and all but one are halted while that
# one is measured: so the machine's other work hits all alike. COUNT SUBJECT prints the time, and how many units it has used by then.
measure_in_turns() {
    local round subject before
    kill -STOP "${process[@]}"
    for ((round = 1; round <= meter_rounds; round++)); do
        for subject in $(shuf -e "${!process[@]}"); do
            kill -CONT "${process[$subject]}"
            sleep 0.3
            before=$("$3" "$subject")
            sleep "$meter_seconds"
            rate "$1" "$subject" "$2" "$round" "$(echo "$before $("$3" "$subject")" | awk '{ print ($4 - $2) / ($3 - $1) }')"
            kill -STOP "${process[$subject]}"
        done
    done
    kill -CONT "${process[@]}"
}

# seconds_in_turns SUBJECTS: more than that takes
seconds_in_turns() { echo $(($1 * meter_rounds * (meter_seconds + 1))); }

# run_clients SUBJECT SECONDS ACCOUNT: sets acknowledged, measured, seconds
run_clients() {
    local output
    output=$("$root/target/release/entitlements-bench" "$1" $many "$2" "$3" 2>"$work/client.log") || fail "$1: $(cat "$work/client.log")"
    read -r acknowledged measured seconds <<<"$output"
}

# From 95 % of the allowance to its end.
meter_limit() {
    local round subject acknowledged measured seconds
    for ((round = 1; round <= meter_rounds; round++)); do
        for subject in $(shuf -e update consume); do
            case $subject in
            update) run_clients limit-update 0 "-$round" ;;
            consume) run_clients limit-consume 0 "limit-$round" ;;
            esac
            [ "$measured" -eq "$meter_limit" ] || fail "$subject gave $measured units, not $meter_limit"
            rate 'the last 5 %' "$subject" $many "$round" "$(awk -v n="$measured" -v s="$seconds" 'BEGIN { print n / s }')"
        done
    done
}

# A unit and the row it pays for, each way on an account of its own. Clients that are halted within a transaction would keep the
# others' dead rows from being removed: those with four round trips are measured by themselves.
meter_job() {
    local round subject taken stored acknowledged measured seconds subjects=(statement pipeline)
    local -A process account=([statement]=1 [pipeline]=2 [redis]=3) before
    [ -z "${redis:-}" ] || subjects+=(redis)
    sql bench_meter -c 'TRUNCATE bench.rows'
    for subject in "${subjects[@]}"; do
        before[$subject]=$(job_units "$subject")
        "$root/target/release/entitlements-bench" "job-$subject" $many $((4 + $(seconds_in_turns ${#subjects[@]}))) "${account[$subject]}" \
            >"$work/$subject.out" 2>"$work/$subject.log" &
        process[$subject]=$!
    done
    sleep 4
    measure_in_turns 'a unit and its row' $many job_units
    for subject in "${subjects[@]}"; do
        wait "${process[$subject]}" || fail "job-$subject: $(cat "$work/$subject.log")"
        taken=$(echo "${before[$subject]} $(job_units "$subject")" | awk '{ printf "%d", $4 - $2 }')
        stored=$(sql bench_meter -c "SELECT count(*) FROM bench.rows WHERE account = '${account[$subject]}'")
        read -r acknowledged _ <"$work/$subject.out"
        must_agree "$subject"
    done
    for ((round = 1; round <= meter_rounds; round++)); do
        begin_job
        run_clients job-transaction "$meter_seconds" 1
        count_job transaction
        must_agree transaction
        rate 'a unit and its row' transaction $many "$round" "$(awk -v n="$measured" -v s="$seconds" 'BEGIN { print n / s }')"
    done
}

# must_agree SUBJECT: what was acknowledged, taken and stored
must_agree() {
    [ "$taken" -eq "$stored" ] && [ "$stored" -eq "$acknowledged" ] ||
        fail "job-$1: $acknowledged acknowledged, $taken units, $stored rows"
}

# job_units SUBJECT: the time, and how many units it has used by then
job_units() {
    case $1 in
    redis) echo "$EPOCHREALTIME $(ask_redis GET "${account[redis]}" | sed 's/^$/0/')" ;;
    *) sql bench_meter -F ' ' -c "SELECT extract(epoch FROM clock_timestamp()), consumed FROM bench.units(${account[$1]}, ${account[$1]})" ;;
    esac
}

begin_job() {
    sql bench_meter -c 'TRUNCATE bench.rows'
    taken_before=$(units | cut -d ' ' -f 1)
    [ -z "${redis:-}" ] || ask_redis DEL 1 >/dev/null
}

# count_job SUBJECT: sets taken and stored
count_job() {
    case $1 in
    redis) taken=$(ask_redis GET 1) ;;
    *) taken=$(awk -v after="$(units | cut -d ' ' -f 1)" -v before="$taken_before" 'BEGIN { printf "%d", after - before }') ;;
    esac
    stored=$(sql bench_meter -c 'SELECT count(*) FROM bench.rows')
}

# What is left when something dies while all clients are at work: they themselves, with one of them between the unit and the
# row, or a server.
meter_crashes() {
    local victim subject acknowledged death
    for victim in clients PostgreSQL Redis; do
        for subject in transaction redis; do
            [ "$subject" != redis ] || [ -n "${redis:-}" ] || continue
            [ "$victim" != Redis ] || [ "$subject" = redis ] || continue
            begin_job
            [ "$victim" = clients ] && death=$((20 * many)) || death=0
            "$root/target/release/entitlements-bench" "job-$subject" $many 600 1 $death >"$work/acknowledged" 2>"$work/client.log" &
            client=$!
            [ "$victim" = clients ] || at_work
            "kill_$victim"
            wait "$client" 2>/dev/null || true
            acknowledged=$(cut -d ' ' -f 1 "$work/acknowledged")
            "revive_$victim"
            count_job "$subject"
            if [ "$subject" = transaction ] && [ "$taken" -ne "$stored" ]; then
                fail "$victim killed: $taken units, $stored rows"
            fi
            [ "$stored" -ge "${acknowledged:-0}" ] || fail "$victim killed: $acknowledged acknowledged, $stored rows"
            printf '%s\t%s\t%s\t%s\t%s\n' "$victim" "$subject" "$taken" "$stored" "$acknowledged" >>"$work/crashes"
        done
    done
}

at_work() {
    until [ "$(sql bench_meter -c 'SELECT count(*) FROM bench.rows')" -gt $((20 * many)) ]; do
        kill -0 "$client" || fail "the clients stopped by themselves: $(cat "$work/client.log")"
        sleep 0.1
    done
}

# They do it themselves.
kill_clients() { ! wait "$client" 2>/dev/null || fail "the clients live: $(cat "$work/client.log")"; }

# Its backends may still be at the statement they had.
revive_clients() {
    until [ "$(sql bench_meter -c "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bench_meter' AND pid <> pg_backend_pid() AND backend_type = 'client backend'")" -eq 0 ]; do
        sleep 0.1
    done
}

kill_PostgreSQL() {
    local postmaster
    postmaster=$(sql bench_meter -c "SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)")
    # shellcheck disable=SC2046 # numbers are words
    kill -9 "$postmaster" $(pgrep -P "$postmaster") 2>/dev/null || true
    while kill -0 "$postmaster" 2>/dev/null; do
        sleep 0.1
    done
}

revive_PostgreSQL() { start_durable; }

kill_Redis() { kill -9 "$redis"; }

revive_Redis() {
    wait "$redis" 2>/dev/null || true
    start_redis || fail "Redis does not come back: $(cat "$work/redis.log")"
}

meter_record() {
    local rows=$((million / 10))
    if [ -z "$(sql bench_meter -c "SELECT to_regprocedure('entitlements.record_usage(jsonb)')")" ]; then
        note "There is no record_usage, so it is not measured."
        return
    fi
    sql bench_meter -c "CALL bench.record($rows, $meter_rounds)"
    sql bench_meter -F $'\t' -c "SELECT experiment, subject, $rows, round, value FROM bench.measurements WHERE experiment LIKE 'record%'" >>"$work/rates"
}

# A database of its own: autovacuum decides by how much of a table has changed, and this one has one account. Without waiting
# for the disk, so that vacuum has less time.
meter_bloat() {
    local portion transactions=$((million / many / 4)) sizes
    sizes="SELECT pg_relation_size('entitlements.counters'), pg_total_relation_size('entitlements.counters') - pg_relation_size('entitlements.counters'),
        pg_relation_size('entitlements.counter_slots'), pg_total_relation_size('entitlements.counter_slots') - pg_relation_size('entitlements.counter_slots'),
        (SELECT sum(autovacuum_count) FROM pg_stat_all_tables WHERE relid IN ('entitlements.counters'::regclass, 'entitlements.counter_slots'::regclass)),
        (SELECT sum(used) FROM entitlements.counters) + (SELECT coalesce(sum(used), 0) FROM entitlements.counter_slots)"
    sql postgres -c 'CREATE DATABASE bench_bloat'
    sql bench_bloat -c 'CREATE EXTENSION entitlements' -c "SELECT entitlements.apply_catalog('{\"features\": {\"calls\": {\"kind\": \"quota\"}},
        \"plans\": {\"team\": {\"kind\": \"base\", \"features\": {\"calls\": 1000000000000}}}}')" \
        -c "SELECT entitlements.subscribe('1', 'team'), entitlements.consume('1', 'calls')" >"$work/load.log"
    sql bench_bloat -F $'\t' -c "$sizes" >>"$work/bloat"
    for portion in 1 2 3 4; do
        PGOPTIONS="$PGOPTIONS -c synchronous_commit=off" pgbench -n -M prepared -c $many -j "$(threads $many)" -t "$transactions" \
            -D warm=1 -D accounts=1 -f "$bench/consume.pgbench" bench_bloat >"$work/pgbench.log" 2>&1 || fail "pgbench: $(cat "$work/pgbench.log")"
        sql bench_bloat -F $'\t' -c "$sizes" >>"$work/bloat"
        [ "$(tail -n 1 "$work/bloat" | cut -f 6)" -eq $((portion * transactions * many + 1)) ] || fail "after portion $portion: $(tail -n 1 "$work/bloat")"
    done
    sql postgres -c 'DROP DATABASE bench_bloat'
}

meter_growth() {
    local round subject clients accounts pools state meter_seconds=$(((meter_seconds + 1) / 2)) units_now=
    for ((round = 1; round <= (meter_rounds + 2) / 3; round++)); do
        for subject in $(shuf -e update consume); do
            for clients in 1 2 4 8 16 32 64 128; do
                pgbench_rate "$subject" "$clients" 1 -D accounts=1
                rate clients "$subject" "$clients" "$round" "$tps"
            done
            for accounts in $(printf '%s\n' 1 1000 $((million / 10)) "$million" | sort -nu); do
                pgbench_rate "$subject" $many 1 -D "accounts=$accounts"
                rate accounts "$subject" "$accounts" "$round" "$tps"
            done
        done
        for state in $(shuf -e full spent); do
            for pools in 1 2 5 10 20 50; do
                pgbench_rate consume_from_pools $many 1 -D "account=pools-$pools-$state"
                rate pools "$state" "$pools" "$round" "$tps"
            done
        done
    done
}

meter_report() {
    {
        echo "PostgreSQL $(sql bench_meter -c 'SHOW server_version'), fsync on, shared_buffers 1GB; $(nproc) processors; load average $load_before before, $(load_average) after;" \
            "$meter_rounds rounds, $meter_seconds s each; $million accounts."
        cat "$work/notes"
    } >"$work/heading"
    "$bench/report_meter" "$work" "$target/bench/meter.svg" | tee "$target/bench/meter.md"
    say "also in $target/bench/meter.md, with a plot in $target/bench/meter.svg"
}
