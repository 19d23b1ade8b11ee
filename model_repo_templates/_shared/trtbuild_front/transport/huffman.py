"""The Huffman code of header strings in HTTP/2, read only: gRPC's own server never codes them, proxies and h2 do.

Source: RFC 7541, section 5.2 and appendix B. The code is canonical: codes of one length follow one another in the order
of their symbols, so the lengths alone say everything.
"""

from __future__ import annotations

from trtbuild_front.faults import ProtocolError

_LENGTHS = (
    "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCC"
    "CCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIXPRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRT"
    "QRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWVZ"
)
"""Length of the code of each octet, and at last of the end of a string; A is 5 bits, Z is 30."""
_END = 256
_MOST_PADDING_BITS = 7


def _make_symbols() -> dict[tuple[int, int], int]:
    """Return the symbol of each code, by its length and its bits."""
    symbols: dict[tuple[int, int], int] = {}
    code = last = 0
    for length, symbol in sorted((ord(letter) - ord("A") + 5, at) for at, letter in enumerate(_LENGTHS)):
        code <<= length - last
        symbols[length, code] = symbol
        code, last = code + 1, length
    return symbols


_SYMBOLS = _make_symbols()


def decode(coded: bytes) -> bytes:
    """Return the octets that a Huffman-coded string stands for.

    Raises:
        ProtocolError: It is not such a string.
    """
    found = bytearray()
    code = length = 0
    for octet in coded:
        for shift in range(7, -1, -1):
            code, length = code << 1 | octet >> shift & 1, length + 1
            symbol = _SYMBOLS.get((length, code))
            if symbol is None:
                continue
            if symbol == _END:
                raise ProtocolError("a coded header string holds the symbol for its end")
            found.append(symbol)
            code = length = 0
    if length > _MOST_PADDING_BITS or code != (1 << length) - 1:  # the rest of the last octet is all ones
        raise ProtocolError("a coded header string ends within a symbol")
    return bytes(found)
