"""No request costs more than its bytes before it is refused, and what it costs after that is bounded."""

from __future__ import annotations

import functools
import json
import random
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from trtbuild_front import limits
from trtbuild_front.engine import EngineContract
from trtbuild_front.faults import RequestError
from trtbuild_front.lanes import Lanes
from trtbuild_front.prompt import check_size, prepare
from trtbuild_front.request import parse_request
from trtbuild_front.steps import tokenize
from trtbuild_front.text.model import TextModel, TooManyTokensError, load_text_model
from trtbuild_front.text.token_bounds import bytes_per_token

from tests.fakes.inputs import as_inputs
from tests.unit.front import kinds

MOST = 32
CONTRACT = EngineContract(
    model="e",
    inputs=frozenset(
        [
            "input_ids",
            "input_lengths",
            "request_output_len",
            "streaming",
            "end_id",
            "pad_id",
            "stop_words_list",
            "bad_words_list",
            "min_tokens",
            "return_log_probs",
            "temperature",
            "runtime_top_k",
            "runtime_top_p",
            "repetition_penalty",
            "presence_penalty",
            "seed",
            "frequency_penalty",
            "len_penalty",
        ]
    ),
    outputs=frozenset({"output_ids"}),
    has_batch_dimension=False,
    max_input_len=MOST,
    max_seq_len=64,
)


def _bound(tokenizer: Tokenizer) -> int | None:
    return bytes_per_token(json.loads(tokenizer.to_str()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load_text_model(kinds.write_directory(tmp_path_factory.mktemp("bounds")))


TRICKY = st.text(
    st.sampled_from("a e ththe  \t\n\r é日🙂ﬁＡ𝛖\u0308\u0301\u212b\u1100\u1161\u11a8K▁<0x41>\x00</s>"), max_size=60
)


@functools.cache
def _bounded() -> tuple[tuple[Tokenizer, float], ...]:
    """Return tokenizers of every kind under every normalizer, with their bounds."""
    found = []
    for make in (kinds.byte_level, kinds.llama2, kinds.gemma):
        for normalizer in (None, normalizers.NFC(), normalizers.NFKC(), normalizers.Lowercase()):
            tokenizer = Tokenizer.from_str(make().to_str())
            if normalizer is not None:
                mine = [tokenizer.normalizer] if tokenizer.normalizer else []
                tokenizer.normalizer = normalizers.Sequence([normalizer, *mine])
            bound = _bound(tokenizer)
            assert bound is not None
            found.append((tokenizer, bound))
    return tuple(found)


@settings(max_examples=150, deadline=None)
@given(prompt=TRICKY)
def test_no_text_has_fewer_tokens_than_the_bound_allows(prompt: str) -> None:
    for tokenizer, bound in _bounded():
        assert len(prompt.encode()) <= bound * len(tokenizer.encode(prompt, add_special_tokens=False))


def _bpe(**changes: Any) -> Tokenizer:
    return Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token=changes.pop("unk", "<unk>"), **changes))


def _with(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    for name, value in parts.items():
        setattr(tokenizer, name, value)
    return tokenizer


def _swallowing() -> Tokenizer:
    tokenizer = Tokenizer.from_str(kinds.byte_level().to_str())
    tokenizer.add_special_tokens([AddedToken("<|user|>", rstrip=True)])
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(_bpe(fuse_unk=True), id="unknown-text-is-fused"),
        pytest.param(_bpe(unk=None), id="unknown-text-is-dropped"),
        pytest.param(_with(_bpe(), normalizer=normalizers.Strip()), id="strip"),
        pytest.param(_with(_bpe(), normalizer=normalizers.Replace(" ", "")), id="replace-by-nothing"),
        pytest.param(_with(_bpe(), normalizer=normalizers.BertNormalizer()), id="bert"),
        pytest.param(_with(_bpe(), pre_tokenizer=pre_tokenizers.Whitespace()), id="whitespace"),
        pytest.param(_with(_bpe(), pre_tokenizer=pre_tokenizers.Split(" ", "removed")), id="split-removed"),
        pytest.param(Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>")), id="words"),
        pytest.param(Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")), id="word-pieces"),
        pytest.param(Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)), id="unigram"),
        pytest.param(_swallowing(), id="an-added-token-that-swallows-spaces"),
    ],
)
def test_tokenizers_that_may_drop_text_have_no_bound(tokenizer: Tokenizer) -> None:
    assert _bound(tokenizer) is None


def test_a_long_prompt_is_refused_by_its_bytes(model: TextModel) -> None:
    assert model.bytes_per_token is not None
    limit = MOST * model.bytes_per_token
    check_size(parse_request(as_inputs(text_input="a" * limit)), model, CONTRACT)
    with pytest.raises(RequestError, match=rf"text_input: the prompt has {limit + 1} bytes; expected at most {limit} "):
        check_size(parse_request(as_inputs(text_input="a" * (limit + 1))), model, CONTRACT)
    with pytest.raises(RequestError, match=r"messages: 900000 bytes; expected at most \d+ for an engine that takes 32"):
        check_size(parse_request(as_inputs(messages="a" * 900_000)), model, CONTRACT)


