"""Stop strings in a stream of text: hold back what could become one, cut where one is complete.

It decides on characters only, so a stop string is found wherever its tokens' borders are. The cost of a character does
not depend on how many stop strings there are or how long they are: they are searched together.

Source: Aho and Corasick, "Efficient string matching: an aid to bibliographic search", CACM 18 (1975).
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence


class _Node:
    """A beginning of a stop string.

    Attributes:
        following: The beginnings that are one character longer.
        fallback: The longest proper end of this one that begins a stop string, too.
        depth: Its length.
        found: Length of the longest stop string that ends here; 0 for none.
    """

    __slots__ = ("depth", "fallback", "following", "found")

    def __init__(self, depth: int) -> None:
        self.following: dict[str, _Node] = {}
        self.fallback: _Node = self
        self.depth = depth
        self.found = 0


@functools.lru_cache(maxsize=8)
def _compile(stops: tuple[str, ...]) -> _Node:
    """Return the root of the automaton; nothing changes it, so answers with the same stop strings share it."""
    root = _Node(0)
    for stop in stops:
        node = root
        for char in stop:
            node = node.following.setdefault(char, _Node(node.depth + 1))
        node.found = len(stop)
    queue = deque(root.following.values())
    for node in queue:
        node.fallback = root
    while queue:
        node = queue.popleft()
        for char, child in node.following.items():
            child.fallback = _step(node.fallback, char, root)
            child.found = child.found or child.fallback.found
            queue.append(child)
    return root


def _step(node: _Node, char: str, root: _Node) -> _Node:
    while char not in node.following:
        if node is root:
            return root
        node = node.fallback
    return node.following[char]


class StopStrings:
    """Finds the stop string that is complete first; of those that end together, the longest.

    However the text is cut into parts, the result is the same.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._root = _compile(tuple(stop for stop in stops if stop))
        self._node = self._root
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Take more text; return what may be shown. Sets ``is_stopped`` once a stop string is complete."""
        root, node = self._root, self._node
        if not root.following or self.is_stopped:
            return "" if self.is_stopped else text
        before = len(self._held)
        for at, char in enumerate(text):
            node = _step(node, char, root)
            if node.found:
                self.is_stopped = True
                shown = (self._held + text[: at + 1])[: before + at + 1 - node.found]
                self._held = ""
                return shown
        self._node = node
        text = self._held + text
        shown = text[: len(text) - node.depth]
        self._held = text[len(shown) :]
        return shown

    def finish(self) -> str:
        """Return what was held back: the stop string it could have become never came."""
        held, self._held = self._held, ""
        return held
