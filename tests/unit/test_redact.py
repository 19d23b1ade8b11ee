"""No secret survives, and nothing else changes."""

from __future__ import annotations

import base64
import io
import json
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from trtbuild import redact
from trtbuild.console.log import Log
from trtbuild.console.streams import redact_streams

# RFC 3986 allows these in the user part of a URL; everything else is percent-encoded.
_USERINFO = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:%@"
_WORDS = st.text(string.ascii_letters + string.digits + "-._~", min_size=1, max_size=12)
_AROUND = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    before=_AROUND,
    scheme=st.sampled_from(["http", "https", "s3", "gs", "socks5h", "HTTP", "abfss"]),
    user=st.text(_USERINFO.replace(":", ""), max_size=8),
    password=st.text(_USERINFO, max_size=20),
    host=_WORDS,
    after=_AROUND,
)
@example(before="'", scheme="http", user="user", password="pw", host="host", after="'")
@example(before="x", scheme="http", user="", password="@@", host="h", after="/a@b")
def test_a_login_in_a_url_never_survives(
    before: str, scheme: str, user: str, password: str, host: str, after: str
) -> None:
    marked = f"S3{password}cr"
    url = f"{scheme}://{user}:{marked}@{host}"
    masked = redact.text(f"{before}{url}{after}")
    assert marked not in masked.replace(before, "", 1).replace(after, "")
    assert f"://{redact.MASK}@" in masked
    assert redact.text(masked) == masked


@given(
    before=_AROUND,
    after=st.text(string.whitespace, min_size=1, max_size=1).flatmap(lambda space: _AROUND.map(lambda t: space + t)),
    name=st.sampled_from(
        [
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "X-Goog-Signature",
            "Signature",
            "sig",
            "SIG",
            "token",
            "access_token",
            "api_key",
            "key",
            "AWSAccessKeyId",
            "Policy",
            "Key-Pair-Id",
            "password",
        ]
    ),
    value=st.text(string.ascii_letters + string.digits + "-._~%+/=:", min_size=4),
    separator=st.sampled_from(["?", "?a=b&", "?x&", "?a=b&amp;"]),
)
def test_a_signed_query_never_survives(before: str, after: str, name: str, value: str, separator: str) -> None:
    secret = f"Q9{value}"
    masked = redact.text(f"{before}https://host/path{separator}{name}={secret}{after}")
    assert secret not in masked.removeprefix(before).removesuffix(after)
    assert redact.text(masked) == masked


@given(
    secret=st.text(st.characters(codec="utf-8"), min_size=redact.MIN_KNOWN_CHARS, max_size=30),
    before=_AROUND,
    after=_AROUND,
)
def test_a_known_secret_never_survives_in_any_spelling(secret: str, before: str, after: str) -> None:
    assume(secret not in redact.MASK and secret == secret.strip())
    redact.forget()
    try:
        redact.learn(secret)
        for spelled in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            assert spelled not in redact.text(f"{before}|{spelled}|{after}").replace(before, "").replace(after, "")
    finally:
        redact.forget()


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("HF_ENDPOINT (http://user:PLANTEDpw@host)", "PLANTEDpw"),
        ("http://user:PL/ANT?ED@host/x", "ANT?ED"),
        ("https://PLANTEDtoken@host/x", "PLANTEDtoken"),
        ("s3://AKIAPLANTED:wJal/rXUt+n@bucket/x", "rXUt"),
        ("Authorization: Bearer PLANTED1234", "PLANTED"),
        ("Authorization: Basic UExBTlRFRA==", "UExB"),
        ("{'Authorization': 'Bearer PLANTED1234', 'a': 1}", "PLANTED"),
        ('{"proxy-authorization":"Basic UExBTlRFRA=="}', "UExB"),
        ("authorization: AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=PLANTED", "PLANTED"),
        ("x-amz-security-token: PLANTED", "PLANTED"),
        ("Cookie: session=PLANTED", "PLANTED"),
        ("sent bearer PLANTED-1234", "PLANTED"),
        ("HF_TOKEN=PLANTEDplanted", "PLANTED"),
        ("export AWS_SECRET_ACCESS_KEY='PLANTED/planted'", "PLANTED"),
        ("password=PLANTEDplanted;", "PLANTED"),
        ("hf_PLANTEDtoken1", "PLANTED"),
        ("(hf_aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh)", "aBcDe"),
        ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN"),
        ("ghp_PLANTED0123456789abcdef", "PLANTED"),
        ("nvapi-PLANTED0123456789abcdef", "PLANTED"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl", "eyJzdWI"),
    ],
)
def test_shapes_of_secrets(text: str, leak: str) -> None:
    assert leak in text
    masked = redact.text(text)
    assert leak not in masked
    assert redact.MASK in masked
    assert redact.text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/meta-llama/Llama-3.1-8B/tree/main",
        "http://127.0.0.1:8000/v2/models/m@1 and user@example.com",
        "http://[::1]:8000/x@y",
        "nvcr.io/nvidia/tritonserver:25.01-trtllm-python-py3@sha256:0123456789abcdef",
        "abfss://container@account.dfs.core.windows.net/engines",
        "git clone ssh://git@github.com/org/name",
        "accept the terms, make a token, then: export HF_TOKEN=hf_...",
        "max_num_tokens=8192 eos_token=</s> bos_token='<s>' kv_cache_tokens=64 token=5",
        "hf_quantizer, hf_checkpoint and hf_transformers are modules",
        "a bearer of news; bearer authentication; basic authentication is needed",
        "--calibration cnn_dailymail --password-file /run/secrets/x",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "/models/token=x/key=y",
        "https://host/search?query=tokens&page=2",
        '{"a":"http://host:8000","b":"x@y"}',
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert redact.text(text) == text


