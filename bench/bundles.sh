# shellcheck shell=bash
# The part `bundles` of bench/run, which reads this file: a bundle of many accounts, against COPY of the rows it makes into the
# same tables. The vendor's database exports it, so nothing else is needed to make one.

bundle_rounds=${BUNDLE_ROUNDS:-3}
bundle_results=$target/bench/bundles.md

bundles() {
    local accounts=$((million / 10)) round
    bundle_files=$(place)/bench/bundles
    rm -rf "$bundle_files"
    mkdir -p "$bundle_files"
    chmod 777 "$bundle_files"
    # The key of RFC 8037, appendix A: everybody has it.
    echo '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}' >"$bundle_files/key"
    bundle_database bench_vendor
    say "loading bench_vendor: $accounts accounts"
    sql bench_vendor -v "accounts=$accounts" -f "$bench/bundles.sql" >"$work/load.log"
    export_ms=$(timed bench_vendor "SET entitlements.signing_key_file = '$bundle_files/key'" \
        "COPY (SELECT entitlements.export_bundle('site', grace => '10 days')) TO '$bundle_files/first'")
    timed bench_vendor "SET entitlements.signing_key_file = '$bundle_files/key'" \
        "COPY (SELECT entitlements.export_bundle('site', grace => '10 days')) TO '$bundle_files/second'" >"$work/second"
    : >"$work/bundles"
    for ((round = 1; round <= bundle_rounds; round++)); do
        say "measuring: bundles, round $round of $bundle_rounds"
        bundle_round
    done
    {
        bundle_report "$accounts"
        printf '\nVerifying a document, the parsing of its form included, not that of its claims, against verifying its signature alone.\n\n'
        (cd "$root" && cargo run --quiet --release -p entitlements-bundle --example verify_rate)
    } | tee "$bundle_results"
    [ -n "${BENCH_KEEP:-}" ] || bundle_drop
    say "also in $bundle_results"
}

bundle_database() {
    sql postgres -c "DROP DATABASE IF EXISTS $1 WITH (FORCE)" -c "CREATE DATABASE $1"
}

bundle_drop() {
    local database
    for database in bench_vendor bench_site bench_copy; do
        sql postgres -c "DROP DATABASE IF EXISTS $database WITH (FORCE)"
    done
    rm -rf "$bundle_files"
}

# timed DATABASE [STATEMENT …]: milliseconds of the last statement. The most memory of the backend's own meanwhile, in MB and
# without what it shares, goes to $work/memory: a sample each 50 ms, since no counter tells that highest of its own memory.
timed() {
    local database=$1 statement
    shift
    {
        for statement in "${@:1:$#-1}"; do echo "$statement;"; done
        echo 'SELECT pg_backend_pid() AS pid \gset'
        echo '\setenv BACKEND :pid'
        # shellcheck disable=SC2016 # of the shell that psql starts
        echo '\! while grep RssAnon "/proc/$BACKEND/status"; do sleep 0.05; done >"$SAMPLES" 2>/dev/null &'
        # shellcheck disable=SC2028 # psql's own
        echo '\timing on'
        echo "${*: -1};"
    } >"$work/timed.sql"
    SAMPLES=$work/samples sql "$database" -f "$work/timed.sql" >"$work/timed.log" || fail "$database: $(cat "$work/timed.log")"
    awk '$2 > most { most = $2 } END { printf "%d\n", most / 1024 }' "$work/samples" >"$work/memory"
    sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' "$work/timed.log"
}

bundle_columns() {
    sql bench_site -c "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = 'entitlements.$1'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
}

bundle_round() {
    local import same again copy=0 audit=0 table milliseconds
    bundle_database bench_site
    sql bench_site -c 'CREATE EXTENSION entitlements' -c "SELECT entitlements.set_deployment('site')" \
        -c "SELECT entitlements.trust_key('{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}', 'https://vendor.example')" >"$work/site.log"
    import=$(timed bench_site "SELECT count(*) FROM entitlements.import_bundle(pg_read_file('$bundle_files/first'))")
    bundle_memory=$(cat "$work/memory")
    sql bench_site -c 'VACUUM ANALYZE'
    same=$(timed bench_site "SELECT count(*) FROM entitlements.import_bundle(pg_read_file('$bundle_files/first'))")
    again=$(timed bench_site "SELECT count(*) FROM entitlements.import_bundle(pg_read_file('$bundle_files/second'))")
    status=$(timed bench_site "SELECT tampered FROM entitlements.bundle_status()")
    grep -qx f "$work/timed.log" || fail "the rows are not what the bundle states"
    # The same rows into the same tables, as a restore would do it.
    bundle_database bench_copy
    sql bench_copy -c 'CREATE EXTENSION entitlements' >"$work/copy.log"
    for table in features plans plan_versions plan_features; do
        sql bench_site -c "COPY entitlements.$table ($(bundle_columns $table)) TO STDOUT" | sql bench_copy -c "COPY entitlements.$table ($(bundle_columns $table)) FROM STDIN"
    done
    for table in accounts subscriptions overrides audit_chains audit_log; do
        sql bench_site -c "COPY entitlements.$table ($(bundle_columns $table)) TO '$bundle_files/$table'"
        milliseconds=$(timed bench_copy "COPY entitlements.$table ($(bundle_columns $table)) FROM '$bundle_files/$table'")
        case $table in
        audit_*) audit=$(awk -v a="$audit" -v b="$milliseconds" 'BEGIN { print a + b }') ;;
        *) copy=$(awk -v a="$copy" -v b="$milliseconds" 'BEGIN { print a + b }') ;;
        esac
    done
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$import" "$copy" "$audit" "$same" "$again" "$bundle_memory" "$status" >>"$work/bundles"
}

# Medians of the rounds.
bundle_report() {
    local column medians=()
    for column in 1 2 3 4 5 6 7; do
        medians+=("$(cut -f "$column" "$work/bundles" | sort -n | awk '{ values[NR] = $1 } END { print values[int((NR + 1) / 2)] }')")
    done
    awk -v accounts="$1" -v rounds="$bundle_rounds" -v export="$export_ms" -v size="$(stat -c %s "$bundle_files/first")" -v medians="${medians[*]}" 'BEGIN {
        split(medians, m, " ")
        printf "A bundle of %d accounts with a subscription and two overrides each, %.0f MB; medians of %d rounds.\n\n", accounts, size / 1048576, rounds
        print "| | ms | target |\n| --- | ---: | --- |"
        printf "| export, signed | %.0f | |\n", export
        printf "| import | %.0f | |\n", m[1]
        printf "| COPY of the accounts, subscriptions and overrides it makes | %.0f | |\n", m[2]
        printf "| COPY of its audit entries and chains | %.0f | |\n", m[3]
        printf "| speed of the import, COPY of the rows = 1 | %.2f | at least 0.3 |\n", m[2] / m[1]
        printf "| the same with audit entries | %.2f | |\n", (m[2] + m[3]) / m[1]
        printf "| the same bundle again | %.0f | below 2000 |\n", m[4]
        printf "| another bundle with the same content | %.0f | below 2000 |\n", m[5]
        printf "| bundle_status, verified | %.0f | |\n", m[7]
        printf "\nMost memory of the backend that imports: %d MB (below 1024).\n", m[6]
    }'
}
