"""What clients of the server may use is decided by a table, one option and the user's own arguments."""

from __future__ import annotations

import pytest

from trtbuild.errors import SpecError
from trtbuild.serve import access
from trtbuild.spec import RESTRICTED_APIS, ServerSpec, parse_spec


def _closed(option: str) -> set[str]:
    """Return the APIs that an option such as ``--http-restricted-api=a,b:header=value`` restricts."""
    apis, _, rule = option.partition("=")[2].partition(":")
    assert rule == "trtbuild-restricted=s3cret"
    return set(apis.split(","))


@pytest.mark.parametrize("opened", [(), ("shared-memory",), ("model-repository", "trace"), RESTRICTED_APIS])
def test_what_is_not_opened_is_closed_on_both_protocols(opened: tuple[str, ...]) -> None:
    options = access.restrictions(ServerSpec(open_api=opened), "s3cret")
    wanted = set(RESTRICTED_APIS) - set(opened)
    assert [option.partition("=")[0] for option in options] == (
        ["--http-restricted-api", "--grpc-restricted-protocol"] if wanted else []
    )
    assert all(_closed(option) == wanted for option in options)


def test_an_api_stays_under_the_header_that_the_user_gave_it() -> None:
    spec = ServerSpec(server_arg={"--http-restricted-api": "model-repository,statistics:admin=x"})
    http, grpc = access.restrictions(spec, "s3cret")
    assert _closed(http) == {"shared-memory", "logging", "trace"}
    assert _closed(grpc) == set(RESTRICTED_APIS)


@pytest.mark.parametrize("option", access.RESTRICTIONS)
def test_an_api_is_not_opened_and_restricted_at_once(option: str) -> None:
    spec = ServerSpec(open_api=("trace",), server_arg={option: "health, trace:admin=x"})
    with pytest.raises(SpecError, match=f"--open-api trace opens what --server-arg {option} restricts"):
        access.restrictions(spec, "s3cret")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("trace", ("trace",)),
        ("trace,shared-memory, trace", ("shared-memory", "trace")),
        (["logging", "trace"], ("logging", "trace")),
        (("logging",), ("logging",)),
        ([], ()),
    ],
)
def test_apis_come_as_words_or_lists(value: object, found: tuple[str, ...]) -> None:
    assert parse_spec({"model": "m", "open_api": value}).server.open_api == found


@pytest.mark.parametrize("value", ["traces", "inference", ["trace", "x"], {"trace": True}, 7])
def test_unknown_apis_are_refused(value: object) -> None:
    with pytest.raises(SpecError, match="expected"):
        parse_spec({"model": "m", "open_api": value})


def test_secrets_are_long_new_each_time_and_not_shown() -> None:
    made = [access.make_secrets({}) for _ in range(100)]
    values = {value for one in made for value in (one.api, one.engine)}
    assert len(values) == 200
    assert min(map(len, values)) == 64
    assert not any(value in repr(one) for one in made for value in (one.api, one.engine))


def test_an_engine_secret_of_the_environment_is_shared() -> None:
    made = access.make_secrets({access.ENGINE_SECRET: "shared by two servers"})
    assert made.engine == "shared by two servers"
    assert made.api != made.engine


@pytest.mark.parametrize("value", ["short", "x" * 15, "\u00e4" * 20, "a" * 20 + "\n", "\udcff" * 20])
def test_an_engine_secret_that_is_none_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(SpecError, match="expected at least 16 printable ASCII characters") as caught:
        access.make_secrets({access.ENGINE_SECRET: value})
    assert value not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("host", "arguments", "foreign"),
    [
        ("127.0.0.1", {}, ()),
        ("127.9.9.9", {}, ()),
        ("localhost", {}, ()),
        ("::1", {}, ()),
        ("0.0.0.0", {}, ("0.0.0.0",)),
        ("::", {}, ("::",)),
        ("10.0.0.7", {}, ("10.0.0.7",)),
        ("127.0.0.1", {"--http-address": "0.0.0.0"}, ("0.0.0.0",)),
        ("127.0.0.1", {"grpc-address": "10.1.1.1"}, ("10.1.1.1",)),
    ],
)
def test_an_address_that_others_reach_is_known(host: str, arguments: dict[str, str], foreign: tuple[str, ...]) -> None:
    assert access.foreign_addresses(ServerSpec(host=host, server_arg=arguments)) == foreign


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ({}, {}, ""),
        ({"allow-sagemaker": "false"}, {}, ""),
        ({"allow-vertex-ai": "false"}, {"AIP_MODE": "PREDICTION"}, ""),
        ({"allow-sagemaker": "true"}, {}, "--server-arg allow-sagemaker adds an endpoint"),
        ({}, {"AIP_MODE": "PREDICTION"}, "AIP_MODE=PREDICTION in the environment adds an endpoint"),
    ],
)
def test_endpoints_without_restrictions_are_named(
    arguments: dict[str, str], environ: dict[str, str], said: str
) -> None:
    found = list(access.endpoint_warnings(ServerSpec(server_arg=arguments), environ))
    assert [line.startswith(said) for line in found] == [True] * bool(said)
