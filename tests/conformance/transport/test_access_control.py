"""Tests on a broker with access control lists: the documented rights suffice, and each of them is needed and named."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from config import KafkaSettings, load
from devstack.kafka.access import Access
from devstack.kafka.broker import KafkaBroker
from pipeline.backoff import Backoff
from pipeline.consuming.handler import JobContext, JobRun, Outcome
from pipeline.consuming.retry import RetryPolicy
from pipeline.consuming.worker_process import HealthAddress, WorkerProcess
from pipeline.errors import ErrorCode, PipelineError, RefusedError
from pipeline.messages import SeparationTask
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.topics import Topics
from pipeline.transport.kafka.security import KafkaSecurity
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Message, Right, Topic
from settings.kafka import SecurityProtocol
from tests.conformance.transport import backends
from tests.support.servers import require

pytestmark = backends.NEEDS_KAFKA

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "how-to" / "secure-broker.md"
SERVERS = "broker-1:9093,broker-2:9093"
TOPICS = Topics.from_settings(load(None, {}))
PROCESSORS, UPLOADERS = "uvr_processors", "uvr_uploaders"
PASSWORD = "the-password-of-everyone"
STRANGER = "stranger"
#: Patience for the broker and its clients, s.
TIMEOUT = 45.0


def documented_commands() -> Iterator[list[str]]:
    """Yield the arguments of each kafka-acls command on the page."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("kafka-acls "):
            yield shlex.split(line)[1:]


def documented_rights() -> Iterator[ACL]:
    """Yield the access control lists that the commands of the page create."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--add", action="store_true", required=True)
    for option in ("--bootstrap-server", "--command-config", "--allow-principal"):
        parser.add_argument(option, required=True)
    for option in ("--operation", "--topic", "--group"):
        parser.add_argument(option, action="append", default=[])
    for command in documented_commands():
        options = parser.parse_args(command)
        patterns = [ResourcePattern(ResourceType.TOPIC, name) for name in options.topic]
        patterns += [ResourcePattern(ResourceType.GROUP, name) for name in options.group]
        for pattern in patterns:
            for operation in options.operation:
                name = "".join(f"_{sign}" if sign.isupper() else sign for sign in operation).strip("_").upper()
                yield right(options.allow_principal, ACLOperation[name], pattern)


def _reconcile(transport: KafkaTransport, topic: Topic) -> Callable[[], str]:
    return lambda: transport.reconcile_topic(topic, align=True)


def right(principal: str, operation: ACLOperation, pattern: ResourcePattern) -> ACL:
    return ACL(principal, "*", operation, ACLPermissionType.ALLOW, pattern)


RIGHTS = tuple(documented_rights())
USERS = ("uvr-topics", "uvr-api", "uvr-processor", "uvr-uploader", "uvr-dead-letters")


@pytest.fixture(scope="module")
def broker(tools_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """Yield a broker with the rights of the page, and the topics that the user for this purpose has created."""
    access = Access(None, ("PLAIN",), dict.fromkeys((*USERS, STRANGER), PASSWORD), has_acls=True)
    broker = KafkaBroker(tools_dir, tmp_path_factory.mktemp("kafka"), access=access)
    require(broker.start)
    with broker.admin() as admin:
        assert not admin.create_acls(list(RIGHTS))["failed"]
    creator = connected(broker, "uvr-topics")
    for topic in TOPICS.to_create():
        until(_reconcile(creator, topic))
    creator.close()
    yield broker
    broker.kill()  # its data are no longer needed


@pytest.fixture
def admin(broker: KafkaBroker) -> Iterator[KafkaAdminClient]:
    with broker.admin() as admin:
        yield admin


Connect = Callable[..., KafkaTransport]


@pytest.fixture
def connect(broker: KafkaBroker) -> Iterator[Connect]:
    """Yield a function that opens a connection of a user; it is closed after the test."""
    opened: list[KafkaTransport] = []

    def connect(user: str, **options: int) -> KafkaTransport:
        opened.append(connected(broker, user, **options))
        return opened[-1]

    yield connect
    for transport in opened:
        transport.close()


def connected(broker: KafkaBroker, user: str, partitions: int = 1) -> KafkaTransport:
    login: dict[str, Any] = {"sasl_mechanism": "PLAIN", "sasl_username": user, "sasl_password": PASSWORD}
    settings = KafkaSettings(security_protocol=SecurityProtocol.SASL_PLAINTEXT, **login)
    return KafkaTransport(
        broker.bootstrap_servers,
        publish_timeout=TIMEOUT,
        partitions=partitions,
        security=KafkaSecurity.from_settings(settings),
    )


def until(call: Callable[[], object], error: type[PipelineError] | None = None) -> PipelineError | None:
    """Repeat ``call`` until it raises ``error``, or no error if None: a changed right takes effect a moment later."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            call()
            raised = None
        except RefusedError as refusal:
            raised = refusal
        if type(raised) is (error or type(None)):
            return raised
        assert time.monotonic() < deadline, f"{raised!r}"
        time.sleep(0.02)


