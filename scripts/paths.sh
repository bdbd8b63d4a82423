# shellcheck shell=bash
# Where everything is, for the other scripts to source. Nothing here changes the machine.
#
# All that set-up and tests make lies under target/. One case needs care: the server refuses to run as root,
# so root runs it as another user, who must be able to reach it. Where target/ is closed to that user (a clone
# below /root), servers and clusters live in a directory of their own in /var/tmp and target/place points there.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
target=$root/target
PG=${PG:-15}
case $PG in
15 | 16 | 17 | 18) ;;
*)
    echo "PG=$PG: this project supports PostgreSQL 15, 16, 17 and 18" >&2
    exit 1
    ;;
esac

export PGRX_HOME=$target/pgrx
umask 022

# The user that runs the server: the caller, or for root somebody without rights. An existing cluster keeps its user:
# postgres may have come to the machine after the cluster was made.
server_user() {
    if [ "$EUID" -ne 0 ]; then
        id -un
    elif [ -d "$(cluster_dir)/data" ]; then
        stat -L -c %U "$(cluster_dir)/data"
    elif getent passwd postgres >/dev/null; then
        echo postgres
    else
        echo nobody
    fi
}

# Runs a command as the server's user. The environment is emptied: a variable of the caller's shell
# (RUST_BACKTRACE, LANG, PG*) must not change how the server behaves.
as_server() {
    local clean=(env -C / -i "PATH=/usr/local/bin:/usr/bin:/bin" "LC_ALL=C" "TZ=UTC")
    if [ "$EUID" -ne 0 ]; then
        "${clean[@]}" "$@"
    else
        local user
        user=$(server_user)
        "${clean[@]}" setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups "$@"
    fi
}

# The directory that holds servers and clusters.
place() {
    if [ -L "$target/place" ]; then
        readlink -f "$target/place"
    else
        echo "$target"
    fi
}

server_dir() { echo "$(place)/pg/$PG"; }
cluster_dir() { echo "$(place)/cluster-$PG${CLUSTER:+-$CLUSTER}"; }

# The server's own pg_config; PG_CONFIG in the environment is for `install` and `package` alone.
throwaway_pg_config() { echo "$(server_dir)/bin/pg_config"; }

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
