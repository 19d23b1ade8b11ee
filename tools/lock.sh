#!/bin/sh
# Write the pinned requirements of the images anew: every version and hash, from pyproject.toml. Needs uv.
set -eu
cd "$(dirname "$0")/.."
lock() { # FILE PLATFORM PYTHON ARGUMENTS...
    file=$1 platform=$2 python=$3
    shift 3
    uv pip compile --quiet --no-header --generate-hashes --python-platform "$platform" --python-version "$python" \
        --output-file "containerfiles/$file" "$@"
}
lock requirements-server.txt x86_64-manylinux_2_39 3.12 pyproject.toml
lock requirements-cpu.txt x86_64-manylinux_2_36 3.11 --extra cpu --extra openai pyproject.toml
lock requirements-client.txt x86_64-manylinux_2_36 3.11 --extra clients pyproject.toml
python3 -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["optional-dependencies"]["openai"]))' |
    lock requirements-front.txt x86_64-manylinux_2_39 3.12 -
echo 'hatchling>=1.26' | lock requirements-build.txt x86_64-manylinux_2_36 3.11 -
