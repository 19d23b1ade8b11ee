#!/bin/bash
# Really build the cpu and client images, on a base made from Debian packages. As root on Debian:
#   containerfiles/test.sh [DIRECTORY]           build them, look into them, and run them: as a user without privileges, on
#                                                a read-only root, without capabilities
#   containerfiles/test.sh --twice [DIRECTORY]   build what is committed twice, from two clones: the images must be the
#                                                same, byte for byte
# DIRECTORY is kept and makes the next run faster; default: a temporary one. Takes some minutes and 4 GB, so it is not
# part of `make test`; CI runs it when what goes into an image changed.
set -euo pipefail
cd "$(dirname "$0")/.."
twice=
[ "${1:-}" != --twice ] || { twice=1; shift; }
work=${1:-$(mktemp -d)}
mkdir -p "$work"
work=$(cd "$work" && pwd)
[ -n "${1:-}" ] || trap 'rm -rf "$work"' EXIT
say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 6; }

for tool in buildah debootstrap setpriv unshare nsenter ip pgrep python3; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing; hint: apt-get install buildah runc debootstrap util-linux iproute2 procps python3" >&2; exit 3; }
done
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
b() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }
mounted() { b mount "$(b from --quiet "localhost/trtbuild-$1")"; }

say "base image from Debian packages"
if [ ! -e "$work/base.done" ]; then
    rm -rf "$work/base"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,libpython3.11,ca-certificates \
        bookworm "$work/base" >"$work/debootstrap.log" 2>&1 || { tail -n 5 "$work/debootstrap.log"; exit 6; }
    # As in the official Python images, the default base: no bytecode of the standard library, no package lists.
    find "$work/base/usr/lib/python3.11" -name '*.pyc' -delete
    rm -rf "$work/base/var/lib/apt/lists" "$work/base/var/cache/apt/archives"
    touch "$work/base.done"
fi
b rm --all >/dev/null 2>&1 || true
b images --format '{{.Name}}' 2>/dev/null | grep -q trtbuild-base || {
    container=$(b from scratch)
    b add -q "$container" "$work/base" / >/dev/null
    b commit -q "$container" localhost/trtbuild-base >/dev/null
    b rm "$container" >/dev/null
}

# The build reaches the package index the way this machine does: its CA bundle and pip's configuration, mounted over a
# directory that every base has, so that nothing of it stays in the image. (buildah passes proxies on, and keeps none.)
rm -rf "${work:?}/home"
install -d -m 700 "$work/home/.pip" "$work/home/.config/pip"
for file in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
    [ -z "$file" ] || [ ! -f "$file" ] || { cp "$file" "$work/home/ca.crt"; break; }
done
for file in "${PIP_CONFIG_FILE:-}" /etc/pip.conf; do
    [ -z "$file" ] || [ ! -f "$file" ] || { cp "$file" "$work/home/.pip/pip.conf"; break; }
