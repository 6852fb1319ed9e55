#!/usr/bin/env bash
# The original practice, from nothing to four replicas behind nginx, run by reeve: `make demo`, `make demo-down`.
#
#   demo.sh up      what is missing is made and started; repeating it is harmless and quick
#   demo.sh down    what `up` made is removed, and nothing else
#
# All of the demo's files are in target/demo. Files that are meant to be edited there are written once and
# replaced only while nobody has edited them.
#
#   REEVE   a reeve binary to use instead of building one
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${here%/manifests/demo}
readonly here root
readonly demo=$root/target/demo
readonly node=demo # whatever the host is called: what was made is found again by this mark
readonly owner=consul-nginx@$node
readonly site=http://127.0.0.1:1216/
readonly fetch_limit=90 # seconds: a cluster's first election and the checks' first runs are in it
readonly apply_limit=5m
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# The environment wins over the settings file; the demo's daemon must do what its file says.
for variable in "${!REEVE_@}"; do unset "$variable"; done

if [[ -n ${REEVE:-} ]]; then
    reeve=$REEVE
else
    reeve=${CARGO_TARGET_DIR:-$root/target}/release/reeve
fi
readonly reeve
readonly settings=$demo/reeve.yaml
readonly spec=$demo/consul-nginx.yaml
# Root's nginx hands these folders to the user of its workers, who may not be able to enter the checkout (/root,
# often). They cannot be the package's own either: the system's nginx would find them taken from it.
if ((EUID == 0)); then nginx_temp=/var/lib/reeve-demo; else nginx_temp=$demo/nginx/temp; fi
readonly nginx_temp
readonly pid_file=$demo/reeve.pid
readonly log=$demo/reeve.log

