"""Tokenizer files: what they say about prompts, ends and templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from trtbuild_front.engine import EngineContract, Update
from trtbuild_front.faults import RequestError
from trtbuild_front.generation import Writer
from trtbuild_front.prompt import prepare
from trtbuild_front.request import parse_request
from trtbuild_front.text.chat import ChatTemplate, parse_messages
from trtbuild_front.text.model import load_text_model

from tests.fakes.inputs import as_inputs
from tests.unit.front import kinds

MESSAGES = json.dumps([{"role": "user", "content": "Hi"}])


def test_a_prompt_gets_the_tokenizer_s_own_bos_and_a_conversation_the_template_s(tokenizer_dir: Path) -> None:
    model = load_text_model(tokenizer_dir)
    assert model.encode("Hi")[0] == 0
    assert model.encode("")[0] == 0
    ids = model.encode_messages(MESSAGES)
    assert ids.count(0) == 1  # not one from the template and one from the post-processor
    assert model.tokenizer.decode(ids, skip_special_tokens=False) == "<s><user>Hi\n<assistant>"
    assert model.decode(model.encode("Größe 🙂")) == "Größe 🙂"


@pytest.mark.parametrize(
    ("files", "end_ids"),
    [
        pytest.param({}, (1, 3), id="generation_config-first"),
        pytest.param({"generation_config": None}, (1,), id="config"),
        pytest.param({"generation_config": {"eos_token_id": 3}, "config": None}, (3, 1), id="one-id"),
        pytest.param(
            {"generation_config": {"eos_token_id": [3, 2]}, "config": {"eos_token_id": 5}}, (3, 2, 5, 1), id="all"
        ),
        pytest.param(
            {"generation_config": None, "config": {"text_config": {"eos_token_id": [4, 5]}}},
            (4, 5, 1),
            id="text_config",
        ),
        pytest.param({"generation_config": None, "config": {"vocab_size": 1}}, (), id="an-id-that-the-model-lacks"),
        pytest.param({"generation_config": None, "config": {"eos_token_id": None}}, (1,), id="eos_token-by-name"),
        pytest.param(
            {"generation_config": None, "config": None, "tokenizer_config": {}}, (), id="a-model-without-an-end"
        ),
    ],
)
def test_end_ids(make_tokenizer_dir: Callable[..., Path], files: dict[str, object], end_ids: tuple[int, ...]) -> None:
    assert load_text_model(make_tokenizer_dir(**files)).end_ids == end_ids


@pytest.mark.parametrize(
    ("files", "prompt"),
    [
        pytest.param({}, "<s><user>Hi\n<assistant>", id="tokenizer_config"),
        pytest.param({"chat_template": "{{ messages[0].content }}!"}, "Hi!", id="the-file-wins"),
        pytest.param(
            {"tokenizer_config": {"chat_template": [{"name": "default", "template": "D"}, {"name": "x"}]}},
            "D",
            id="list",
        ),
    ],
)
def test_chat_templates(make_tokenizer_dir: Callable[..., Path], files: dict[str, object], prompt: str) -> None:
    model = load_text_model(make_tokenizer_dir(**files))
    assert model.template is not None
    assert model.template.render(MESSAGES, 1000) == prompt


def test_a_model_without_a_template_says_so(make_tokenizer_dir: Callable[..., Path]) -> None:
    model = load_text_model(make_tokenizer_dir(tokenizer_config={}))
    with pytest.raises(RequestError, match="has no chat template; send text_input"):
        model.encode_messages(MESSAGES)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("{{ raise_exception('only two roles') }}", "only two roles", id="raise_exception"),
        pytest.param("{{ messages.append(1) }}", "refused them", id="cannot-change-its-arguments"),
        pytest.param("{{ ''.__class__.__mro__ }}", "refused them", id="cannot-leave-the-sandbox"),
        pytest.param("{{ messages[0].role + 1 }}", "refused them", id="type-error"),
    ],
)
def test_a_template_that_refuses_fails_the_request_only(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ChatTemplate(source, {}).render(parse_messages(MESSAGES))


def test_templates_have_what_they_expect() -> None:
    source = "{%- for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
    source += "{{ strftime_now('%Y') | length }}{{ add_generation_prompt }}{{ bos_token }}{{ tools is none }}"
    messages = parse_messages(json.dumps([{"role": "user", "content": "é"}] * 2))
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(messages) == '{"role": "user", "content": "é"}4True<s>True'


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param("hello", id="no-json"),
        pytest.param('{"role": "user"}', id="no-list"),
        pytest.param("[]", id="empty"),
        pytest.param('[{"content": "x"}]', id="no-role"),
        pytest.param('[{"role": "user"}]', id="no-content"),
        pytest.param('["x"]', id="no-object"),
    ],
)
def test_messages_of_the_wrong_shape_are_refused_with_an_example(messages: str) -> None:
    with pytest.raises(RequestError, match='"role": "user", "content": "Hello"'):
        parse_messages(messages)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("tokenizer.json", "{}", "not a tokenizer", id="tokenizer"),
        pytest.param("config.json", "[]", "config.json: expected a JSON object, got list", id="config"),
    ],
)
def test_damaged_files_are_named(
    make_tokenizer_dir: Callable[..., Path], name: str, content: str, message: str
) -> None:
    directory = make_tokenizer_dir()
    (directory / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_text_model(directory)


def test_a_template_that_does_not_compile_costs_messages_only(make_tokenizer_dir: Callable[..., Path]) -> None:
    model = load_text_model(make_tokenizer_dir(chat_template="{% if %}"))
    assert model.template is not None
    assert "not valid Jinja: Expected an expression" in model.template.start()
    with pytest.raises(RequestError, match=r"messages: the chat template is not valid Jinja.*takes text_input only"):
        model.encode_messages(MESSAGES)
    assert model.encode("Hi")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("eos_token", "<tool→>", id="by-name"),
        pytest.param("additional_special_tokens", [{"content": "<tool→>"}], id="additional"),
        pytest.param("extra_special_tokens", {"tool": "<tool→>"}, id="extra"),
        pytest.param(
            "added_tokens_decoder", {"420": {"content": "<tool→>", "special": True}}, id="added_tokens_decoder"
        ),
    ],
)
def test_tokens_that_only_the_configuration_calls_special_are_not_shown(
    make_tokenizer_dir: Callable[..., Path], key: str, value: object
) -> None:
    plain = load_text_model(make_tokenizer_dir(tokenizer_config={}))
    number = plain.tokenizer.token_to_id("<tool→>")
    ids = [*plain.encode("Hi"), number]
    assert plain.decode(ids) == "Hi<tool→>"
    assert load_text_model(make_tokenizer_dir(tokenizer_config={key: value})).decode(ids) == "Hi"


def test_a_directory_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer.json: not found"):
        load_text_model(tmp_path)


def test_truncation_and_padding_in_the_file_are_ignored(make_tokenizer_dir: Callable[..., Path]) -> None:
    directory = make_tokenizer_dir()
    tokenizer = kinds.byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = load_text_model(directory).encode("The quick brown fox jumps over the lazy dog. " * 3)
    assert len(ids) > 4 and ids[-1] == tokenizer.encode(" ").ids[-1]


@pytest.mark.parametrize("is_echoed", [True, False])
def test_an_echo_is_decoded_with_the_completion_as_one_text(tmp_path: Path, is_echoed: bool) -> None:
    """Llama 2's decoder drops the first space of a text: the completion's own only where it stands alone."""
    directory = kinds.write_directory(tmp_path)
    kinds.llama2().save(str(directory / "tokenizer.json"))
    model = load_text_model(directory, with_template=False)
    names = "input_ids input_lengths request_output_len streaming end_id pad_id"
    contract = EngineContract(
        model="e", inputs=frozenset(names.split()), outputs=frozenset({"output_ids"}), has_batch_dimension=False,
        max_input_len=64, max_seq_len=96,
    )  # fmt: skip
    values = as_inputs(text_input="the test", exclude_input_in_output=not is_echoed)
    request = parse_request(values)
    prompt = prepare(request, model, contract, 16)
    writer = Writer(request, prompt, model)
    completion = [model.tokenizer.token_to_id("▁quick"), model.tokenizer.token_to_id("ing")]
    writer.feed([Update(token_ids=tuple(completion))])
    whole = model.encode("the test") + completion
    expected = model.tokenizer.decode(whole if is_echoed else completion)
    assert writer.last().text == expected
    assert expected.startswith("the test quick" if is_echoed else "quick")