def test_nothing_is_copied_of_what_is_too_long() -> None:
    sizes: dict[str, Any] = {"text_input": 60_000_000, "messages": 60_000_000}
    for name, size in sizes.items():
        values = {name: np.array([b"a" * size], np.object_)}
        tracemalloc.start()
        with pytest.raises(RequestError, match=rf"{name}: expected at most 8388608 bytes, got {size}"):
            parse_request(values)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


@pytest.mark.parametrize("name", ["stop_words", "bad_words"])
def test_lists_of_words_are_bounded(name: str) -> None:
    for words, message in (
        (["a"] * 257, "at most 256 strings, got 257"),
        (["a" * 1025], "at most 1024 bytes, got 1025"),
        (["a" * 1000] * 17, "at most 16384 bytes in all strings together, got 17000"),
    ):
        with pytest.raises(RequestError, match=f"{name}: expected {message}"):
            parse_request(as_inputs(text_input="a", **{name: words}))
    assert parse_request(as_inputs(text_input="a", **{name: ["a" * 64] * 256}))


def test_a_long_text_is_refused_by_its_beginning(model: TextModel) -> None:
    long = "x" + " a1" * 200_000
    with pytest.raises(TooManyTokensError) as refusal:
        model.encode(long, most_tokens=MOST)
    assert refusal.value.seen.startswith("at least ")
    with pytest.raises(TooManyTokensError) as exact:
        model.encode("a1 " * 100, most_tokens=MOST)
    assert exact.value.seen == f"{len(model.encode('a1 ' * 100))} tokens"


def test_what_fits_is_tokenized_however_long(model: TextModel) -> None:
    prompt = "The quick brown fox " * 20_000
    count = len(model.encode(prompt))
    assert len(model.encode(prompt, most_tokens=count)) == count
    with pytest.raises(TooManyTokensError):
        model.encode(prompt, most_tokens=count - 1)


def test_the_steps_of_the_full_layout_have_the_same_bounds(model: TextModel) -> None:
    def inputs(prompt: str, **words: list[str]) -> dict[str, Any]:
        lists = {name: np.array([[w.encode() for w in value]], np.object_) for name, value in words.items()}
        query = np.array([[prompt.encode()]], np.object_)
        return {"QUERY": query, "REQUEST_OUTPUT_LEN": np.array([[4]], np.int32), **lists}

    assert tokenize(inputs("The"), model, most_tokens=MOST)["REQUEST_INPUT_LEN"].tolist() == [[2]]
    for prompt, words, message in (
        ("a" * 60_000_000, {}, "QUERY: expected at most 8388608 bytes, got 60000000"),
        ("a" * 8_000_000, {}, "QUERY: the prompt has 8000000 bytes; expected at most"),
        ("1 " * 40, {}, "QUERY: the prompt has 81 tokens; this engine takes at most 32"),
        ("a", {"STOP_WORDS_DICT": ["a"] * 300}, "STOP_WORDS_DICT: expected at most 256 strings, got 300"),
        ("a", {"BAD_WORDS_DICT": ["a" * 2000]}, "BAD_WORDS_DICT: expected at most 1024 bytes, got 2000"),
    ):
        with pytest.raises(RequestError, match=message):
            tokenize(inputs(prompt, **words), model, most_tokens=MOST)


@pytest.mark.parametrize("name", ["end_id", "pad_id"])
def test_ids_outside_of_the_vocabulary_are_refused(model: TextModel, name: str) -> None:
    def ask(value: int) -> None:
        prepare(parse_request(as_inputs(text_input="a", **{name: value})), model, CONTRACT, 16)

    ask(model.vocab_size - 1)
    ask(-1)
    with pytest.raises(RequestError, match=f"{name}: expected a token of the model, below {model.vocab_size}, .*99999"):
        ask(99999)


def test_short_texts_do_not_wait_for_long_ones_nor_for_templates() -> None:
    lanes, hold, done = Lanes(), threading.Event(), threading.Event()
    for _ in range(3):
        lanes.tokenize(1_000_000, lambda: (hold.wait(30), None)[1])
    for _ in range(10):
        lanes.render(lambda: (hold.wait(30), None)[1])
    lanes.tokenize(100, done.set)
    assert done.wait(30)
    hold.set()
    lanes.shutdown()
    lanes.tokenize(1, done.clear)  # too late: it is not run, and nothing is raised
    assert done.is_set()