done
{
    echo '[global]'
    [ ! -f "$work/home/ca.crt" ] || echo 'cert = /root/ca.crt'
    compgen -e | grep '^PIP_' | grep -vxE 'PIP_(CONFIG_FILE|CERT)' | while IFS= read -r name; do
        option=${name#PIP_} option=${option,,}
        printf '%s = %s\n' "${option//_/-}" "${!name}"
    done || true
} >"$work/home/.config/pip/pip.conf"
mounts=(--volume "$work/home:/root:ro")

build() { # NAME TAG CONTEXT ARGUMENTS...
    name=$1 tag=$2 context=$3
    shift 3
    say "image $tag"
    attempts=1
    until b build --quiet --network host "${mounts[@]}" --build-arg BASE_IMAGE=localhost/trtbuild-base "$@" \
        --build-arg REVISION="$(git -C "$context" rev-parse HEAD 2>/dev/null || echo unknown)" --tag "localhost/trtbuild-$tag" \
        --file "$context/containerfiles/$name.containerfile" "$context" >"$work/build-$tag.log" 2>&1; do
        # buildah 1.28 copies itself into memory before each step, and now and then cannot seal the copy.
        if [ "$attempts" -ge 3 ] || ! grep -q 'sealing memfd copy: Device or resource busy' "$work/build-$tag.log"; then
            tail -n 25 "$work/build-$tag.log" >&2
            exit 6
        fi
        attempts=$((attempts + 1))
        say "buildah could not start a step; once more"
    done
    b rmi --prune --force >/dev/null 2>&1 || true
}

# listing IMAGE: everything in it but the times, for a reader who wants to know what differs.
listing() {
    root=$(mounted "$1")
    (cd "$root" && find . -xdev -printf '%p %y %m %U:%G %l\n' | sort && find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum)
}

if [ -n "$twice" ]; then
    commit=$(git rev-parse HEAD)
    rm -rf "$work/first" "$work/other-second"
    git clone --quiet . "$work/first"
    (umask 077 && git clone --quiet . "$work/other-second") # another path, other modes, and later
    git -C "$work/first" checkout --quiet --detach "$commit"
    (umask 077 && git -C "$work/other-second" checkout --quiet --detach "$commit")
    for name in cpu client; do
        for clone in first other-second; do
            # Not in the docker format: its configuration holds the name of the container that built it.
            TZ=$([ "$clone" = first ] && echo UTC || echo Asia/Kolkata) \
                build "$name" "$name-$clone" "$work/$clone" --format oci --no-cache --timestamp "$(git log -1 --format=%ct "$commit")"
        done
        first=$(b inspect --type image --format '{{.FromImageDigest}}' "localhost/trtbuild-$name-first")
        second=$(b inspect --type image --format '{{.FromImageDigest}}' "localhost/trtbuild-$name-other-second")
        if [ "$first" != "$second" ]; then
            listing "$name-first" >"$work/first.txt"
            listing "$name-other-second" >"$work/second.txt"
            diff "$work/first.txt" "$work/second.txt" | head -n 40 >&2 || true
            fail "two builds of the $name image from commit $commit differ: $first and $second" \
                "the lines above are what differs besides times, if anything; see $work/first.txt and second.txt"
        fi
        say "$name: $first, twice"
        b rm --all >/dev/null
        b rmi "localhost/trtbuild-$name-first" "localhost/trtbuild-$name-other-second" >/dev/null
    done
    exit 0
fi

build cpu cpu . --format docker
build client client . --format docker

# look NAME: what an image says of itself, what it added to its base, and its bill of materials.
look() {
    say "what is in the $1 image"
    b inspect --type image "localhost/trtbuild-$1" >"$work/inspect.json"
    python3 containerfiles/look.py "$1" "$work/inspect.json" "$(mounted base)" "$(mounted "$1")" ||
        fail "the $1 image is not as it should be" "each line above says what was found and what was expected"
    b rm --all >/dev/null
}
look cpu
look client

# run IMAGE COMMAND...: as uid 10001, no capabilities, no new privileges, read-only root, writable state only where mounted,
# a network of its own; COMMAND is process 1.
run() {
    image=$1
    shift
    root=$(mounted "$image")
    state="$work/state"
    install -d -o 10001 -g 10001 "$state/lib" "$state/run" "$state/tmp"
    install -d "$root/var/lib/trtbuild" "$root/var/run/trtbuild"
    # shellcheck disable=SC2016 # the inner shell expands them
    root=$root state=$state exec unshare --mount --pid --net --fork bash -euc '
        ip link set lo up
        mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o size=256m,mode=1777 tmpfs "$root/dev/shm"
        mount --bind "$state/lib" "$root/var/lib/trtbuild"
        mount --bind "$state/run" "$(readlink -f "$root/run")/trtbuild" 2>/dev/null || mount --bind "$state/run" "$root/var/run/trtbuild"
        mount --bind "$state/tmp" "$root/tmp"
        exec chroot "$root" '"$unprivileged"' "$@"
    ' run "$@"
}
unprivileged='setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set -all --inh-caps -all --no-new-privs
    env -i PATH=/opt/trtbuild/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1
    TRTBUILD_STORE=/var/lib/trtbuild/store TRTBUILD_HF_CACHE=/var/lib/trtbuild/hf'
unprivileged=${unprivileged//$'\n'/ }

rm -rf "${work:?}/state"
say "who am I in there"
(run cpu sh -c 'id -u; touch /opt/x 2>/dev/null && echo WRITABLE || echo read-only; grep CapEff /proc/self/status') |
    tee "$work/who.txt"
[ "$(cat "$work/who.txt")" = $'10001\nread-only\nCapEff:\t0000000000000000' ] ||
    fail "that is not uid 10001 on a read-only root without capabilities" "compare run() in containerfiles/test.sh"

# bytecode IMAGE STATEMENTS: nothing that they import may have to be compiled; -v says where each module's code came from.
bytecode() {
    say "bytecode in the $1 image: $2"
    (run "$1" /opt/trtbuild/bin/python -v -c "$2") >"$work/imports.log" 2>&1 || { tail -n 5 "$work/imports.log" >&2; exit 6; }
    if grep -E '^# code object from [^'"'"'].*\.py$' "$work/imports.log" >&2; then
        fail "the modules above were compiled at start-up" "the compileall lines of containerfiles/$1.containerfile must cover them"
    fi
    used=$(grep -cE "^# code object from '.*\.pyc'\$" "$work/imports.log")
    [ "$used" -ge "$3" ] || fail "$used modules came from bytecode, expected at least $3" "see $work/imports.log"
    echo "$used modules, all from bytecode"
}
bytecode cpu 'import trtbuild.cli, trtbuild.pipeline, trtbuild.launch, numpy, tritonclient.grpc, openvino, tokenizers, huggingface_hub' 300
bytecode client 'import trtclient.cli, numpy, tritonclient.grpc, tritonclient.http' 200

say "the cpu image builds, serves and answers"
(run cpu trtbuild demo --log-format text)
say "and finds its engine again"
(run cpu sh -c 'trtbuild demo --log-format text 2>&1 | grep "in the store"')

say "its server is process 1, passes its health check, and ends on SIGTERM"
(run cpu trtbuild serve /opt/trtbuild/lib/python3.11/site-packages/trtbuild/_demo_model --backend cpu --log-format text) \
    >"$work/serve.log" 2>&1 &
outer=$!
healthy=
for _ in $(seq 120); do
    # The child of unshare, once it has its own root. It is asked as docker and kubelet would: the image's own command, inside.
    inside=$(pgrep --parent "$outer" --oldest || true)
    # shellcheck disable=SC2086 # a list of words
    if [ -n "$inside" ] && [ "$(readlink "/proc/$inside/root")" != / ] &&
        nsenter --target "$inside" --mount --pid --net --root --wd $unprivileged trtbuild health ready >"$work/health.log" 2>&1; then
        healthy=1
        break
    fi
    kill -0 "$outer" 2>/dev/null || break
    sleep 1
done
[ -z "$inside" ] || kill -TERM "$inside"
code=0
wait "$outer" || code=$?
[ -n "$healthy" ] || { tail -n 20 "$work/serve.log" "$work/health.log" >&2; fail "the server never passed its health check" "see above"; }
tail -n 1 "$work/serve.log"
[ "$code" = 0 ] || fail "the server ended with $code after SIGTERM, expected 0" "see $work/serve.log"

say "the client image"
(run client trtclient --help) | head -n 5
say "ok"