# ---------------------------------------------------------------- talking

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' plain=$'\e[0m'
else
    bold='' plain=''
fi
readonly bold plain

step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$*"; }

fail() {
    printf '\ndemo: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

# Paths as one would type them from here.
short() { if [[ $PWD == "$root" ]]; then printf '%s' "${1#"$root"/}"; else printf '%s' "$1"; fi; }

run_reeve() { "$reeve" --config "$settings" "$@" </dev/null; }

# What a reader types to do the same by hand.
typed() { printf '%s --config %s %s' "$(short "$reeve")" "$(short "$settings")" "$*"; }

have() { command -v "$1" >/dev/null 2>&1; }

docker_answers() { have docker && timeout 10 docker version >/dev/null 2>&1; }

wait_until() { # seconds, command…
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# ---------------------------------------------------------------- processes that are the demo's

is_daemon() { # pid: is it `reeve run` with our settings, however it was started?
    local -a words=()
    [[ -r /proc/$1/cmdline ]] || return 1
    mapfile -d '' -t words 2>/dev/null <"/proc/$1/cmdline" || return 1
    [[ " ${words[*]} " == *" run "* ]] || return 1
    [[ " ${words[*]} " == *" --config $settings "* ]] && return 0
    # One that somebody started by hand, with paths of their own: it holds the demo's lock.
    find "/proc/$1/fd" -lname "$demo/reeve.lock" 2>/dev/null | grep -q .
}

# The pid file may be gone, and a pid may be someone else's by now: what counts is what the process is.
daemon_pid() {
    local pid process
    pid=$(cat "$pid_file" 2>/dev/null || true)
    if [[ $pid =~ ^[0-9]+$ ]] && is_daemon "$pid"; then
        printf '%s' "$pid"
        return
    fi
    for process in /proc/[0-9]*; do
        is_daemon "${process#/proc/}" || continue
        printf '%s' "${process#/proc/}"
        return
    done
}

# Master and workers, also workers whose master was killed: those that write the demo's own logs.
nginx_pids() {
    local process
    for process in /proc/[0-9]*; do
        [[ $(cat "$process/comm" 2>/dev/null) == nginx ]] || continue
        if find "$process/fd" -lname "$demo/nginx/*" 2>/dev/null | grep -q .; then
            printf '%s\n' "${process#/proc/}"
        fi
    done
}

# A zombie has ended; where nothing collects orphans, it stays.
gone() { [[ ! -e /proc/$1 ]] || grep -qs '^State:.Z' "/proc/$1/status"; }
no_nginx() { [[ -z $(nginx_pids) ]]; }

stop_daemon() {
    local pid
    pid=$(daemon_pid)
    [[ -n $pid ]] || return 0
    say "stopping reeve (pid $pid)"
    kill -TERM "$pid" 2>/dev/null || true
    if ! wait_until 10 gone "$pid"; then
        say "reeve did not end within 10 s of SIGTERM: killing it ($(short "$log") may say why)"
        kill -KILL "$pid" 2>/dev/null || true
        wait_until 5 gone "$pid" || fail "process $pid does not end" 'Is it stopped by a debugger?'
    fi
    rm -f "$pid_file"
}

stop_nginx() {
    local pids pid
    pids=$(nginx_pids)
    [[ -n $pids ]] || return 0
    say "stopping the demo's nginx (pid ${pids//$'\n'/, })"
    for signal in QUIT TERM KILL; do
        for pid in $pids; do kill -"$signal" "$pid" 2>/dev/null || true; done
        if wait_until 5 no_nginx; then return; fi
        pids=$(nginx_pids)
    done
    fail "the demo's nginx does not end" "Its processes: ${pids//$'\n'/, }"
}

# ---------------------------------------------------------------- files

# Writes standard input to a file, unless somebody has edited the file: then it stays as it is. What was
# written is kept beside, to tell an edit from an older demo's text.
place() { # file
    local file=$1 written
    written=$demo/.written/${file##*/}
    mkdir -p "${file%/*}" "$demo/.written"
    cat >"$written.new"
    if [[ -e $file ]] && ! cmp -s "$file" "$written"; then
        cmp -s "$written.new" "$written" || say "$(short "$file") was edited: kept as it is (remove it to get the demo's own)"
        rm -f "$written.new"
        return
    fi
    if ! cmp -s "$written.new" "$file"; then cp "$written.new" "$file"; fi
    mv "$written.new" "$written"
}

edited() { ! cmp -s "$1" "$demo/.written/${1##*/}"; }

# With them reeve changes endpoints without a reload (nginx.endpoints: auto); without them it reloads.
lua_modules() {
    local folder=/usr/lib/nginx/modules
    [[ -e $folder/ndk_http_module.so && -e $folder/ngx_http_lua_module.so ]] || return 0
    printf 'load_module %s;\n' "$folder/ndk_http_module.so" "$folder/ngx_http_lua_module.so"
}

nginx_configuration() {
    local kind
    cat <<END
# The demo's own nginx: its pid, logs and configuration are in this folder.
$(lua_modules)
worker_processes auto;
pid $demo/nginx/nginx.pid;
error_log $demo/nginx/logs/error.log;

# A reload leaves the old workers to their open connections. Without a limit each of them stays, and keeps its
# memory, for as long as one client holds on.
worker_shutdown_timeout 30s;

events {
    worker_connections 1024;
}

http {
    access_log $demo/nginx/logs/access.log;
END
    for kind in client_body proxy fastcgi uwsgi scgi; do
        printf '    %s_temp_path %s/%s;\n' "$kind" "$nginx_temp" "$kind"
    done
    cat <<END

    # Written and switched by reeve: the upstreams of the spec, and the probe that tells what is loaded.
    include $demo/state/current/reeve.conf;
}
END
}

settings_text() {
    cat <<END
# The settings of the demo's reeve. All that can be set, with the defaults: config/reeve.yaml.
node: $node
spec: [$spec]
directory: $demo/state
consul: { address: "http://127.0.0.1:8500" }
nginx:
  mode: host
  binary: $(command -v nginx || printf nginx)
  config: $demo/nginx/nginx.conf
  start: true
  probe: 127.0.0.1:9465
http: { listen: "127.0.0.1:9464" }
lock: $demo/reeve.lock
END
}

# The checkout stays clean: the spec to play with is a copy. Its schema is where the original's is.
spec_text() {
    # shellcheck disable=SC2016  # $schema is what the file says
    sed 's|\(\$schema=\)\(reeve.schema.json\)|\1../../manifests/\2|' "$root/manifests/consul-nginx.yaml"
}

write_files() {
    [[ $demo =~ ^[[:alnum:]/._+@-]+$ ]] || fail "the demo cannot live in $demo" \
        "nginx's configuration gives blanks, quotes and the like a meaning. Move the checkout and run this again."
    mkdir -p "$demo/state" "$demo/nginx/logs" "$nginx_temp"
    spec_text | place "$spec"
    settings_text | place "$settings"
    nginx_configuration | place "$demo/nginx/nginx.conf"
    if edited "$spec"; then say "the spec is yours: $(short "$spec")"; fi
}

# ---------------------------------------------------------------- up

build() {
    if [[ -n ${REEVE:-} ]]; then
        have "$reeve" || fail "REEVE=$reeve is not a program"
        return
    fi
    "$here/toolchain.sh"
    cargo build --release --locked --bins --manifest-path "$root/Cargo.toml" ||
        fail 'reeve does not build' 'The compiler says why, above.'
}

# Who holds a port of ours that is not ours? Prints nothing when it is free or the demo's.
stranger_on() { # protocol, port, pids of the demo's nginx
    local protocol=$1 port=$2 mine=$3 holder container pid
    holder=$(ss -H -n -p -l "--$protocol" "sport = :$port" 2>/dev/null || true)
    [[ -n $holder ]] || return 0
    container=$(docker ps --filter "publish=$port/$protocol" \
        --format '{{.Names}}|{{.Label "reeve.owner"}}' | head -n 1)
    if [[ -n $container ]]; then
        [[ ${container#*|} == "$owner" ]] || printf 'the container %s' "${container%%|*}"
        return 0
    fi
    pid=$(sed -n 's/.*pid=\([0-9]*\).*/\1/p' <<<"$holder" | head -n 1)
    if [[ -z $pid ]]; then
        printf 'a process of another user or namespace'
    elif [[ $'\n'$mine$'\n' != *$'\n'$pid$'\n'* ]] && ! is_daemon "$pid"; then
        printf '%s, pid %s' "$(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c 1-80 | sed 's/ *$//')" "$pid"
    fi
}

# Beforehand, because what Docker and nginx say of a taken port comes one at a time and late. The ports are
# those of the demo's own spec; with an edited one, reeve says what clashes.
check_ports() {
    local entry holder mine taken=()
    if [[ -n $(daemon_pid) ]] || edited "$spec" || edited "$settings"; then return; fi
    mine=$(nginx_pids)
    for entry in tcp/8500 tcp/8600 udp/8600 tcp/1216 tcp/81 tcp/82 tcp/83 tcp/84 tcp/9464 tcp/9465; do
        holder=$(stranger_on "${entry%/*}" "${entry#*/}" "$mine")
        [[ -z $holder ]] || taken+=("port ${entry#*/}/${entry%/*} is taken by $holder")
    done
    ((${#taken[@]} == 0)) || fail 'the demo needs ports that are in use' "${taken[@]}" \
        'Stop what holds them; or change the ports: those of the services and of the upstream are in' \
        "$(short "$spec"), 9464 and 9465 in $(short "$settings"). Then run this again."
}

show_plan() {
    local code=0
    say "\$ $(typed plan)"
    run_reeve plan --detailed-exitcode || code=$?
    case $code in
        0 | 2) ;;
        *) fail "reeve plan failed (exit code $code)" 'It says why, above.' ;;
    esac
}

apply() {
    say "\$ $(typed apply)"
    run_reeve apply --timeout "$apply_limit" ||
        fail "reeve apply did not converge (exit code $?)" 'It says what it waits for, above. More:' \
            "$(typed status)" "$(short "$demo/nginx/logs/error.log"), $(short "$log")"
}

# A daemon goes on with the program it was started from: after a rebuild that is no longer what one sees.
outdated() { [[ $(readlink "/proc/$1/exe" 2>/dev/null) == *' (deleted)' ]]; }

replace_outdated_daemon() {
    local pid
    pid=$(daemon_pid)
    if [[ -n $pid ]] && outdated "$pid"; then
        say 'reeve was built anew since it was started'
        stop_daemon
    fi
}

# Where the daemon answers, as the settings say now.
daemon_address() {
    local address
    address=$(sed -n 's/^http:.*listen: *"\?\([^" }]*\).*/\1/p' "$settings")
    printf '%s' "${address:-127.0.0.1:9464}"
}

daemon_ready() { # pid
    if gone "$1"; then return 0; fi
    curl -fsS -o /dev/null --max-time 2 "http://$(daemon_address)/readyz" 2>/dev/null
}

start_daemon() {
    local pid
    pid=$(daemon_pid)
    if [[ -n $pid ]]; then
        say "reeve run is going (pid $pid, log: $(short "$log"))"
        return
    fi
    # A session of its own, so that it outlives the terminal.
    setsid "$reeve" --config "$settings" run </dev/null >>"$log" 2>&1 &
    pid=$!
    printf '%s\n' "$pid" >"$pid_file"
    if ! wait_until 30 daemon_ready "$pid"; then
        tail -n 15 "$log" >&2
        fail "reeve run (pid $pid) is not ready after 30 s" "The last lines of $(short "$log") are above."
    fi
    if gone "$pid"; then
        tail -n 15 "$log" >&2
        fail 'reeve run ended at once' "The last lines of $(short "$log") are above."
    fi
    say "reeve run is going (pid $pid, log: $(short "$log"))"
}

# As the spec says now, which the reader may have edited.
wanted_replicas() {
    local replicas
    replicas=$(grep -oE '(replicas|scale): *[0-9]+' "$spec" | grep -oE '[0-9]+' | head -n 1 || true)
    printf '%s' "${replicas:-4}"
}

fetch_all() {
    local wanted answer deadline
    local -A seen=()
    wanted=$(wanted_replicas)
    deadline=$((SECONDS + fetch_limit))
    while ((${#seen[@]} < wanted)); do
        answer=$(curl -fsS --max-time 5 "$site" 2>&1) || answer="curl: $answer"
        if [[ $answer == web* && -z ${seen[$answer]:-} ]]; then
            seen[$answer]=1
            say "$answer"
        elif [[ $answer != web* ]]; then
            sleep 0.2
        fi
        ((SECONDS < deadline)) || fail "${#seen[@]} of $wanted replicas answered at $site within $fetch_limit s" \
            "The last answer: $answer" "$(typed status)" "tail $(short "$demo/nginx/logs/error.log")"
    done
}

# Some file of the generation that is served, for the reader to spoil.
a_generated_file() {
    local file
    # shellcheck disable=SC2046  # an include may be a pattern
    file=$(grep -ls 'upstream ' $(sed -n 's/^[[:space:]]*include[[:space:]]*"\?\([^";]*\)"\?;.*/\1/p' \
        "$demo/state/current/reeve.conf" 2>/dev/null) /dev/null | head -n 1 || true)
    short "${file:-$demo/state/current/reeve.conf}"
}

what_next() {
    local replicas other
    replicas=$(wanted_replicas)
    if ((replicas == 2)); then other=4; else other=2; fi
    cat <<END

${bold}Site${plain}       $site
${bold}Consul UI${plain}  http://127.0.0.1:8500/ui
${bold}Metrics${plain}    http://$(daemon_address)/metrics

Try next, and watch it with:  $(typed status --watch)

1. Scale in the file; reeve takes it when it is saved:
     sed -i 's/replicas: $replicas/replicas: $other/' $(short "$spec")
2. Kill a container; another takes its place, and nginx routes to it when it is healthy:
     docker rm -f "\$(docker ps -q --filter name=consul-nginx-web | head -n 1)"
3. Edit an nginx file by hand; what the spec says is loaded again:
     echo '# by hand' >> $(a_generated_file)

To take it all down:  make demo-down
END
}

up() {
    step 'Docker, nginx, Consul'
    "$here/servers.sh"
    step "files in $(short "$demo")"
    write_files
    check_ports
    step 'reeve'
    build
    step 'images'
    "$here/images.sh"
    replace_outdated_daemon
    step 'plan'
    show_plan
    step 'apply'
    apply
    start_daemon
    step "$site"
    fetch_all
    step 'status'
    run_reeve status
    what_next
}

# ---------------------------------------------------------------- down

# By our mark alone, for the case that reeve itself is gone or cannot.
remove_marked() {
    local kind id force
    for kind in container network volume; do
        for id in $(marked "$kind"); do
            say "removing the $kind ${id:0:40}"
            force=()
            [[ $kind != container ]] || force=(--force)
            docker "$kind" rm "${force[@]}" "$id" >/dev/null ||
                fail "Docker does not remove the $kind $id" 'It says why, above.'
        done
    done
}

marked() { # kind
    local all=()
    [[ $1 != container ]] || all=(--all)
    docker "$1" ls "${all[@]}" --quiet --filter "label=reeve.owner=$owner"
}

anything_marked() { [[ -n $(marked container)$(marked network)$(marked volume) ]]; }

destroy() {
    anything_marked || return 0
    if [[ -x $reeve ]] || have "$reeve"; then
        write_files # some may be gone
        say "\$ $(typed destroy --volumes)"
        run_reeve destroy --volumes || say "reeve destroy failed (exit code $?): removing what carries the mark $owner"
    else
        say "$(short "$reeve") is gone: removing what carries the mark $owner"
    fi
    remove_marked
}

remove_images() {
    local image
    for image in $(docker images --filter label=reeve-demo.content --format '{{.Repository}}:{{.Tag}}|{{.ID}}'); do
        case $image in
            localhost/reeve-*) image=${image%|*} ;;
            '<none>:'*) image=${image#*|} ;; # one that a newer took the tag of
            *) continue ;;
        esac
        if docker rmi "$image" >/dev/null 2>&1; then
            say "removed the image $image"
        else
            say "kept the image $image: a container uses it"
        fi
    done
}

down() {
    stop_daemon
    if docker_answers; then
        destroy
        stop_nginx
        remove_images
    else
        stop_nginx
        [[ -d $demo ]] || {
            say 'Docker does not answer; of the demo there is nothing else'
            return
        }
        fail 'Docker does not answer, so containers, networks and volumes of the demo stay' \
            "Start it ($(short "$here/servers.sh")) and run this again; $demo is kept for that."
    fi
    if [[ -e $spec ]] && edited "$spec"; then
        cp "$spec" "$root/target/${spec##*/}"
        say "the spec that was edited is kept: $(short "$root/target/${spec##*/}")"
    fi
    rm -rf "$demo" "$nginx_temp"
    say 'the demo is gone; Docker, nginx and Consul stay installed, and dockerd goes on'
}

case ${1:-up} in
    up) up ;;
    down) down ;;
    *) fail "unknown command $1" 'Usage: demo.sh up|down' ;;
esac
