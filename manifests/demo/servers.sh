#!/usr/bin/env bash
# Installs what the demo and the tests run against, and leaves a Docker Engine answering:
# Docker Engine (docker.io), nginx with its Lua module, Consul, and a static busybox for the images' shell.
#
# Only what is missing is installed and only what does not answer is started, so that running it again
# costs a few milliseconds and a machine with a Docker of its own keeps it.
#
#   DEMO_CONSUL_MIRROR   where Debian 11 is found, when the machine's own Debian mirror no longer has it
#   DEMO_DOCKER_WAIT     seconds to wait for the engine's first answer (default 60)
set -euo pipefail

readonly consul_suite=bullseye # the last Debian that has a package of Consul
readonly suite_list=/etc/apt/sources.list.d/reeve-consul.sources
readonly suite_pin=/etc/apt/preferences.d/reeve-consul
readonly policy=/usr/sbin/policy-rc.d
readonly policy_mark='# placed by reeve servers.sh while it installs'
readonly docker_log=/var/log/dockerd.log
readonly docker_wait=${DEMO_DOCKER_WAIT:-60}
readonly started_at=$SECONDS

# nginx and dockerd are in sbin, which is not on every user's path.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf 'servers: %s\n' "$*"; }

fail() {
    printf 'servers: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# On a machine that is being booted by something else than systemd, systemctl exists and answers nothing.
under_systemd() { [[ -d /run/systemd/system ]]; }

docker_answers() {
    have docker && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# ---------------------------------------------------------------- packages

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@"
}

installable() {
    local candidate
    candidate=$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p')
    [[ -n $candidate && $candidate != '(none)' ]]
}

# A list that cannot be reached (often a third party's) must not stop what the other lists can serve, so
# the result is judged by whether the packages are there afterwards, not by the exit code.
update_lists() {
    say 'reading the package lists'
    apt update >"$work/update.log" 2>&1 ||
        say 'some package lists could not be read; going on with the others'
}

# apt itself knows its sources: both of their formats, options and variables resolved. What it does not
# know of a list (one never fetched has no origin yet) it prints as the placeholder.
debian_mirror() {
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # the placeholders are apt's
    apt-get indextargets --format '$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(LABEL)' 'Created-By: Packages' |
        sed 's/\$([A-Z_]*)//g' |
        awk -F'|' -v codename="$codename" '
            $3 != "main" || $1 ~ /^cdrom:/ { next }
            $4 != "" && $4 != "Debian"     { next }   # known to be of another distribution
            $5 != "" && $5 != "Debian"     { next }   # Debian-Security and the like
            $2 ~ /-security$|\/updates$/   { next }
            $2 == codename && same == ""   { same = $1 }
            $4 == "Debian" && other == ""  { other = $1 }
            END                            { print (same != "" ? same : other) }'
}

# Pinned so that Consul comes from that suite as long as no other has it, and nothing else ever.
add_consul_suite() {
    local uri keyring
    uri=${DEMO_CONSUL_MIRROR:-$(debian_mirror)}
    [[ -n $uri ]] || fail "no Debian mirror among this machine's apt sources, so no place to take Consul from" \
        'Install Consul yourself (any version; it only has to be on the PATH), or' \
        "set DEMO_CONSUL_MIRROR to a Debian mirror that has the suite $consul_suite."

    say "adding the Debian suite $consul_suite for Consul only, with a low pin ($suite_list)"
    cat >"$suite_pin" <<END
# For $suite_list: Consul, as long as no other suite has it, and nothing else.
Package: *
Pin: release n=$consul_suite
Pin-Priority: -1

Package: consul
Pin: release n=$consul_suite
Pin-Priority: 50
END
    cat >"$suite_list" <<END
# Consul is packaged in Debian 11 only. $suite_pin keeps everything else out.
Types: deb
URIs: $uri
Suites: $consul_suite
Components: main
END
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ -e $keyring ]] || continue
        echo "Signed-By: $keyring" >>"$suite_list"
        break
    done

    # Only this list: the others were just read.
    apt update -o Dir::Etc::sourcelist="$suite_list" -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 \
        >"$work/suite.log" 2>&1 || true
    installable consul && return
    tail -n 5 "$work/suite.log" >&2
    rm -f "$suite_list" "$suite_pin" # a list that does not work would break the machine's next apt update
    fail "the mirror $uri does not offer Consul in the suite $consul_suite" \
        'Debian moves old suites to its archive after some years; mirrors drop them then.' \
        "Set DEMO_CONSUL_MIRROR to a mirror that has dists/$consul_suite/main, or install Consul yourself," \
        'and run this again.'
}

