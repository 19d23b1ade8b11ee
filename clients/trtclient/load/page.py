"""A run as one HTML page that needs nothing else: tables and inline charts, light and dark."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence

from trtclient.load import svg
from trtclient.load.record import Record
from trtclient.load.report import LATENCIES, format_s
from trtclient.load.stats import Summary, percentile

MAX_DOTS = 3000
MAX_CURVE_POINTS = 200

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1d2329;--soft:#66727f;--rule:#dde3e8;--card:#f6f8fa;
--a:#2563b0;--b:#c2410c;--c:#15803d;--d:#8b5cf6;--e:#b91c1c}
@media(prefers-color-scheme:dark){:root{--bg:#14181c;--fg:#e4e9ee;--soft:#95a1ad;--rule:#2f373f;--card:#1c2228;
--a:#6ea8f2;--b:#f0955a;--c:#5cc98a;--d:#b79bff;--e:#f08080}}
*{box-sizing:border-box}body{margin:0 auto;padding:28px 20px 48px;max-width:1360px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,sans-serif}h1{font-size:24px;margin:0}h2{font-size:17px;margin:32px 0 10px}
.sub{color:var(--soft);margin:2px 0 18px;overflow-wrap:anywhere}.cards{display:flex;flex-wrap:wrap;gap:10px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 16px;min-width:130px}
.card b{display:block;font-size:22px;font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:13px}
.card.bad b{color:var(--e)}.card.good b{color:var(--c)}
.warn{border-left:4px solid var(--e);background:var(--card);padding:8px 14px;margin:14px 0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:18px}
figure{margin:0;border:1px solid var(--rule);border-radius:8px;padding:12px 14px}figcaption{font-weight:600}
svg{width:100%;height:auto;display:block}svg .grid{stroke:var(--rule);stroke-width:1}
svg text{fill:var(--soft);font-size:11px;font-family:system-ui,sans-serif}svg .x{text-anchor:middle}
svg .y{text-anchor:end}
path{fill:none;stroke-width:1.8;stroke-linejoin:round}
path.a{stroke:var(--a)}path.b{stroke:var(--b)}path.c{stroke:var(--c)}path.d{stroke:var(--d)}path.e{stroke:var(--e)}
circle.a{fill:var(--a);opacity:.55}circle.e{fill:var(--e)}
.legend{font-size:13px;color:var(--soft);display:flex;flex-wrap:wrap;gap:4px 16px;min-height:1.5em}
.legend span::before{content:"";display:inline-block;width:12px;height:3px;margin-right:6px;vertical-align:middle}
.legend .a::before{background:var(--a)}.legend .b::before{background:var(--b)}.legend .c::before{background:var(--c)}
.legend .d::before{background:var(--d)}.legend .e::before{background:var(--e)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child,th:last-child,td.text{text-align:left}td.text{white-space:normal;overflow-wrap:anywhere}
thead th{color:var(--soft);font-weight:500}pre{background:var(--card);padding:12px;overflow-x:auto;border-radius:8px;
font-size:13px}.none{color:var(--soft)}footer{color:var(--soft);font-size:13px;margin-top:28px}
"""


def render(summary: Summary, records: Sequence[Record], settings: Mapping[str, object]) -> str:
    """Return the page."""
    model, url = html.escape(str(settings.get("model", ""))), html.escape(str(settings.get("url", "")))
    charts = "".join(
        (
            _over_time(summary, records),
            _latency_curve(records),
            _throughput(summary),
            _in_flight(summary),
            _requests(summary),
            _lag(records),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Load on {model}</title><style>{_STYLE}</style></head><body>"
        f'<h1>Load on {model}</h1><p class="sub">{url}</p>'
        f"{_cards(summary)}{_warnings(summary)}"
        f'<h2>Latency</h2><div class="scroll">{_latency_table(summary)}</div>'
        f'<h2>Over the run</h2><div class="grid">{charts}</div>'
        f"{_failures(summary)}<h2>Settings</h2><pre>{html.escape(json.dumps(dict(settings), indent=2))}</pre>"
        "<footer>Every latency counts from the time the request was due. Percentiles are values that occurred."
        "</footer></body></html>\n"
    )


def _cards(summary: Summary) -> str:
    failed = summary.requests - summary.ok
    cards = [
        ("", f"{summary.ok} of {summary.requests}", "requests answered"),
        ("bad" if failed else "good", str(failed), "failed"),
        ("", f"{summary.requests_per_s:.2f}", "requests/s"),
        ("", f"{summary.tokens_per_s:.0f}", "output tokens/s" if summary.is_counted else "pieces/s"),
        ("", str(summary.peak_in_flight), "open at once, at most"),
    ]
    if summary.ttft.count:
        cards.append(("", format_s(summary.ttft.quantiles["p50"]), "TTFT p50"))
        cards.append(("", format_s(summary.ttft.quantiles["p99"]), "TTFT p99"))
    if summary.goal:
        share = summary.good / summary.requests if summary.requests else 0.0
        asked = ", ".join(f"{name.removesuffix('_s')} ≤ {format_s(limit)}" for name, limit in summary.goal.items())
        cards.append(("", f"{share:.1%}", f"met {asked}"))
        cards.append(("", f"{summary.good_per_s:.2f}", "goodput, requests/s"))
    body = "".join(f'<div class="card {kind}"><b>{value}</b><span>{label}</span></div>' for kind, value, label in cards)
    return f'<div class="cards">{body}</div>'


def _warnings(summary: Summary) -> str:
    found = []
    if summary.is_interrupted:
        found.append("The run was ended early: these numbers are of the part that ran.")
    if summary.lag.count and summary.lag.quantiles["p99"] > 0.05:
        found.append(
            f"The client itself was late (p99 {format_s(summary.lag.quantiles['p99'])}): its machine or "
            "--max-in-flight held requests back. The wait is part of every latency here."
        )
    if not summary.is_counted:
        found.append("The server does not count tokens: pieces were counted, and a piece may hold several tokens.")
    return "".join(f'<p class="warn">{html.escape(text)}</p>' for text in found)


def _latency_table(summary: Summary) -> str:
    names = list(summary.e2e.quantiles or summary.lag.quantiles)
    head = "".join(f"<th>{name}</th>" for name in ("", "count", "mean", *names, "max", "what"))
    rows = []
    for label, field_name, meaning in LATENCIES:
        value = getattr(summary, field_name)
        if value.count:
            cells = (value.mean, *value.quantiles.values(), value.high)
            numbers = "".join(f"<td>{format_s(cell)}</td>" for cell in cells)
            rows.append(f'<tr><td>{label}</td><td>{value.count}</td>{numbers}<td class="text">{meaning}</td></tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _failures(summary: Summary) -> str:
    if not summary.failures:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(kind)}</td><td>{count}</td>"
        f'<td class="text">{html.escape(summary.examples[kind])}</td></tr>'
        for kind, count in summary.failures.items()
    )
    head = "<tr><th>kind</th><th>requests</th><th>one of the messages</th></tr>"
    return f"<h2>Failures</h2><table><thead>{head}</thead><tbody>{rows}</tbody></table>"