def assert_refused(call: Callable[[], object], user: str, *rights: str) -> None:
    """Assert that the broker refuses the call, and that the advice names the user and the rights."""
    error = until(call, RefusedError)
    assert isinstance(error, RefusedError)
    assert error.code is ErrorCode.BROKER_REFUSED
    assert f"the user '{user}' with PLAIN {', '.join(rights)}: " in error.advice
    assert "deploy.kafka_acls" in error.advice
    assert user not in error.message
    assert "uvr_" not in error.message
    assert PASSWORD not in error.advice


class TestPage:
    def test_commands_are_those_that_the_command_prints(self, tmp_path: Path) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "deploy.kafka_acls"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "KAFKA_BOOTSTRAP_SERVERS": SERVERS},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout in PAGE.read_text(encoding="utf-8")
        assert len(list(documented_commands())) == run.stdout.count("kafka-acls ")

    def test_users_are_those_of_the_commands(self) -> None:
        assert {acl.principal for acl in RIGHTS} == {f"User:{user}" for user in USERS}


class TestDocumentedRightsSuffice:
    """Every program does everything that it ever does with the broker."""

    def test_topics_are_created_extended_and_aligned(self, connect: Connect) -> None:
        creator = connect("uvr-topics", partitions=2)
        pulse = next(topic for topic in TOPICS.to_create() if topic.name == TOPICS.pulse)
        assert "partitions added" in creator.reconcile_topic(pulse, align=False)
        other = Topic(pulse.name, retention=7200)
        assert "--align changes it" in creator.reconcile_topic(other, align=False)
        assert "changed to 7200000" in creator.reconcile_topic(other, align=True)

    def test_a_job_travels_from_the_api_to_the_dead_letters_and_back(self, connect: Connect) -> None:
        api, processor, uploader = connect("uvr-api"), connect("uvr-processor"), connect("uvr-uploader")
        api.ensure_topics(TOPICS.used_by_api())
        processor.ensure_topics(TOPICS.used_by_worker(TOPICS.jobs))
        uploader.ensure_topics(TOPICS.used_by_worker([TOPICS.results]))
        for transport in (api, processor, uploader):
            transport.check()

        jobs = [Message(name, "k", b"job") for name in TOPICS.jobs]
        for job in jobs:
            api.publish_probed(job, probe=Message(TOPICS.pulse, "pulse", b""))
        api.emit(Message(TOPICS.events, "k", b"queued"))

        outputs = [
            Message(name, "k", b"job") for name in (*TOPICS.retry_names, TOPICS.events, TOPICS.results, *TOPICS.jobs)
        ]
        worked_off = processor.subscribe((*TOPICS.jobs, *TOPICS.retry_names), PROCESSORS)
        first = worked_off.receive(TIMEOUT)
        assert first is not None
        worked_off.release(first, count_attempt=False)
        for n in range(len(jobs)):
            delivery = worked_off.receive(TIMEOUT)
            assert delivery is not None
            worked_off.settle(delivery, *(outputs if n == 0 else ()))
        worked_off.close()

        results = uploader.subscribe((TOPICS.results, *TOPICS.retry_names), UPLOADERS)
        for _ in range(1 + len(TOPICS.retry_names)):
            delivery = results.receive(TIMEOUT)
            assert delivery is not None
            others = (*TOPICS.retry_names, TOPICS.events, TOPICS.results, TOPICS.tasks[3], TOPICS.dead_letters)
            results.settle(delivery, *(Message(name, "k", b"again") for name in others))
        results.close()

        operator = connect("uvr-dead-letters")
        letters = [stored.message.value for stored in operator.browse(TOPICS.dead_letters)]
        assert letters == [b"again"] * (1 + len(TOPICS.retry_names))
        operator.publish(*(Message(name, "k", b"replay") for name in (*TOPICS.jobs, TOPICS.results)))
        operator.publish(Message(TOPICS.dead_letters, "k", b"replayed"))