# Debian starts a service when its package is installed: a system nginx on port 80 and a stray Consul agent.
# policy-rc.d is its own way to say no. An existing one is kept and put back.
hold_services() {
    release_services # what a killed run may have left
    [[ ! -e $policy ]] || mv "$policy" "$policy.before-reeve"
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
}

release_services() {
    if grep -qsF "$policy_mark" "$policy"; then rm -f "$policy"; fi
    if [[ -e $policy.before-reeve ]]; then mv "$policy.before-reeve" "$policy"; fi
}

# The nginx is Debian's, or will be, and its module is not there.
lua_wanted() {
    [[ -e /usr/lib/nginx/modules/ngx_http_lua_module.so && -e /usr/share/lua/5.1/ngx/balancer.lua ]] && return 1
    if ! have dpkg-query || ! have apt-get || ((EUID != 0)); then return 1; fi
    ! have nginx || dpkg-query --search "$(command -v nginx)" >/dev/null 2>&1
}

install_missing() {
    local missing=() package
    docker_answers || have dockerd || missing+=(docker.io)
    have docker || [[ " ${missing[*]} " == *' docker.io '* ]] || missing+=(docker.io)
    docker_answers || have iptables || missing+=(iptables)
    have nginx || missing+=(nginx)
    # Endpoints without a reload. An nginx of another origin has its own Lua, or none: then reeve reloads.
    ! lua_wanted || missing+=(libnginx-mod-http-lua lua-resty-core)
    have consul || missing+=(consul)
    have busybox || missing+=(busybox-static)
    have curl || missing+=(curl)
    have ss || missing+=(iproute2) # tells who holds a port
    ((${#missing[@]})) || return 0

    ((EUID == 0)) || fail "not root, and these are missing: ${missing[*]}" 'Run this as root, or install them first.'
    have apt-get || fail "no apt-get, and these are missing: ${missing[*]}" \
        'This script knows Debian. Install Docker Engine, nginx and Consul by your own means and run it again.'

    update_lists
    [[ " ${missing[*]} " != *' consul '* ]] || installable consul || add_consul_suite
    for package in "${missing[@]}"; do
        installable "$package" && continue
        tail -n 5 "$work/update.log" >&2
        fail "no apt source of this machine offers $package" 'Mend the sources in /etc/apt and run this again.'
    done

    say "installing ${missing[*]}"
    hold_services
    if ! apt install --no-install-recommends "${missing[@]}" >"$work/install.log" 2>&1; then
        tail -n 15 "$work/install.log" >&2
        fail "apt could not install ${missing[*]}" "Try it by hand: apt-get install ${missing[*]}"
    fi
    release_services

    # Nor at the next boot: what was installed here is for the demo, which starts its own.
    for package in nginx consul; do
        [[ " ${missing[*]} " == *" $package "* ]] || continue
        ! have systemctl || systemctl disable "$package.service" >/dev/null 2>&1 || true
    done
}

# ---------------------------------------------------------------- dockerd

# Without any mounted hierarchy no container starts. A machine booted by an init of its own may have none.
mount_cgroups() {
    if grep -qE '^[^ ]+ /sys/fs/cgroup[^ ]* cgroup2? ' /proc/mounts; then return; fi
    say 'mounting the cgroup hierarchy (nobody has)'
    mkdir -p /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup ||
        fail 'the cgroup hierarchy cannot be mounted' 'Docker needs it: mount -t cgroup2 cgroup2 /sys/fs/cgroup'
}

# Prints the pid of a file when a process of that name has it, and is not a zombie: where nothing collects
# orphans, one that was killed stays in /proc for ever.
live_pid() { # pid file, process name
    local pid
    pid=$(tr -cd '0-9' 2>/dev/null <"$1" || true)
    if [[ -n $pid && $(cat "/proc/$pid/comm" 2>/dev/null) == "$2" ]] && ! grep -qs '^State:.Z' "/proc/$pid/status"; then
        printf '%s' "$pid"
    fi
}

# dockerd refuses to start when the process of its pid file lives, whatever that process is by now.
forget_stale_pid() { # pid file, process name
    local file=$1
    if [[ ! -e $file || -n $(live_pid "$file" "$2") ]]; then return; fi
    say "removing the stale pid file $file"
    rm -f "$file"
}

# Kernels without nf_tables need the older backend, which Debian keeps beside the default one.
check_iptables() {
    iptables -w 5 -t nat -nL >/dev/null 2>"$work/iptables.log" && return
    if have iptables-legacy && iptables-legacy -w 5 -t nat -nL >/dev/null 2>&1; then
        say 'this kernel has no nf_tables: selecting iptables-legacy (update-alternatives)'
        update-alternatives --set iptables "$(command -v iptables-legacy)" >/dev/null
        ! have ip6tables-legacy || update-alternatives --set ip6tables "$(command -v ip6tables-legacy)" >/dev/null
        return
    fi
    say "warning: iptables does not work here, Docker's networks will need it: $(head -n 1 "$work/iptables.log")"
}

docker_failed() { # what to show: journal, a pid, or how much of the log was there before
    local remedy='The lines above say why. Mend that, or start Docker your own way, and run this again.'
    case $1 in
        journal) journalctl -u docker -n 15 --no-pager >&2 || true ;;
        pid:*) remedy="It is running (${1/:/ }) and its log says why. End it if it hangs, and run this again." ;;
        *)
            printf 'servers: the last lines of %s:\n' "$docker_log" >&2
            tail -c "+$(($1 + 1))" "$docker_log" | tail -n 15 >&2 || true
            ;;
    esac
    fail "dockerd does not answer at ${DOCKER_HOST:-unix:///var/run/docker.sock}" "$remedy"
}

