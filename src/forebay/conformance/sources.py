"""The documents that the checks quote, each pinned to the text that was read."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """A document: a short title for tables, and where it stands."""

    title: str
    url: str


_OIP = "https://github.com/kserve/open-inference-protocol/blob/7ef512b1f1715ac163091a14fb68990d2f7afa41/specification"
_KSERVE = "https://github.com/kserve/kserve/blob/00c994162ae1acdeca5738971f5aed08f3cdbbfc/docs/predict-api/v2"
_TRITON = "https://github.com/triton-inference-server/server/blob/main/docs/protocol"

OIP = Source("OIP inference_rest.md", f"{_OIP}/protocol/inference_rest.md")
OIP_YAML = Source("OIP open_inference_rest.yaml", f"{_OIP}/protocol/open_inference_rest.yaml")
REQUIRED = Source("KServe required_api.md", f"{_KSERVE}/required_api.md")
BINARY = Source("Triton extension_binary_data.md", f"{_TRITON}/extension_binary_data.md")
CLASSIFICATION = Source("Triton extension_classification.md", f"{_TRITON}/extension_classification.md")
CONFIGURATION = Source("Triton extension_model_configuration.md", f"{_TRITON}/extension_model_configuration.md")
GENERATE = Source("Triton extension_generate.md", f"{_TRITON}/extension_generate.md")
LOGGING = Source("Triton extension_logging.md", f"{_TRITON}/extension_logging.md")
PARAMETERS = Source("Triton extension_parameters.md", f"{_TRITON}/extension_parameters.md")
REPOSITORY = Source("Triton extension_model_repository.md", f"{_TRITON}/extension_model_repository.md")
SCHEDULE = Source("Triton extension_schedule_policy.md", f"{_TRITON}/extension_schedule_policy.md")
STATISTICS = Source("Triton extension_statistics.md", f"{_TRITON}/extension_statistics.md")
TRACE = Source("Triton extension_trace.md", f"{_TRITON}/extension_trace.md")
SHARED_MEMORY = Source("Triton extension_shared_memory.md", f"{_TRITON}/extension_shared_memory.md")
RFC3986 = Source("RFC 3986", "https://www.rfc-editor.org/rfc/rfc3986")
RFC8259 = Source("RFC 8259", "https://www.rfc-editor.org/rfc/rfc8259")
RFC9110 = Source("RFC 9110", "https://www.rfc-editor.org/rfc/rfc9110")
RFC9112 = Source("RFC 9112", "https://www.rfc-editor.org/rfc/rfc9112")
