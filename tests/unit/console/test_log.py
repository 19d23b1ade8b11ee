"""One sink, three looks."""

from __future__ import annotations

import io
import json

import pytest

from trtbuild.console import log
from trtbuild.console.log import Format, Log, format_bytes, format_duration


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")]
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0s"), (59.94, "59.9s"), (192, "3m12s"), (3900, "1h05m")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_json_lines_carry_stage_fields_and_time() -> None:
    out = io.StringIO()
    sink = Log(log_format="json", stream=out, now=lambda: 0.0)
    sink.bind(key="abc")
    with sink.stage("fetch"):
        sink.info("started", 'with "quotes"', total_bytes=3)
    assert json.loads(out.getvalue()) == {
        "ts": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "stage": "fetch",
        "event": "started",
        "msg": 'with "quotes"',
        "key": "abc",
        "total_bytes": 3,
    }


def test_text_lines_name_stage_and_level() -> None:
    out = io.StringIO()
    sink = Log(log_format="text", stream=out, level="warning")
    sink.info("no", "not shown")
    with sink.stage("build"):
        sink.warning("yes", "shown")
    assert out.getvalue() == "build: warning: shown\n"


def test_progress_counts_rate_and_eta_without_what_was_there_before() -> None:
    now = [0.0]
    sink = Log(log_format="text", stream=io.StringIO(), now=lambda: now[0])
    with sink.progress("download", "downloading", total=1000) as progress:
        progress.resume_at(500)
        assert progress.eta_s() is None
        now[0] = 10.0
        progress.advance(100)
        assert progress.eta_s() == pytest.approx(40.0)
        assert "600 B of 1000 B, 10 B/s" in progress._line()


def test_progress_writes_heartbeats_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "HEARTBEAT_S", 0.01)
    out = io.StringIO()
    sink = Log(log_format="json", stream=out)
    with sink.progress("build", "building", unit="steps", total=4) as progress:
        progress.advance(1)
        while out.getvalue().count("\n") < 2:
            pass
    line = json.loads(out.getvalue().splitlines()[0])
    assert (line["event"], line["total"]) == ("build", 4)


def test_human_output_escapes_markup() -> None:
    out = io.StringIO()
    sink = Log(log_format="human", stream=out)
    sink.info("x", "[bold]not markup[/bold]")
    assert "[bold]not markup[/bold]" in out.getvalue()


class _Gone(io.StringIO):
    """A standard error whose reader went away, or whose disk is full."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("log_format", ["text", "json", "human"])
def test_a_lost_reader_of_the_log_does_not_end_the_work(log_format: Format) -> None:
    sink = Log(log_format=log_format, stream=_Gone())
    sink.info("event", "a message without a reader")
    with sink.progress("event", "working", total=10) as progress:
        progress.advance(10)


def test_a_line_stays_a_line_whatever_a_name_holds() -> None:
    for log_format in ("text", "json"):
        out = io.StringIO()
        Log(log_format=log_format, stream=out).info("event", "model 'a\nb'")
        assert out.getvalue().count("\n") == 1


def test_json_is_ascii_where_the_stream_is_not_unicode() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    Log(log_format="json", stream=out).info("event", "modèle")
    assert json.loads(raw.getvalue())["msg"] == "modèle"


def test_figures_beside_a_bar_are_short() -> None:
    now = [0.0]
    sink = Log(stream=io.StringIO(), now=lambda: now[0])
    with sink.progress("event", "downloading", total=4 << 20) as progress:
        assert progress._figures(is_short=True).endswith("0.0s so far")
        now[0] = 1.0
        progress.advance(1 << 20)
        assert progress._figures(is_short=True) == "1.0 MiB of 4.0 MiB, 1.0 MiB/s, about 3.0s left"
        assert progress._line() == "downloading, 1.0 MiB of 4.0 MiB, 1.0 MiB/s, 1.0s so far, about 3.0s left"


def test_the_rate_is_that_of_the_last_minute() -> None:
    now = [0.0]
    sink = Log(log_format="text", stream=io.StringIO(), now=lambda: now[0])
    with sink.progress("download", "downloading", total=1_000_000) as progress:
        for _ in range(100):  # 100 s at 5,000 a second ...
            now[0] += 1
            progress.advance(5_000)
        assert progress.eta_s() == pytest.approx(100.0)
        for _ in range(100):  # ... and then at 10
            now[0] += 1
            progress.advance(10)
        assert progress.eta_s() == pytest.approx((1_000_000 - 501_000) / 10)
        now[0] += 61
        assert progress.eta_s() is None, "nothing came in a minute"
        progress.advance(-1_000)  # a range is fetched again
        assert progress.eta_s() is None


def test_steps_are_counted_over_the_whole_time() -> None:
    now = [0.0]
    sink = Log(log_format="text", stream=io.StringIO(), now=lambda: now[0])
    with sink.progress("build", "building", total=4, unit="steps") as progress:
        now[0] = 600.0
        progress.advance(1)
        now[0] = 700.0
        assert progress.eta_s() == pytest.approx(2100.0)
