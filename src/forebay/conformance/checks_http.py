"""HTTP itself, where clients of the protocol lean on it."""

from __future__ import annotations

import json

from forebay.conformance.answers import document, named, ok, outputs_of
from forebay.conformance.check import Got, Level, Sent, Skip, Steps, check, expect
from forebay.conformance.sources import OIP, REQUIRED, RFC3986, RFC8259, RFC9110, RFC9112
from forebay.conformance.subject import ABSENT, JSON_TYPE, Subject, infer_path
from forebay.conformance.tensors import same

ALLOW = "The origin server MUST generate an Allow header field in a 405 response"
METHOD = (
    "The 405 (Method Not Allowed) status code indicates that the method [...] is known by the origin server but not "
    "supported"
)


def _served(got: Got, subject: Subject) -> None:
    """Raises `Violation` unless it is the answer to the plain request."""
    found = named(outputs_of(got))
    for name, tensor in subject.needs_baseline().items():
        expect(name in found, f"output {name}", sorted(found))
        expect(not subject.deterministic or same(found[name], tensor), f"{name} as in a plain request")


@check("http.head", Level.SHOULD, "All general-purpose servers MUST support the methods GET and HEAD.", RFC9110)
def head(subject: Subject) -> Steps:
    """HEAD of a health endpoint is answered as GET, without a body"""
    got = yield Sent("HEAD", "/v2/health/live")
    ok(got)
    expect(not got.body, "no body")
    return None


@check("http.get_infer", Level.MUST, "An inference request is made with an HTTP POST to an inference endpoint.", OIP)
def get_infer(subject: Subject) -> Steps:
    """GET of the inference endpoint is a client's mistake: 4xx"""
    got = yield Sent("GET", infer_path(subject.model))
    expect(400 <= got.status < 500, "a 4xx status")
    return None


@check("http.method", Level.SHOULD, METHOD, RFC9110)
def method(subject: Subject) -> Steps:
    """A known path with another method is answered with 405"""
    got = yield Sent("GET", infer_path(subject.model))
    expect(got.status == 405, "status 405")
    return None


@check("http.allow", Level.MUST, ALLOW, RFC9110)
def allow(subject: Subject) -> Steps:
    """A 405 says in Allow what is allowed"""
    wrong = (("GET", infer_path(subject.model), "POST"), ("DELETE", "/v2/health/live", "GET"), ("POST", "/v2", "GET"))
    seen = 0
    for verb, path, allowed in wrong:
        got = yield Sent(verb, path)
        if got.status == 405:
            seen += 1
            expect(allowed in (got.header("Allow") or ""), f"Allow: {allowed} for {verb} {path}", got.header("Allow"))
    if not seen:
        raise Skip("it never answers 405")
    return f"{seen} of 3 answered with 405"


@check(
    "http.unknown_path",
    Level.MUST,
    "404 (Not Found) [...] did not find a current representation for the target resource",
    RFC9110,
)
def unknown_path(subject: Subject) -> Steps:
    """An unknown path is a client's mistake: 4xx"""
    got = yield Sent("GET", f"/v2/{ABSENT}")
    expect(400 <= got.status < 500, "a 4xx status")
    return None


KEEP = "HTTP implementations SHOULD support persistent connections."


@check("http.keep_alive", Level.SHOULD, KEEP, RFC9112)
def keep_alive(subject: Subject) -> Steps:
    """A connection serves several requests, refused ones among them"""
    subject.needs_inputs()
    yield Sent("GET", "/v2/health/live")
    for sent in (subject.infer(), subject.infer(model=ABSENT), Sent("GET", f"/v2/models/{ABSENT}"), subject.infer()):
        got = yield sent
        expect(got.reused, f"{sent.method} {sent.path} on the same connection", "a new connection was needed")
    return None


CLOSE = (
    'A server that receives a "close" connection option MUST initiate closure of the connection (see below) after it '
    'sends the final response to the request that contained the "close" connection option.'
)


