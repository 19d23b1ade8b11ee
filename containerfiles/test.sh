#!/bin/bash
# Really build the cpu and client images, on a base made from Debian packages, and really run the cpu image: as a
# user without privileges, on a read-only root, without capabilities. As root on Debian:
#   containerfiles/test.sh [DIRECTORY]     DIRECTORY is kept and makes the next run faster; default: a temporary one
# Takes some minutes and 3 GB, so it is not part of `make test`; CI runs it when what goes into an image changed.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-$(mktemp -d)}
mkdir -p "$work"
[ -n "${1:-}" ] || trap 'rm -rf "$work"' EXIT
say() { printf '== %s\n' "$*" >&2; }

for tool in buildah debootstrap setpriv unshare; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing; hint: apt-get install buildah runc debootstrap util-linux" >&2; exit 3; }
done
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
b() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }

say "base image from Debian packages"
if [ ! -e "$work/base.done" ]; then
    rm -rf "$work/base"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,libpython3.11,ca-certificates \
        bookworm "$work/base" >"$work/debootstrap.log" 2>&1 || { tail -n 5 "$work/debootstrap.log"; exit 6; }
    touch "$work/base.done"
fi
b images --format '{{.Name}}' 2>/dev/null | grep -q trtbuild-base || {
    container=$(b from scratch)
    b add -q "$container" "$work/base" /
    b commit -q "$container" localhost/trtbuild-base
    b rm "$container" >/dev/null
}

# The build reaches the package index the way this machine does: its CA bundle and pip's configuration, nothing else.
mounts=()
for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf "${PIP_CONFIG_FILE:-}" "${PIP_CERT:-}" "${SSL_CERT_FILE:-}"; do
    [ -n "$file" ] && [ -f "$file" ] && mounts+=(--volume "$file:$file:ro")
done
variables=()
while IFS= read -r name; do variables+=(--env "$name=${!name}"); done < <(compgen -e | grep -E '^(PIP_|SSL_CERT_FILE|https?_proxy|HTTPS?_PROXY|NO_PROXY|no_proxy)' || true)

build() { # NAME
    say "image $1"
    b build --quiet --network host "${mounts[@]}" "${variables[@]}" --build-arg BASE_IMAGE=localhost/trtbuild-base \
        --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
        --tag "localhost/trtbuild-$1" --file "containerfiles/$1.containerfile" . >"$work/build-$1.log" 2>&1 ||
        { tail -n 25 "$work/build-$1.log" >&2; exit 6; }
}
build cpu
build client

# run IMAGE COMMAND...: as uid 10001, no capabilities, no new privileges, read-only root, writable state only where mounted.
run() {
    image=$1
    shift
    container=$(b from --quiet "localhost/trtbuild-$image")
    root=$(b mount "$container")
    state="$work/state"
    install -d -o 10001 -g 10001 "$state/lib" "$state/run" "$state/tmp"
    install -d "$root/var/lib/trtbuild" "$root/var/run/trtbuild"
    # shellcheck disable=SC2016 # the inner shell expands them
    root=$root state=$state unshare --mount --pid --fork bash -euc '
        mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o size=256m,mode=1777 tmpfs "$root/dev/shm"
        mount --bind "$state/lib" "$root/var/lib/trtbuild"
        mount --bind "$state/run" "$(readlink -f "$root/run")/trtbuild" 2>/dev/null || mount --bind "$state/run" "$root/var/run/trtbuild"
        mount --bind "$state/tmp" "$root/tmp"
        exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set -all --inh-caps -all \
            --no-new-privs env -i PATH=/opt/trtbuild/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 \
            TRTBUILD_STORE=/var/lib/trtbuild/store TRTBUILD_HF_CACHE=/var/lib/trtbuild/hf "$@"
    ' run "$@"
    b rm "$container" >/dev/null
}

say "who am I in there"
run cpu sh -c 'id -u; touch /opt/x 2>/dev/null && echo WRITABLE || echo read-only; grep CapEff /proc/self/status'
say "the cpu image builds, serves and answers"
run cpu trtbuild demo --log-format text
say "and finds its engine again"
run cpu sh -c 'trtbuild demo --log-format text 2>&1 | grep "in the store"'
say "the client image"
run client trtclient --help | head -n 5
say "ok"
