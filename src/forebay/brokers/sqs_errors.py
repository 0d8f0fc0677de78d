"""What goes wrong with an SQS, in words that name the mend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from botocore import exceptions as aws

from forebay.brokers.sqs_url import SqsAddress
from forebay.core.errors import DependencyError, SetupError

FAILURES = (aws.BotoCoreError, aws.ClientError, OSError, TimeoutError)
"""What aiobotocore raises where SQS, the way there, or who we are is at fault."""
ACTIONS: Final = (
    "sqs:GetQueueUrl",
    "sqs:GetQueueAttributes",
    "sqs:SendMessage",
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
)
"""What an identity must be allowed; `CREATE` too, unless somebody else makes the queues."""
CREATE: Final = "sqs:CreateQueue"

_UNKNOWN: Final = frozenset(
    {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
    | {"InvalidSecurity", "AuthFailure", "IncompleteSignature", "MissingAuthenticationToken"}
)
_PAST: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeTooSkewed"})
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation"})
_XML: Final = re.compile(r"<Code>(?P<code>.*?)</Code>\s*<Message>(?P<message>.*?)</Message>", re.DOTALL)
_MISSING: Final = frozenset({"QueueDoesNotExist", "NonExistentQueue"})
_WITHOUT_CREDENTIALS: Final = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.UnauthorizedSSOTokenError,
    aws.SSOTokenLoadError,
    aws.TokenRetrievalError,
)


def unavailable(words: str, address: SqsAddress) -> DependencyError:
    """The broker cannot be used now."""
    return DependencyError(f"SQS at {address.place}: {words}", code="broker_unavailable")


def failure(error: BaseException, address: SqsAddress) -> DependencyError:
    """The error that callers get."""
    return unavailable(setup_words(error, address) or _words(error), address)


def setup_failure(error: BaseException, address: SqsAddress) -> SetupError | None:
    """What an operator has to mend before anything works; None: it may pass by itself."""
    words = setup_words(error, address)
    return None if words is None else SetupError(f"SQS at {address.place}: {words}")


def code_of(error: BaseException) -> str:
    """The code of an answer that refuses, without what older ones begin with; empty: it is none."""
    return _told(error)[0].rpartition(".")[2]


def is_missing(error: BaseException) -> bool:
    """There is no such queue."""
    return code_of(error) in _MISSING


def is_too_large(entry: Mapping[str, Any]) -> bool:
    """Whether one of several messages is refused for its size."""
    return entry.get("Code") == "InvalidParameterValue" and "shorter than" in str(entry.get("Message", ""))


def is_away(error: BaseException) -> bool:
    """Whether nobody's next call will fare better; else it is this call that failed."""
    if isinstance(error, aws.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(status) >= 500 or code_of(error) in _UNKNOWN | _PAST
    return not isinstance(error, aws.ParamValidationError)


def setup_words(error: BaseException, address: SqsAddress) -> str | None:
    """For what does not pass by itself."""
    code = code_of(error)
    if isinstance(error, SetupError):
        return error.message
    if isinstance(error, aws.NoRegionError):
        return "no region is named: write it in the URL (sqs://eu-west-1/), or set AWS_REGION"
    if isinstance(error, _WITHOUT_CREDENTIALS):
        return (
            f"there are no credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile "
            "(AWS_PROFILE, or ?profile= in the URL), or give the machine or pod a role"
        )
    if code in _UNKNOWN:
        return f"it does not know these credentials ({_reason(error)}); mend AWS_ACCESS_KEY_ID or the profile"
    if code in _PAST:
        return f"the credentials have expired, or this machine's clock is wrong ({_reason(error)})"
    if code in _DENIED:
        return (
            f"a permission is missing ({_reason(error)}); allow {', '.join(ACTIONS)} and {CREATE} on queues "
            f"{address.prefix}-* (docs/sqs.md has the policy)"
        )
    if code.startswith("Kms") and code != "KmsThrottled":
        return (
            f"the key of an encrypted queue cannot be used ({_reason(error)}); allow kms:GenerateDataKey, kms:Decrypt"
        )
    if code in _MISSING and not address.create:
        return f"a queue is missing ({_reason(error)}) and create=no: make it (docs/sqs.md names them all)"
    if isinstance(error, aws.InvalidRegionError | aws.UnknownRegionError):
        return f"there is no region {address.region!r}"
    return None


def _words(error: BaseException) -> str:
    code = code_of(error)
    if isinstance(error, TimeoutError | aws.ConnectTimeoutError | aws.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, aws.SSLError):
        return f"its certificate cannot be trusted ({error}); AWS_CA_BUNDLE names a file with others"
    if isinstance(error, aws.HTTPClientError | aws.ConnectionError | OSError):
        return "cannot be reached, or the connection broke"
    if code in _MISSING:
        return f"there is no such queue ({_reason(error)})"
    if code == "QueueDeletedRecently":
        return "a queue was deleted, and SQS makes none of its name within a minute of that; it is tried again"
    return _reason(error)


def _reason(error: BaseException) -> str:
    if isinstance(error, aws.ClientError):
        return f"{error.operation_name}: {code_of(error) or 'refused'}: {_told(error)[1]}".rstrip(": ")
    return f"{type(error).__name__}: {error}"


def _told(error: BaseException) -> tuple[str, str]:
    """Code and message of an answer that refuses."""
    if not isinstance(error, aws.ClientError):
        return "", ""
    told = error.response.get("Error", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", ""))
    # What stands in for SQS, or before it, may refuse in XML, which is not read where JSON was asked for.
    if in_xml := _XML.search(message):
        return in_xml["code"], in_xml["message"]
    return code, message