def rights_of(user: str) -> Sequence[Topic]:
    return {
        "uvr-api": TOPICS.used_by_api(),
        "uvr-processor": TOPICS.used_by_worker(TOPICS.jobs),
        "uvr-uploader": TOPICS.used_by_worker([TOPICS.results]),
    }[user]


@pytest.mark.parametrize("user", ["uvr-api", "uvr-processor", "uvr-uploader"])
def test_every_documented_right_is_needed_and_named(user: str, connect: Connect, admin: KafkaAdminClient) -> None:
    transport = connect(user)
    topics = rights_of(user)
    granted = [
        acl
        for acl in RIGHTS
        if acl.principal == f"User:{user}" and acl.resource_pattern.resource_type is ResourceType.TOPIC
    ]
    # The list has no right that the program does not ask for.
    assert len(granted) == sum(len(topic.rights) for topic in topics)
    for acl in granted:
        admin.delete_acls([acl])
        missing = f"{acl.operation.name} on the topic {acl.resource_pattern.resource_name}"
        assert_refused(lambda: transport.ensure_topics(topics), user, missing)
        admin.create_acls([acl])
        until(lambda: transport.ensure_topics(topics))


class TestRefused:
    def test_all_missing_rights_are_named_at_once(self, connect: Connect) -> None:
        topics = [Topic(TOPICS.results, None, rights=frozenset(Right)), Topic(TOPICS.events, None)]
        missing = [f"READ on the topic {TOPICS.results}", f"WRITE on the topic {TOPICS.results}"]
        stranger = connect(STRANGER)
        assert_refused(
            lambda: stranger.ensure_topics(topics), STRANGER, *missing, f"DESCRIBE on the topic {TOPICS.events}"
        )

    def test_a_service_may_not_create_topics(self, connect: Connect, admin: KafkaAdminClient) -> None:
        admin.create_acls([right("User:uvr-api", ACLOperation.WRITE, ResourcePattern(ResourceType.TOPIC, "not-there"))])
        topic = Topic("not-there", 3600, rights=frozenset([Right.WRITE]))
        api = connect("uvr-api")
        # Until the right is in force, the broker refuses the client for another reason.
        until_advice(lambda: api.ensure_topics([topic]), "CREATE on the topic not-there, which does not exist")
        stranger = connect(STRANGER)
        assert_refused(
            lambda: stranger.reconcile_topic(Topic("not-there", 3600), align=False),
            STRANGER,
            "DESCRIBE on the topic not-there",
        )

    def test_topics_are_changed_only_by_who_may(self, connect: Connect) -> None:
        pulse = Topic(TOPICS.pulse, 999)
        api, wide = connect("uvr-api"), connect("uvr-api", partitions=50)
        assert_refused(
            lambda: wide.reconcile_topic(pulse, align=False), "uvr-api", f"ALTER on the topic {TOPICS.pulse}"
        )
        missing = [f"{operation} on the topic {TOPICS.pulse}" for operation in ("ALTER_CONFIGS", "DESCRIBE_CONFIGS")]
        assert_refused(lambda: api.reconcile_topic(pulse, align=False), "uvr-api", missing[1])
        assert_refused(lambda: api.reconcile_topic(pulse, align=True), "uvr-api", *missing)

    @pytest.mark.parametrize(
        ("user", "topic"), [("uvr-api", TOPICS.results), (STRANGER, TOPICS.results), ("uvr-uploader", TOPICS.bulk)]
    )
    def test_publishing(self, user: str, topic: str, connect: Connect) -> None:
        transport = connect(user)
        assert_refused(lambda: transport.publish(Message(topic, "k", b"forged")), user, f"WRITE on the topic {topic}")

    @pytest.mark.parametrize("user", [STRANGER, "uvr-api"])
    def test_reading_without_a_group(self, user: str, connect: Connect) -> None:
        transport = connect(user)
        topic = TOPICS.events if user == "uvr-api" else TOPICS.dead_letters
        if user == "uvr-api":  # may describe it
            transport.publish(Message(topic, "k", b"event"))
        assert_refused(lambda: list(transport.browse(topic)), user, f"READ on the topic {topic}")

    def test_joining_the_group_of_others(self, connect: Connect, admin: KafkaAdminClient) -> None:
        subscription = connect("uvr-uploader").subscribe([TOPICS.results], "uvr_others")
        assert_refused(lambda: subscription.receive(0.1), "uvr-uploader", "READ on the group uvr_others")
        assert "uvr_others" not in groups(admin)

    @pytest.mark.parametrize(
        ("user", "topic", "group"),
        [("uvr-uploader", TOPICS.tasks[3], UPLOADERS), ("uvr-processor", TOPICS.pulse, PROCESSORS)],
        ids=["that it may describe", "that it may not describe"],
    )
    def test_consuming_a_topic(self, user: str, topic: str, group: str, connect: Connect) -> None:
        subscription = connect(user).subscribe([topic], group)
        assert_refused(lambda: subscription.receive(0.1), user, f"READ on the topic {topic}")

    def test_a_member_whose_right_is_revoked(self, connect: Connect, admin: KafkaAdminClient) -> None:
        transport = connect("uvr-processor")
        subscription = transport.subscribe([TOPICS.bulk], PROCESSORS)
        connect("uvr-api").publish(Message(TOPICS.bulk, "k", b"before"))
        assert subscription.receive(TIMEOUT) is not None
        (revoked,) = [
            acl
            for acl in RIGHTS
            if acl.principal == "User:uvr-processor" and acl.resource_pattern.resource_type is ResourceType.GROUP
        ]
        admin.delete_acls([revoked])
        try:
            assert_refused(lambda: subscription.receive(0.1), "uvr-processor", f"READ on the group {PROCESSORS}")
        finally:
            admin.create_acls([revoked])