@given(st.text(string.ascii_letters + string.digits + " .,()[]{}<>!#$%^*+-_/\\|\n\t"))
def test_prose_is_unchanged(text: str) -> None:
    assume(not any(mark in text.lower() for mark in ("bearer", "hf_", "gh", "akia", "asia", "nvapi", "eyj")))
    assert redact.text(text) == text


def test_values_are_masked_by_field_name_at_any_depth() -> None:
    found = redact.value(
        {"a": [{"hf_token": "x"}], "token": "y", "eos_token": "</s>", "n": 1, "none": None, "password": ""}
    )
    assert found == {
        "a": [{"hf_token": "***"}],
        "token": "***",
        "eos_token": "</s>",
        "n": 1,
        "none": None,
        "password": "",
    }


@pytest.mark.parametrize(
    ("environ", "text", "leak"),
    [
        ({"HF_TOKEN": "planted-token"}, "x planted-token y", "planted"),
        ({"MY_API_KEY": "planted-key"}, "x planted-key", "planted"),
        ({"AWS_SESSION_TOKEN": "plantedplanted"}, "plantedplanted", "planted"),
        ({"HTTPS_PROXY": "user:plantedpw@proxy:3128"}, "cannot reach user:plantedpw@proxy", "plantedpw"),
        ({"https_proxy": "http://user:pl%40nted@proxy"}, "the password pl@nted", "pl@nted"),
        ({"HF_ENDPOINT": "http://user:pl/an ted@host"}, "x pl/an ted y", "ted"),
        ({"ANY_ADDRESS": "amqp://user:plantedpw@host"}, "plantedpw", "plantedpw"),
        ({"HTTP_PROXY": "http://u:pw@proxy"}, "proxy u:pw@proxy", "u:pw"),
        ({"HTTP_PROXY": "http://user:pass@proxy"}, base64.b64encode(b"user:pass").decode(), "dXNlcj"),
    ],
)
def test_what_the_environment_gave_is_masked_everywhere(environ: dict[str, str], text: str, leak: str) -> None:
    assert leak in redact.text(text)
    redact.learn_environment(environ)
    assert leak not in redact.text(text)


def test_ordinary_variables_teach_nothing() -> None:
    redact.learn_environment({
        "TRTBUILD_MAX_NUM_TOKENS": "81928192", "HF_TOKEN_PATH": "/run/secrets/token", "A_TOKEN": "true",
        "NO_PROXY": "a@b.example.com", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token", "GREETING": "me@example.com",
    })  # fmt: skip
    text = "81928192 /run/secrets/token true a@b.example.com /var/run/token me@example.com"
    assert redact.text(text) == text


@pytest.mark.parametrize(
    ("url", "plain", "login"),
    [
        ("http://u:p@h:1/x", "http://h:1/x", "u:p"),
        ("http://h/x@y", "http://h/x@y", None),
        ("https://u:p%40%2F@h", "https://h", "u:p@/"),
        ("https://u@h", "https://h", "u:"),
        ("u:p@h", "u:p@h", None),
    ],
)
def test_a_login_is_taken_out_of_an_address(url: str, plain: str, login: str | None) -> None:
    assert redact.split_login(url) == (plain, login)


@pytest.mark.parametrize("log_format", ["text", "json", "human"])
def test_the_log_masks_text_fields_and_objects(log_format: str) -> None:
    out = io.StringIO()
    sink = Log(log_format=log_format, stream=out)  # type: ignore[arg-type]
    sink.bind(where="http://u:PLANTED@h")
    sink.info("e", "from http://u:PLANTED@h", url=["http://u:PLANTED@h"], path=Path("/x?sig=PLANTED"), token="PLANTED")
    assert "PLANTED" not in out.getvalue()
    assert redact.MASK in out.getvalue()


def test_streams_mask_what_any_library_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    redact_streams("stderr")
    import sys

    print("http://u:PLANTED@h", file=sys.stderr)
    sys.stderr.writelines(["?token=PLANTED\n"])
    assert out.getvalue() == "http://***@h\n?token=***\n"
    assert not sys.stderr.isatty()