@check("http.close", Level.MUST, CLOSE, RFC9112)
def close(subject: Subject) -> Steps:
    """Connection: close is done"""
    got = yield Sent("GET", "/v2/health/live", (("Connection", "close"),))
    ok(got)
    expect(got.closed is True, "the connection to be closed", "it stays open")
    return None


HOST = (
    "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a Host "
    "header field"
)


@check("http.host", Level.MUST, HOST, RFC9112)
def host(subject: Subject) -> Steps:
    """A request without Host is answered with 400"""
    got = yield Sent("GET", "/v2/health/live", host=False)
    expect(got.status == 400, "status 400")
    return None


CHUNKED = "A recipient MUST be able to parse and decode the chunked transfer coding."


@check("http.chunked", Level.MUST, CHUNKED, RFC9112)
def chunked(subject: Subject) -> Steps:
    """A body in chunks is read"""
    subject.needs_baseline()
    plain = subject.infer()
    _served((yield Sent("POST", plain.path, plain.headers, plain.body, chunked=True)), subject)
    return None


@check(
    "http.charset",
    Level.SHOULD,
    'No "charset" parameter is defined for this registration. Adding one really has no effect on compliant recipients.',
    RFC8259,
)
def charset(subject: Subject) -> Steps:
    """application/json; charset=utf-8 is as good as application/json"""
    subject.needs_baseline()
    body = json.dumps(subject.body()).encode()
    kind = ("Content-Type", "application/json; charset=utf-8")
    _served((yield Sent("POST", infer_path(subject.model), (kind,), body)), subject)
    return None


@check(
    "http.no_content_type",
    Level.OBSERVE,
    "If a Content-Type header field is not present, the recipient MAY [...] examine the data to determine its type.",
    RFC9110,
)
def no_content_type(subject: Subject) -> Steps:
    """What a request without Content-Type does"""
    subject.needs_baseline()
    plain = subject.infer()
    got = yield Sent("POST", plain.path, (), plain.body)
    return "served" if got.status == 200 else got.show()


@check(
    "http.expect",
    Level.SHOULD,
    "A server [...] MUST send either the 100 (Continue) [...] or a final status code",
    RFC9110,
)
def expect_continue(subject: Subject) -> Steps:
    """Expect: 100-continue ends in the answer"""
    subject.needs_baseline()
    plain = subject.infer()
    _served((yield Sent("POST", plain.path, (JSON_TYPE, ("Expect", "100-continue")), plain.body)), subject)
    return None


@check(
    "http.percent",
    Level.SHOULD,
    "URIs that differ in the replacement of an unreserved character with its corresponding percent-encoded US-"
    "ASCII octet are equivalent",
    RFC3986,
)
def percent(subject: Subject) -> Steps:
    """The model's name may be percent-encoded"""
    encoded = "".join(f"%{byte:02X}" for byte in subject.model[:1].encode()) + subject.model[1:]
    found = document((yield Sent("GET", f"/v2/models/{encoded}")))
    expect(found.get("name") == subject.model, f"name {subject.model!r}", found.get("name"))
    return None


@check("http.length", Level.MUST, "The HTTP Content-Length header gives the size of the JSON object.", REQUIRED)
def length(subject: Subject) -> Steps:
    """Content-Length, where given, is the size of the body"""
    subject.needs_inputs()
    got = yield subject.infer()
    expect(not got.failure, "a whole answer")
    value = got.header("Content-Length")
    if value is None:
        raise Skip("the answer is sent in chunks")
    expect(value == str(len(got.body)), f"Content-Length {len(got.body)}", value)
    return None


@check(
    "http.compressed",
    Level.OBSERVE,
    "A server MAY send a response with content coding that the client accepts",
    RFC9110,
)
def compressed(subject: Subject) -> Steps:
    """Whether answers are compressed for a client that accepts gzip"""
    got = yield subject.infer(headers=[("Accept-Encoding", "gzip")])
    return f"Content-Encoding: {got.header('Content-Encoding') or 'none'}"


CHECKS = (
    *(head, get_infer, method, allow, unknown_path, keep_alive, close, host, chunked, charset, no_content_type),
    *(expect_continue, percent, length, compressed),
)