def test_a_long_text_does_not_hold_the_interpreter(model: TextModel) -> None:
    """``Tokenizer.encode`` holds the lock for seconds; a batch of one does not."""
    turns, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            turns[0] += 1
            stop.wait(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = turns[0]
        model._encode("a b c " * 100_000, False)
        assert turns[0] - before > 20
    finally:
        stop.set()
        thread.join()


def test_a_panic_of_the_library_is_an_error_of_the_request(model: TextModel) -> None:
    class PanicException(BaseException):
        pass

    class Panics:
        def encode_batch_fast(self, *_: object, **__: object) -> None:
            raise PanicException("index out of bounds")

    import dataclasses

    from trtbuild_front.faults import EngineError

    broken = dataclasses.replace(model, tokenizer=Panics())
    with pytest.raises(EngineError, match="the tokenizers library failed on this request"):
        broken.encode("a")


def _odd_values(random_: random.Random) -> list[Any]:
    deep = "[" * random_.choice([10, 70, 2000, 50_000])
    return [
        "", "a", "é🙂", "\x00", "\ufffd", "a " * random_.randrange(400), "x" * 70_000, deep, "null", "{}", "[]", "[1]",
        '[{"role": "user", "content": "hi"}]', '[{"role": "user", "content": null}]', '[{"role": 1, "content": "a"}]',
        '[{"role": "user", "content": [{"type": "text"}]}]', '[{"role": "user", "content": "\\ud800"}]',
        '[{"role": "user", "content": "x", "n": ' + "9" * random_.choice([5, 50, 5000]) + "}]",
        '[{"role": "user", "content": "x", "n": -Infinity}]', '[{"role": "a", "content": "b", "tool_calls": 7}]',
        b"\xff\xfe", b"\xed\xa0\x80", 0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, 0.0, -0.0, 0.5,
        1e38, 3.4e38, 1e308, float("nan"),
        float("inf"), float("-inf"), True, False,
        [], [1, 2], ["a", "b"], ["", "a" * 2000], ["a"] * 300, [b"\xff"], [[1], [2]],
    ]  # fmt: skip


NAMES = (  # noqa: SIM905
    "text_input messages max_tokens stream temperature top_k top_p repetition_penalty presence_penalty "
    "frequency_penalty length_penalty min_tokens min_length seed random_seed stop_words bad_words end_id pad_id "
    "beam_width num_return_sequences return_log_probs return_perf_metrics exclude_input_in_output return_context_logits"
).split()


def _array(random_: random.Random, value: Any) -> Any:
    if isinstance(value, (str, bytes)) or (isinstance(value, list) and any(isinstance(v, (str, bytes)) for v in value)):
        items = value if isinstance(value, list) else [value]
        return np.array([item.encode() if isinstance(item, str) else item for item in items], np.object_)
    dtype = random_.choice([None, np.int32, np.float32, np.uint64, np.bool_, np.int64])
    with np.errstate(all="ignore"):
        try:
            return np.array(value, dtype) if dtype else np.array(value)
        except (OverflowError, ValueError, DeprecationWarning):
            return np.array(value)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_mutated_requests_are_answered_or_refused(model: TextModel) -> None:
    """Nothing but ``RequestError`` comes out, and it names no class of Python."""
    random_ = random.Random(4)
    outcomes = {"ok": 0, "refused": 0}
    for _ in range(6_000):
        pool = _odd_values(random_)
        names = random_.sample(NAMES, random_.randrange(0, 4))
        start = random_.choice([{"text_input": "Hi"}, {"messages": '[{"role": "user", "content": "Hi"}]'}])
        values = as_inputs(**start) | {name: _array(random_, random_.choice(pool)) for name in names}
        try:
            prepare(parse_request(values), model, CONTRACT, 16)
            outcomes["ok"] += 1
        except RequestError as error:
            assert "Error(" not in str(error)
            outcomes["refused"] += 1
    model.close()
    assert min(outcomes.values()) > 300, outcomes


def test_the_documentation_has_the_numbers() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "front-model.md").read_text()
    for number in (
        limits.MAX_WORDS, limits.MAX_WORD_BYTES, limits.MAX_MESSAGES, limits.MAX_DEPTH, limits.MAX_DIGITS,
        limits.MAX_RENDERERS, limits.BYTES_PER_TOKEN_UNPROVEN,
    ):  # fmt: skip
        assert f"{number:,}" in page
    for size in (
        limits.MAX_TEXT_BYTES,
        limits.MAX_MESSAGES_BYTES,
        limits.RENDERER_MEMORY_BYTES,
        limits.MAX_TEMPLATE_BYTES,
    ):
        assert f"{size >> 20} MiB" in page
    for size in (limits.SMALLEST_TEXT_LIMIT_BYTES, limits.SHORT_TEXT_BYTES, limits.MAX_WORDS_BYTES):
        assert f"{size >> 10} KiB" in page
    assert f"{limits.RENDER_CPU_S} s of processor time" in page
    assert f"{limits.RENDER_S:g} s" in page
