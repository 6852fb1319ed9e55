#!/usr/bin/env bash
# Makes the images of the demo and the tests, without a registry: a binary, the libraries it loads and a
# busybox for `docker exec … sh`, packed and given to `docker import`.
#
#   localhost/reeve-consul:1   Consul of this machine; commands as the official image takes them: agent -server …
#   localhost/reeve-web:1      manifests/demo/web.rs
#   localhost/reeve-web:2      the same, and says so: a new version to roll to
#
# An image carries a digest of what it was made from, and is left alone while that is the same: for the web
# server its source (so that debug and release builds, or two checkouts, do not replace each other's image
# under a running demo), for Consul the binary.
#
#   DEMO_WEB   a reeve-web binary to use instead of building one
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${here%/manifests/demo}
readonly here root
readonly target=${CARGO_TARGET_DIR:-$root/target}
readonly label=reeve-demo.content # demo.sh removes by it: images that carry it are ours
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf 'images: %s\n' "$*"; }

fail() {
    printf 'images: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is missing" "Run $here/servers.sh first."; }

digest() { cat "$@" | sha256sum | cut -c 1-16; }

up_to_date() { # tag, digest
    [[ $(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null) == "$2" ]]
}

# The binary and what the dynamic loader would give it, each at its own path. Old C libraries load the
# resolver by name, which ldd cannot see.
copy_with_libraries() { # binary, root, path inside
    local libraries
    install -D -m 755 "$1" "$2$3"
    libraries=$(ldd "$1" 2>/dev/null | sed -n 's|^.* => \(/[^ ]*\) .*|\1|p; s|^[[:space:]]*\(/[^ ]*\) .*|\1|p')
    for library in $libraries; do
        install -D -m 755 "$library" "$2$library"
        for resolver in "${library%/*}"/libnss_{dns,files}.so.2 "${library%/*}"/libresolv.so.2; do
            [[ ! -e $resolver || -e $2$resolver ]] || install -D -m 755 "$resolver" "$2$resolver"
        done
    done
}

base_system() { # root
    local applet
    mkdir -p "$1"/{bin,etc,root,tmp,usr/bin,var/tmp}
    chmod 1777 "$1/tmp" "$1/var/tmp"
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
    printf 'hosts: files dns\n' >"$1/etc/nsswitch.conf"
    install -m 755 "$(command -v busybox)" "$1/bin/busybox"
    for applet in $("$1/bin/busybox" --list); do
        [[ $applet == busybox ]] || ln -s busybox "$1/bin/$applet"
    done
}

# The old image of a tag would stay as a nameless one; removal is refused, rightly, while a container uses it.
import() { # tag, root, digest, docker import options…
    local tag=$1 tree=$2 content=$3 old
    shift 3
    old=$(docker image inspect --format '{{.Id}}' "$tag" 2>/dev/null || true)
    tar -C "$tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c . |
        docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' --change "LABEL $label=$content" "$@" - "$tag" \
            >/dev/null || fail "docker import refused $tag" 'Is there room on the disk? docker system df shows it.'
    [[ -z $old ]] || docker rmi "$old" >/dev/null 2>&1 || true
    say "made $tag"
}

consul_image() {
    local tag=localhost/reeve-consul:1 binary content tree=$work/consul
    binary=$(readlink -f "$(command -v consul)")
    content=$(digest "$binary" "$here/images.sh")
    if up_to_date "$tag" "$content"; then return; fi
    base_system "$tree"
    copy_with_libraries "$binary" "$tree" /usr/bin/consul
    mkdir -p "$tree"/consul/{data,config} "$tree/usr/local/bin"
    # The official image's conventions, so that commands written for it work here: its two folders are the
    # defaults of an agent (what the command says later wins), and other commands of Consul need no prefix.
    cat >"$tree/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
case "$1" in
    agent) shift; exec consul agent -data-dir=/consul/data -config-dir=/consul/config "$@" ;;
    -*) exec consul agent -data-dir=/consul/data -config-dir=/consul/config "$@" ;;
    consul | sh | /*) exec "$@" ;;
    *) exec consul "$@" ;;
esac
END
    chmod 755 "$tree/usr/local/bin/docker-entrypoint.sh"
    import "$tag" "$tree" "$content" \
        --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'CMD ["agent", "-dev", "-client=0.0.0.0"]' \
        --change 'EXPOSE 8300 8301 8301/udp 8302 8302/udp 8500 8600 8600/udp'
}

# Any profile will do; the newest that was built from the present source is taken.
web_binary() {
    local profile
    if [[ -n ${DEMO_WEB:-} ]]; then
        printf '%s' "$DEMO_WEB"
        return
    fi
    for profile in release debug; do
        [[ $target/$profile/reeve-web -nt $here/web.rs && $target/$profile/reeve-web -nt $here/websocket.rs ]] || continue
        printf '%s' "$target/$profile/reeve-web"
        return
    done
    command -v cargo >/dev/null 2>&1 || fail 'cargo is missing, and the web server must be built' \
        "$here/toolchain.sh says what to install."
    say 'building reeve-web' >&2
    cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --bin reeve-web >&2 ||
        fail 'reeve-web does not build' 'The compiler says why, above.'
    printf '%s' "$target/debug/reeve-web"
}

web_images() {
    local content binary version missing=() tree=$work/web
    content=$(digest "$here/web.rs" "$here/websocket.rs" "$here/images.sh")
    for version in 1 2; do
        up_to_date "localhost/reeve-web:$version" "$content" || missing+=("$version")
    done
    ((${#missing[@]})) || return 0

    binary=$(web_binary)
    base_system "$tree"
    copy_with_libraries "$binary" "$tree" /bin/reeve-web
    ln -s reeve-web "$tree/bin/web"
    ! command -v strip >/dev/null 2>&1 || strip "$tree/bin/reeve-web"
    for version in "${missing[@]}"; do
        import "localhost/reeve-web:$version" "$tree" "$content" \
            --change 'ENTRYPOINT ["/bin/reeve-web"]' --change 'EXPOSE 80' --change "ENV VERSION=$version"
    done
}

main() {
    need docker
    need consul
    need busybox
    work=$(mktemp -d)
    readonly work
    trap 'rm -rf "$work"' EXIT
    consul_image
    web_images
    say 'ready: localhost/reeve-consul:1, localhost/reeve-web:1, localhost/reeve-web:2'
}

main "$@"