_SECONDS = svg.Axis(title="seconds from the start", low=0.0)


def _over_time(summary: Summary, records: Sequence[Record]) -> str:
    """Each request's first token, at its due time: a stall of the server is a ramp of dots here."""
    step = max(1, len(records) // MAX_DOTS)
    dots = [(record.due_s, record.ttft_s) for record in records[::step] if record.is_ok]
    failed = [(record.due_s, record.e2e_s) for record in records if not record.is_ok][:MAX_DOTS]
    p99 = [(b.at_s + summary.bucket_s / 2, b.ttft_p99_s) for b in summary.series if b.ttft_p99_s is not None]
    lines = [
        svg.Line(label="a request", points=dots, style="a", is_dots=True),
        svg.Line(label=f"p99 of {summary.bucket_s:g} s", points=p99, style="b"),
        svg.Line(label="failed after", points=failed, style="e", is_dots=True),
    ]
    y = svg.Axis(title="TTFT", write=format_s, is_log=True)
    return svg.chart("Time to first token, by due time", lines, _SECONDS, y)


def _latency_curve(records: Sequence[Record]) -> str:
    """The whole distributions: which share of the values is at most this long."""
    ok = [record for record in records if record.is_ok]
    values = {
        ("TTFT", "a"): sorted(record.ttft_s for record in ok),
        ("ITL", "c"): sorted(gap for record in ok for gap in record.gaps()),
        ("E2E", "d"): sorted(record.e2e_s for record in ok),
    }
    lines = [
        svg.Line(label=label, style=style, points=_curve(ordered))
        for (label, style), ordered in values.items()
        if ordered
    ]
    x = svg.Axis(title="latency", write=format_s, is_log=True)
    y = svg.Axis(title="share of the values", write="{:.0%}".format, low=0.0)
    return svg.chart("Distributions", lines, x, y)


def _curve(ordered: Sequence[float]) -> list[svg.Point]:
    count = min(MAX_CURVE_POINTS, len(ordered))
    shares = [(i + 1) / count for i in range(count)]
    return [(max(percentile(ordered, share), 1e-4), share) for share in shares]


def _throughput(summary: Summary) -> str:
    points = [(b.at_s, b.tokens / summary.bucket_s) for b in summary.series]
    what = "output tokens/s" if summary.is_counted else "pieces/s"
    lines = [svg.Line(label=what, points=points, style="c", is_step=True)]
    return svg.chart("Throughput", lines, _SECONDS, svg.Axis(title=what, low=0.0))


def _in_flight(summary: Summary) -> str:
    lines = [svg.Line(label="open", points=[(b.at_s, b.in_flight) for b in summary.series], style="d", is_step=True)]
    return svg.chart("Requests open", lines, _SECONDS, svg.Axis(title="requests", low=0.0))


def _requests(summary: Summary) -> str:
    width = summary.bucket_s
    lines = [
        svg.Line(label="due", points=[(b.at_s, b.due / width) for b in summary.series], style="a", is_step=True),
        svg.Line(label="answered", points=[(b.at_s, b.done / width) for b in summary.series], style="c", is_step=True),
    ]
    if summary.failures:
        points = [(b.at_s, b.failed / width) for b in summary.series]
        lines.append(svg.Line(label="failed", points=points, style="e", is_step=True))
    return svg.chart("Requests due and answered", lines, _SECONDS, svg.Axis(title="requests/s", low=0.0))


def _lag(records: Sequence[Record]) -> str:
    step = max(1, len(records) // MAX_DOTS)
    dots = [(record.due_s, max(record.lag_s, 1e-6)) for record in records[::step]]
    lines = [svg.Line(label="a request", points=dots, style="a", is_dots=True)]
    y = svg.Axis(title="sent after due", write=format_s, is_log=True)
    return svg.chart("How late the client was", lines, _SECONDS, y)
