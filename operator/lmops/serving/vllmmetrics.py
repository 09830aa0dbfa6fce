"""What vLLM tells Prometheus (names as of 0.32), under the names that our own server has for the same."""

from __future__ import annotations

from lmops.plan import Manifest

LATENCY, WRITTEN, HTTP = "vllm:e2e_request_latency_seconds", "vllm:generation_tokens_total", "http_requests_total"
ANSWERED = f"{HTTP};/v1/.+;([45]xx)"
"""Requests that were answered with an error: those of its own histograms all have come to an end."""
RENAMED = {
    f"{LATENCY}_(.+)": "gen_ai_server_request_duration_seconds_$1",
    "vllm:time_to_first_token_seconds_(.+)": "gen_ai_server_time_to_first_token_seconds_$1",
    "vllm:request_time_per_output_token_seconds_(.+)": "gen_ai_server_time_per_output_token_seconds_$1",
    "vllm:request_(?:prompt|generation)_tokens_(.+)": "gen_ai_client_token_usage_$1",
    "vllm:num_requests_waiting": "lmops_inputs_waiting",
    "vllm:num_requests_(?:running|waiting_by_reason)": "lmops_inputs_working",  # their sum is all that is taken on
}


def relabelings() -> list[Manifest]:
    """The rules of a PodMonitor by which alerts and dashboards are the same for both."""
    answered = ("__name__", "handler", "status")
    return [
        _rule("error_type", "$1", ANSWERED, answered),
        _rule("__name__", "gen_ai_server_request_duration_seconds_count", ANSWERED, answered),
        _rule("gen_ai_token_type", "input", "vllm:request_prompt_tokens_.+"),
        _rule("gen_ai_token_type", "output", "vllm:request_generation_tokens_.+"),
        *(_rule("__name__", name, known) for known, name in RENAMED.items()),
    ]


def _rule(label: str, value: str, known: str, sources: tuple[str, ...] = ("__name__",)) -> Manifest:
    """Gives a label this value where the sources, put together by `;`, are what is known."""
    return {"sourceLabels": list(sources), "regex": known, "targetLabel": label, "replacement": value}