def until_advice(call: Callable[[], object], advice: str) -> None:
    """Repeat ``call`` until the refusal has this advice."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with pytest.raises(RefusedError) as raised:
            call()
        if advice in raised.value.advice:
            return
        time.sleep(0.02)
    pytest.fail(advice)


def groups(admin: KafkaAdminClient) -> set[str]:
    return {group["group_id"] for group in admin.list_groups()}


class NoJobs:
    """The handler of a worker that receives no job."""

    def begin(self, job: SeparationTask, context: JobContext) -> JobRun:
        raise AssertionError("the worker has joined its group")

    def on_failure(self, job: SeparationTask, error: PipelineError) -> Outcome:
        raise AssertionError("the worker has joined its group")


def test_a_worker_without_its_rights_does_not_join(connect: Connect, admin: KafkaAdminClient) -> None:
    # As the uploader, the worker could join this group and read the results. It could not write all of its outputs.
    worker = WorkerProcess(
        transport=connect("uvr-dead-letters"),
        topics=TOPICS,
        sources=[TOPICS.results],
        group="uvr_never",
        job=SeparationTask,
        handler=NoJobs(),
        policy=RetryPolicy(infrastructure=Backoff(base=0.01, cap=0.02)),
        concurrency=1,
        health=HealthAddress("127.0.0.1", 0, "PORT"),
        checks={},
    )
    with pytest.raises(RefusedError) as raised:
        worker.run(StopSignal(1.0))
    assert "uvr-dead-letters" in raised.value.advice
    assert f"WRITE on the topic {TOPICS.events}" in raised.value.advice
    assert "uvr_never" not in groups(admin)


def test_the_exit_status_of_a_program_that_is_refused(broker: KafkaBroker, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "deploy.make_topics"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(ROOT),
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": STRANGER,
            "KAFKA_SASL_PASSWORD": PASSWORD,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == ExitCode.REFUSED
    assert "DESCRIBE on the topic uvr_tasks_p1" in run.stderr
    assert PASSWORD not in run.stderr