start_docker() {
    local evidence child='' deadline running
    if docker_answers; then return; fi
    [[ -z ${DOCKER_HOST:-} ]] || fail "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST" \
        'Start it there, or unset DOCKER_HOST to have one started on this machine.'
    ((EUID == 0)) || fail 'no Docker Engine answers, and only root can start one' \
        'Run this as root; or, if one runs, give this user access to /var/run/docker.sock.'

    deadline=$((SECONDS + docker_wait))
    running=$(live_pid /var/run/docker.pid dockerd)
    if under_systemd; then
        say 'starting docker (systemctl start docker)'
        evidence=journal
        systemctl start docker || docker_failed "$evidence"
    elif [[ -n $running ]]; then
        say "dockerd is running (pid $running) and does not answer yet: waiting for it"
        evidence=pid:$running
    else
        forget_stale_pid /var/run/docker.pid dockerd
        forget_stale_pid /var/run/docker/containerd/containerd.pid containerd
        mount_cgroups
        check_iptables
        say "starting dockerd (log: $docker_log)"
        evidence=$(stat -c %s "$docker_log" 2>/dev/null || echo 0)
        # A session of its own: it must outlive the terminal, and the one who typed `make demo`.
        # Nor may it inherit the lock, which would then be held as long as it lives.
        setsid dockerd </dev/null >>"$docker_log" 2>&1 9>&- &
        child=$!
    fi
    until docker_answers; do
        if [[ -n $child ]] && ! kill -0 "$child" 2>/dev/null; then docker_failed "$evidence"; fi
        ((SECONDS < deadline)) || docker_failed "$evidence"
        sleep 0.2
    done
}

main() {
    work=$(mktemp -d)
    readonly work
    trap 'release_services; rm -rf "$work"' EXIT
    if ((EUID == 0)); then
        exec 9>/run/lock/reeve-servers # two at once (a demo and a test run) would start two of everything
        flock -w 900 9 || fail 'another run of this script holds /run/lock/reeve-servers and does not end'
    fi
    install_missing
    start_docker
    say "ready: Docker $(docker version --format '{{.Server.Version}}')," \
        "$(nginx -v 2>&1 | sed 's|.*nginx/\([^ ]*\).*|nginx \1|')," \
        "$(consul version 2>/dev/null | sed -n '1s/ v/ /p')" \
        "($((SECONDS - started_at)) s)"
}

main "$@"
