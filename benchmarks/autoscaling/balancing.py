"""How a request finds a pod: kube-proxy, Envoy's least request, weighted routes, long-lived connections."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

from benchmarks.autoscaling.model import Pod


class Balancer(Protocol):
    """Picks a pod for each request and is notified of pods that come and go."""

    def pick(self, index: int) -> Pod | None:
        """Return the pod for a request, or None where none is ready."""

    def add(self, pod: Pod) -> None:
        """Take a pod that became ready."""

    def remove(self, pod: Pod) -> None:
        """Forget a pod that leaves."""


class KubeProxy:
    """A random pod per request: HTTP clients that open a connection each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.ready: list[Pod] = []

    def add(self, pod: Pod) -> None:
        pod.ready_index = len(self.ready)
        self.ready.append(pod)

    def remove(self, pod: Pod) -> None:
        last = self.ready.pop()
        if last is not pod:
            self.ready[pod.ready_index] = last
            last.ready_index = pod.ready_index

    def pick(self, index: int) -> Pod | None:  # noqa: ARG002 - others count requests by it
        ready = self.ready
        return ready[int(self._random.random() * len(ready))] if ready else None


class LeastRequest(KubeProxy):
    """Envoy's LEAST_REQUEST, as the chart configures it: of all pods one of those with the fewest requests outstanding.

    Each proxy counts only what it sent itself.

    Args:
        proxies: Number of Envoys that share the requests.
        choices: Look at this many random pods only: 2 is Envoy's default, and what large fleets are simulated with.

    Source: envoyproxy.io, least_request v3: FULL_SCAN breaks ties at random; N_CHOICES with equal weights.
    """

    def __init__(self, seed: int, *, proxies: int = 1, choices: int = 0) -> None:
        super().__init__(seed)
        self._proxies, self._choices = proxies, choices

    def pick(self, index: int) -> Pod | None:
        ready, draw = self.ready, self._random.random
        if not ready:
            return None
        seen = [ready[int(draw() * len(ready))] for _ in range(self._choices)] if self._choices else ready
        if self._proxies == 1:
            return self._least(seen, [pod.outstanding for pod in seen])
        proxy = int(draw() * self._proxies)
        pod = self._least(seen, [pod.by_proxy.get(proxy, 0) for pod in seen])
        pod.by_proxy[proxy] = pod.by_proxy.get(proxy, 0) + 1
        pod.proxied[index] = proxy
        return pod

    def _least(self, pods: list[Pod], counts: list[int]) -> Pod:
        fewest = min(counts)
        if counts.count(fewest) == 1:
            return pods[counts.index(fewest)]
        least = [pod for pod, count in zip(pods, counts, strict=True) if count == fewest]
        return least[int(self._random.random() * len(least))]


class WeightedRoute:
    """HTTPRoute with a Service per SKU: a SKU by weight, then a random pod of it.

    Args:
        weights: Weight of each SKU's Service.
        follow: Multiply by the ready replicas, as something that rewrites the route at every rescale would.
    """

    def __init__(self, seed: int, weights: Mapping[str, float], *, follow: bool) -> None:
        self._random = random.Random(seed)
        self._weights = dict(weights)
        self._follow = follow
        self._services = {name: KubeProxy(seed + 1 + number) for number, name in enumerate(weights)}

    def add(self, pod: Pod) -> None:
        self._services[pod.sku.name].add(pod)

    def remove(self, pod: Pod) -> None:
        self._services[pod.sku.name].remove(pod)

    def pick(self, index: int) -> Pod | None:
        shares = []
        for name, weight in self._weights.items():
            ready = len(self._services[name].ready)
            shares.append((name, weight * ready if self._follow else weight * (ready > 0)))
        draw = self._random.random() * sum(share for _, share in shares)
        for name, share in shares:
            draw -= share
            if draw < 0:
                return self._services[name].pick(index)
        return None


class StickyConnections(KubeProxy):
    """gRPC through kube-proxy: a connection stays with its pod until the pod leaves, or until it is old.

    Args:
        connections: Open connections of all clients; a request takes any of them.
        clock: Returns the simulated time.
        max_age_s: The server closes connections of this age (gRPC's MAX_CONNECTION_AGE), or None for never.
    """

    def __init__(self, seed: int, *, connections: int = 100, max_age_s: float | None = None) -> None:
        super().__init__(seed)
        self._pods: list[Pod | None] = [None] * connections
        self._opened_s = [0.0] * connections
        self._max_age_s = max_age_s
        self.now_s = 0.0

    def remove(self, pod: Pod) -> None:
        super().remove(pod)
        self._pods = [None if one is pod else one for one in self._pods]

    def pick(self, index: int) -> Pod | None:
        number = int(self._random.random() * len(self._pods))
        pod = self._pods[number]
        old = self._max_age_s is not None and self.now_s - self._opened_s[number] > self._max_age_s
        if pod is None or old:
            pod = self._pods[number] = super().pick(index)
            # Spread, or all connections that were opened together would close together.
            self._opened_s[number] = self.now_s - self._random.random() * (self._max_age_s or 0.0) * 0.2
        return pod
