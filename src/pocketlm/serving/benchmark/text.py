"""The benchmark's result as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WAYS = {"constrained": "with constraints", "prompt_only": "prompt only"}

RATES = {
    "schema_valid": "fits the schema",
    "schema_valid_as_is": "  as it stands",
    "executable_call": "call can be executed",
    "executable_call_as_is": "  as it stands",
    "fields_right": "fields right",
    "extraction_success": "extraction right",
    "tool_call_success": "tool call right",
    "task_success": "task success",
}
AMOUNTS = {
    "latency_p50": "latency p50",
    "latency_p95": "latency p95",
    "first_token_p50": "first token p50",
    "first_token_p95": "first token p95",
    "tokens_per_second": "tokens/s, all streams",
    "tokens_per_second_of_a_stream": "tokens/s of a stream",
    "completion_tokens": "tokens of an answer",
    "prompt_tokens": "tokens of a prompt",
    "energy_per_success": "energy per success",
    "cost_per_success": "cost per success",
}
COMPARED = {
    "schema_valid": "fits the schema",
    "executable_call": "call can be executed",
    "task_success": "task success",
}
NAMES = {"extraction": "response_format", "tool_call": "tool_choice"}
WIDE, COLUMN = 24, 36
FAULTS = 3
"""How many different faults are printed; the file has all."""


def both_ways_lines(content: Mapping[str, Any]) -> list[str]:
    """One model, both ways: what was asked, whether constraints act, figures, comparison."""
    lines = [_header(content), *_support(content["support"]), ""]
    lines.append(f"{'':{WIDE}}{WAYS['constrained']:{COLUMN}}{WAYS['prompt_only']}")
    found = [content["ways"][way]["figures"] for way in WAYS]
    reasons = list(dict.fromkeys(figure["why"] for figures in found for figure in figures.values() if "why" in figure))
    for names, shown in ((RATES, _rate), (AMOUNTS, _amount)):
        for name, label in names.items():
            cells = [
                shown(figures[name])
                if "why" not in figures[name]
                else f"none ({reasons.index(figures[name]['why']) + 1})"
                for figures in found
            ]
            lines.append(f"{label:{WIDE}}{cells[0]:{COLUMN}}{cells[1]}")
    lines += [f"({number}) {reason}" for number, reason in enumerate(reasons, start=1)]
    for way, label in WAYS.items():
        for fault, times in list(content["ways"][way]["faults"].items())[:FAULTS]:
            lines.append(f"failed, {label}: {times} x {fault}")
    return [*lines, *_comparison(content["comparison"])]


def _comparison(compared: Mapping[str, Any]) -> list[str]:
    if not compared:
        return []
    lines = ["", "with constraints less prompt only, on the same tasks (p: McNemar's, adjusted for the three by Holm):"]
    for name, label in COMPARED.items():
        if name in compared:
            lines.append(f"{label:{WIDE}}{_points(compared[name])}, p = {compared[name]['p_adjusted']:.2g}")
    if ratio := compared.get("latency_ratio"):
        bounds = f"[{ratio['low']:.2f}, {ratio['high']:.2f}]"
        lines.append(f"{'latency, ratio':{WIDE}}{ratio['value']:.2f} {bounds} n={ratio['n']}")
    return lines


def curve_lines(content: Mapping[str, Any]) -> list[str]:
    """Two models: the curve at some shares, the areas, the chosen threshold."""
    router = content["router"]
    small, large = content["endpoint"]["model"], router["endpoint"]["model"]
    lines = [_header(content), f"larger model: {large} at {router['endpoint']['url']}"]
    lines += [
        f"confidence: {router['measure']['name']}; unknown for {router['without_confidence']} of {router['n']} tasks",
        "",
    ]
    lines.append(f"{'routed':>8}  {'threshold':>10}  {'success':26}{'s per task':>10}  cost per task")
    for at in _some(router["curve"]):
        cost = at["cost_per_task"]["value"]
        lines.append(
            f"{100 * at['routed']['value']:6.1f} %  {at['threshold']:10.4g}  {_rate(at['success'], False):26}"
            f"{at['seconds_per_task']['value']:10.3g}  {'unknown' if cost is None else f'{cost:.3g}'}"
        )
    area = router["areas"]
    lines += ["", f"area under the curve: {_plain(area['router'])}; lots {_plain(area['lots'])}"]
    lines.append(f"router less lots: {_plain(area['router_less_lots'])}")
    chosen = router["chosen"]
    if "threshold" not in chosen:
        return [*lines, f"no threshold was chosen: {chosen['why']}"]
    report = chosen["report"]
    lines += [
        "",
        f"threshold {chosen['threshold']:.4g}, chosen on {chosen['selection']['success']['n']} tasks (at most "
        f"{100 * chosen['most_routed']:.0f} % routed); on the {report['success']['n']} others:",
        f"  routed      {_rate(report['routed'])}",
        f"  router      {_rate(report['success'])}",
        f"  {small} alone: {_rate(report['small'])}; router {_points(report['router_less_small'])}",
        f"  {large} alone: {_rate(report['large'])}; router {_points(report['router_less_large'])}",
        f"  lots for the same share: {100 * report['lots']['value']:.1f} %",
    ]
    return lines


def _header(content: Mapping[str, Any]) -> str:
    endpoint, tasks = content["endpoint"], content["task_set"]
    streams = f"{content['streams']} stream{'s' if content['streams'] > 1 else ''}"
    return (
        f"{endpoint['model']} at {endpoint['url']}, {streams}, "
        f"{tasks['n']} tasks (set {tasks['version']}, {tasks['digest'][:12]})"
    )


def _support(support: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [
        f"{label}: {support[kind]['state']}{': ' + support[kind]['message'] if support[kind]['message'] else ''}"
        for kind, label in NAMES.items()
    ]


def _rate(figure: Mapping[str, Any], counted: bool = True) -> str:
    bounds = f"[{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
    return f"{100 * figure['value']:.1f} % {bounds}" + (f" n={figure['n']}" if counted else "")


def _amount(figure: Mapping[str, Any]) -> str:
    low, high = (f"{figure[end]:.3g}" if end in figure else "?" for end in ("low", "high"))
    unit = f" {figure['unit']}" if figure.get("unit") in ("s", "J") else ""
    return f"{figure['value']:.3g}{unit} [{low}, {high}] n={figure['n']}"


def _points(figure: Mapping[str, Any]) -> str:
    bounds = f"[{100 * figure['low']:+.1f}, {100 * figure['high']:+.1f}]"
    return f"{100 * figure['value']:+.1f} points {bounds} n={figure['n']}"


def _plain(figure: Mapping[str, Any]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _some(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ends and about ten places between; the file has all."""
    step = max(1, (len(curve) - 1) // 10)
    return [*curve[:-1][::step], curve[-1]]
