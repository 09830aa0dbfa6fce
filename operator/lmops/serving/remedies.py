"""What to do first about each alert of a service, in a sentence or two that a mail can hold."""

from __future__ import annotations

RETURN = "if that began with a rollout, model.digest brings back a model of status.history."

REMEDIES = {
    "LanguageModelServiceErrors": f"If it is 429, add replicas (scaling); a 5xx leaves its cause in the log; {RETURN}",
    "LanguageModelServiceSlow": "If inputs wait, add replicas (scaling); if none do, give each more cores "
    f"(resources.perNode.cpu) or let it write less (generation.maxNewTokens); {RETURN}",
    "LanguageModelServiceDown": "Do what status.failure says of its pods. If they are ready, Prometheus does not reach "
    "them: its page Targets has the error of the PodMonitor.",
    "LanguageModelServiceQueue": "Add replicas (scaling), or give each more cores (resources.perNode.cpu).",
    "LanguageModelServiceSaturated": "Add replicas (scaling); a larger limits.queue lets more wait, for longer.",
    "LanguageModelServiceMemory": "Raise resources.perNode.memory, or lower limits.queue or limits.inputTokens.",
    "LanguageModelServiceRestarts": f"Do what status.failure says of its last end; {RETURN}",
    "LanguageModelServiceNoTraffic": "Ask status.url from where its clients are: if it answers, look at them, "
    "else at the ingress, NetworkPolicies and DNS between.",
    "LanguageModelServiceDrift": "Read some of the inputs (requestLog): mend a client that sends what is wrong, "
    "train on what will stay, or raise the limit in monitoring.drift.",
}
"""The pages in docs/runbooks say more."""
