"""What an operator is told who has something to mend before an SQS can be used."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiobotocore.session import AioSession
from tests.contract.brokers.moto_servers import CREDENTIALS, REGION, MotoServer
from tests.contract.brokers.test_broker import PATIENCE_S, leased, messages, published

from forebay.brokers.sqs import Sqs
from forebay.brokers.sqs_errors import ACTIONS, CREATE
from forebay.core.errors import DependencyError, SetupError

USERS: dict[str, list[str]] = {"enough": [*ACTIONS, CREATE], "makes none": [*ACTIONS], "barred": ["sqs:ListQueues"]}
"""Who may do what."""
Keys = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[MotoServer, Keys]]:
    """A server that looks at who asks, and the keys of its users."""
    with MotoServer() as server:
        keys = asyncio.run(_users(server))
        server.ask("/moto-api/reset-auth", b"0")
        yield server, keys


async def _users(server: MotoServer) -> Keys:
    keys: Keys = {}
    async with AioSession().create_client("iam", region_name=REGION, endpoint_url=server.endpoint) as iam:
        for user, actions in USERS.items():
            name = user.replace(" ", "-")
            # moto asks for the names of calls, where AWS has one action for a call and its batch; and it takes a queue
            # that is not there for none of those that a policy names.
            calls = [*actions, *(f"{action}Batch" for action in actions if action in ACTIONS[2:])]
            allowed = {"Effect": "Allow", "Action": calls, "Resource": "*"}
            policy = {"Version": "2012-10-17", "Statement": [allowed]}
            await iam.create_user(UserName=name)
            await iam.put_user_policy(UserName=name, PolicyName="jobs", PolicyDocument=json.dumps(policy))
            made: Any = (await iam.create_access_key(UserName=name))["AccessKey"]
            keys[user] = made["AccessKeyId"], made["SecretAccessKey"]
    return keys


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Sqs]:
    broker = Sqs(url)
    try:
        yield broker
    finally:
        await broker.close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """There are no credentials, and there is no region."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    return monkeypatch


@pytest.mark.parametrize(
    ("user", "secret", "said"),
    [
        ("unknown", "s3cret", "it does not know these credentials"),
        ("enough", "wrong-s3cret", "it does not know these credentials"),
        ("barred", "", "a permission is missing (GetQueueUrl: AccessDenied"),
        ("makes none", "", "a permission is missing (CreateQueue: AccessDenied"),
    ],
)
async def test_who_may_not_is_told_what_to_allow(
    guarded: tuple[MotoServer, Keys], nobody: pytest.MonkeyPatch, user: str, secret: str, said: str
) -> None:
    server, keys = guarded
    key = keys.get(user, ("AKIANOBODY", ""))
    nobody.setenv("AWS_ACCESS_KEY_ID", key[0])
    nobody.setenv("AWS_SECRET_ACCESS_KEY", secret or key[1])
    async with connected(f"sqs://{REGION}/?poll=1&endpoint={server.endpoint}") as broker:
        with pytest.raises(SetupError) as caught:
            await broker.check()
        assert said in caught.value.message
        with pytest.raises(DependencyError) as refused:
            await broker.publish(messages(1))
        assert refused.value.code == "broker_unavailable"
        assert said in refused.value.message
        for told in (caught.value.message, refused.value.message):
            assert "s3cret" not in told
            assert key[1] not in told or not key[1]


async def test_an_identity_with_the_actions_that_are_documented_is_enough(
    guarded: tuple[MotoServer, Keys], nobody: pytest.MonkeyPatch
) -> None:
    server, keys = guarded
    url = f"sqs://{REGION}/?poll=1&endpoint={server.endpoint}"
    for user in ("enough", "makes none"):
        # The second uses the queues that the first has made.
        nobody.setenv("AWS_ACCESS_KEY_ID", keys[user][0])
        nobody.setenv("AWS_SECRET_ACCESS_KEY", keys[user][1])
        async with connected(url) as broker:
            assert await broker.check() == f"SQS ({server.endpoint}; queues forebay-*)"
            await published(broker, messages(3))
            held = await leased(broker, 3)
            await broker.extend(held, 100.0)
            await broker.release(held)
            await broker.ack(await leased(broker, 3))
            assert (await broker.depth("q")).waiting == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"sqs://{REGION}/", "there are no credentials"),
        (f"sqs://{REGION}/?profile=none", "The config profile (none) could not be found"),
        ("sqs:///", "no region is named: write it in the URL"),
    ],
)
async def test_what_is_not_set_is_said(nobody: pytest.MonkeyPatch, url: str, said: str) -> None:
    async with connected(url) as broker:
        with pytest.raises(SetupError) as caught:
            await broker.check()
        assert said in caught.value.message


async def test_a_region_that_is_not_there_is_said_with_those_that_are(nobody: pytest.MonkeyPatch) -> None:
    nobody.setenv("AWS_ACCESS_KEY_ID", "testing")
    nobody.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    async with connected("sqs://eu-nowhere-9/") as broker:
        with pytest.raises(SetupError, match=r"there is no region 'eu-nowhere-9'; there are .*eu-west-1"):
            await broker.check()


async def test_a_server_that_is_not_there_is_said_at_once() -> None:
    async with connected(f"sqs://{REGION}/?endpoint=http://127.0.0.1:1") as broker:
        with pytest.raises(DependencyError, match="cannot be reached") as caught:
            await broker.check()
        assert caught.value.code == "broker_unavailable"


async def test_credentials_that_are_mended_are_used_without_a_restart(nobody: pytest.MonkeyPatch) -> None:
    with MotoServer() as server:
        for name in CREDENTIALS:
            if name != "AWS_EC2_METADATA_DISABLED":
                nobody.delenv(name, raising=False)
        async with connected(f"sqs://{REGION}/?poll=1&endpoint={server.endpoint}") as broker:
            with pytest.raises(DependencyError, match="there are no credentials"):
                await broker.publish(())
            for name, value in CREDENTIALS.items():
                nobody.setenv(name, value)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with contextlib.suppress(DependencyError):
                        await broker.publish(())
                        break
                    await asyncio.sleep(0.05)
            await published(broker, messages(1))
