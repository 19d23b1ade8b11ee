"""Runs a rendered pod's containers as processes with what Kubernetes would give them, and no more.

Per container: a mount namespace with a read-only root and exactly the mounts of the manifest, a PID namespace (the
command is PID 1), the user, groups, capabilities and environment of the manifest. Containers that ask for it get a
network namespace of their own, so that fixed ports never meet. Images, cgroup limits and seccomp are not imitated.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.reach import open_paths, own_paths

Object = dict[str, Any]
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
MEDIUM_BYTES = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
# What the image would bring; one thread each, for tests share their machine.
IMAGE_ENV = {"PATH": PATH, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}


@functools.cache
def why_not() -> str:
    """Return why pods cannot be run here, or an empty string."""
    for tool in ("unshare", "nsenter", "setpriv", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=30)
    return "" if done.returncode == 0 else f"namespaces need root and may not be made: {done.stderr.strip()}"


def size_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * MEDIUM_BYTES[quantity[-2:]]


@dataclass
class Pod:
    """One pod on a node.

    Attributes:
        spec: Its pod spec, as rendered.
        node: Directory that stands for the node's file system (host paths, claims).
        directory: The pod's own volumes.
        config_maps: Name to data.
        secrets: Name to data.
    """

    spec: Object
    node: Path
    directory: Path
    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reason = why_not()
        if reason:
            pytest.skip(reason)

    def container(self, name: str) -> Object:
        every = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        [found] = [item for item in every if item["name"] == name]
        assert isinstance(found, dict)
        return found

    def volume(self, name: str) -> Path:
        """Return the directory of a volume, made as the kubelet makes it."""
        [volume] = [item for item in self.spec["volumes"] if item["name"] == name]
        group = self.spec["securityContext"]["fsGroup"]
        path = self.directory / "volumes" / name
        if "hostPath" in volume:
            path = self.node / volume["hostPath"]["path"].lstrip("/")
            path.mkdir(parents=True, exist_ok=True)  # root's, mode 755: fsGroup does not reach host paths
        elif "persistentVolumeClaim" in volume:
            path = self.node / "claims" / volume["persistentVolumeClaim"]["claimName"]
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, 0, group)
            path.chmod(0o2775)
        elif "configMap" in volume:
            self._write(path, self.config_maps[volume["configMap"]["name"]], volume["configMap"], 0o644)
        elif "secret" in volume:
            source = volume["secret"]
            self._write(path, self.secrets[source["secretName"]], source, source["defaultMode"])
        else:
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, 0, group)
            path.chmod(0o2777)
        return path

    def _write(self, path: Path, data: Mapping[str, str], source: Object, mode: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            target = path / item["path"]
            target.write_text(data[item["key"]])
            os.chown(target, 0, self.spec["securityContext"]["fsGroup"])
            target.chmod(mode)

    def _mounts(self, item: Object) -> list[str]:
        """Return shell lines that mount a container's volumes; /tmp last, because sources may lie below it."""
        lines = []
        for mount in sorted(item["volumeMounts"], key=lambda mount: (mount["mountPath"] == "/tmp", mount["mountPath"])):
            [volume] = [v for v in self.spec["volumes"] if v["name"] == mount["name"]]
            target = shlex.quote(mount["mountPath"])
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                size = size_bytes(volume["emptyDir"]["sizeLimit"])
                lines.append(f"mount -t tmpfs -o size={size},mode=1777 tmpfs {target}")
                continue
            source = shlex.quote(str(self.volume(mount["name"])))
            lines.append(f"mount --bind {source} {target}")
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {target}")
        return lines

    def _roots(self, item: Object) -> list[str]:
        """Return shell lines that put an /etc and a /var with the image's mount points in place."""
        etc, var = self.directory / "etc", self.directory / "var"
        if not etc.exists():
            shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
        for mount in item["volumeMounts"]:
            for top, own in (("/etc/", etc), ("/var/", var)):
                if mount["mountPath"].startswith(top):
                    (own / mount["mountPath"].removeprefix(top)).mkdir(parents=True, exist_ok=True)
        var.mkdir(exist_ok=True)
        return [*open_paths(self.directory / "open"), f"mount --bind {etc} /etc", f"mount --bind {var} /var"]

    def _below_tmp(self) -> tuple[list[str], list[str]]:
        """Return shell lines that carry what this test needs and what lies below /tmp over the pod's own /tmp."""
        context = self.spec["securityContext"]
        before: list[str] = []
        after: list[str] = []
        for number, path in enumerate(p for p in own_paths() if Path("/tmp") in p.parents):
            before += [] if before else ["mount -t tmpfs -o mode=755 tmpfs /mnt"]
            before += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(path))} /mnt/{number}"]
            made = [str(p) for p in reversed([path, *path.parents]) if Path("/tmp") in p.parents]
            owner = f"-o {context['runAsUser']} -g {context['runAsGroup']}"
            after += [f"install -d {owner} {shlex.join(made)}", f"mount --bind /mnt/{number} {shlex.quote(str(path))}"]
        return before, after

    def _user(self, item: Object) -> list[str]:
        """Return the setpriv command for a container's security context."""
        context = {**self.spec["securityContext"], **item.get("securityContext", {})}
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        added = [f"+{name.lower()}" for name in context["capabilities"].get("add", [])]
        user, group = context["runAsUser"], context["runAsGroup"]
        return [
            *("setpriv", "--reuid", str(user), "--regid", str(group), "--groups", str(context["fsGroup"])),
            *("--no-new-privs", "--inh-caps=-all", f"--bounding-set={','.join(['-all', *added])}"),
        ]

    def environment(self, item: Object) -> dict[str, str]:
        return IMAGE_ENV | {entry["name"]: entry["value"] for entry in item.get("env", [])}

    def argv(self, name: str, *, own_network: bool) -> list[str]:
        """Return the command that runs a container."""
        item = self.container(name)
        assert item["securityContext"]["readOnlyRootFilesystem"] is True
        command = ["env", "-i", *(f"{k}={v}" for k, v in self.environment(item).items()), *self._user(item)]
        before, after = self._below_tmp()
        mounts = [*self._roots(item), *before, *self._mounts(item), *after]
        lines = ["set -e", *mounts, "mount -o remount,bind,ro /", "cd /"]
        if own_network:
            lines.insert(1, "ip link set lo up")
        lines.append("exec " + shlex.join([*command, *item["command"]]))
        network = ["--net"] if own_network else []
        return [
            "unshare",
            "--mount",
            *network,
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            "\n".join(lines),
        ]

    def run(self, name: str, *, own_network: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        command = self.argv(name, own_network=own_network)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    def start(self, name: str) -> Running:
        """Start a container in the pod's own network."""
        log = (self.directory / f"{name}.log").open("wb")
        with log:
            process = subprocess.Popen(self.argv(name, own_network=True), stdout=log, stderr=log)
        running = Running(self, name, process, self.directory / f"{name}.log")
        # Until the command itself runs: the shell before it has the namespaces, but not yet the mounts.
        while not running.is_begun and process.poll() is None:
            time.sleep(0.02)
        return running


@dataclass
class Running:
    """A container that runs."""

    pod: Pod
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_begun(self) -> bool:
        """The container's own command has replaced the shell that prepared its mounts."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return bool(children) and Path(f"/proc/{children[0]}/comm").read_text().strip() not in {"unshare", "sh"}

    @property
    def pid(self) -> int:
        """The container's PID 1, as the node sees it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def exec(self, command: list[str], *, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as kubectl exec and exec probes do: same namespaces, user and environment."""
        item = self.pod.container(self.name)
        env = ["env", "-i", *(f"{k}={v}" for k, v in self.pod.environment(item).items())]
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--root", "--wd"]
        whole = [*enter, *env, *self.pod._user(item), *command]
        return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=timeout_s)

    def probe(self, kind: str) -> subprocess.CompletedProcess[str]:
        probe = self.pod.container(self.name)[kind]
        return self.exec(probe["exec"]["command"])

    def kill(self) -> None:
        """End the container: its PID 1, and with it everything in its PID namespace.

        Killing ``unshare`` alone is not enough: a process that becomes another user forgets its parent's death signal.
        """
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
