"""Tests of the guarantees of ``pipeline.transport.protocol``, in the order in which they are listed there."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace

import pytest

from pipeline.errors import CancelledError, ErrorCode, PermanentError
from pipeline.transport.protocol import MAX_HEADER_BYTES, MAX_VALUE_BYTES, Delivery, Message, Subscription
from tests.conformance.transport.backends import LONG_JOB, Backend

TIMEOUT = 30.0


def receive(subscription: Subscription) -> Delivery:
    """Return the next delivery; a rebalance or an expiring lease may delay it."""
    delivery = subscription.receive(TIMEOUT)
    assert delivery is not None, "no delivery"
    return delivery


def collect(subscription: Subscription, count: int) -> list[Delivery]:
    """Receive and settle ``count`` messages."""
    deliveries = []
    for _ in range(count):
        deliveries.append(receive(subscription))
        subscription.settle(deliveries[-1])
    return deliveries


def jobs(topic: str, *keys: str) -> list[Message]:
    return [Message(topic, key, f"{number}".encode()) for number, key in enumerate(keys)]


class TestOrder:
    def test_messages_with_one_key_keep_their_order(self, backend: Backend, topic: str, group: str) -> None:
        keys = [f"key-{number % 5}" for number in range(30)]
        backend.open().publish(*jobs(topic, *keys))

        seen = defaultdict(list)
        for delivery in collect(backend.open().subscribe([topic], group), 30):
            seen[delivery.message.key].append(int(delivery.message.value))

        assert sum(map(len, seen.values())) == 30
        assert all(numbers == sorted(numbers) for numbers in seen.values())

    def test_released_message_precedes_later_ones_with_its_key(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "k", "k"))
        subscription = backend.open().subscribe([topic], group)

        subscription.release(receive(subscription), count_attempt=False)

        assert [d.message.value for d in collect(subscription, 2)] == [b"0", b"1"]


class TestDurablePublish:
    def test_message_is_delivered_as_it_was_sent(self, backend: Backend, topic: str, group: str) -> None:
        sent = Message(topic, "schlüssel", b"\x00\xff\n", {"a": b"1", "b": b"\xff"})
        backend.open().publish(sent)

        delivery = receive(backend.open().subscribe([topic], group))

        assert delivery.message == sent
        assert delivery.attempt == 1

    def test_published_messages_survive_their_publisher(self, backend: Backend, topic: str, group: str) -> None:
        publisher = backend.open()
        publisher.publish(*jobs(topic, "a", "b"))
        publisher.close()

        assert {d.message.key for d in collect(backend.open().subscribe([topic], group), 2)} == {"a", "b"}

    def test_probed_publish_is_durable(self, backend: Backend, topic: str, group: str) -> None:
        sent = Message(topic, "k", b"song", {"h": b"1"})
        probe = Message(backend.topic("trials"), "pulse", b"")
        transport = backend.open()
        transport.publish_probed(probe=probe)  # as the API does before its first job
        transport.publish_probed(sent, probe=probe)
        assert receive(backend.open().subscribe([topic], group)).message == sent

    def test_report_is_delivered(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().emit(Message(topic, "k", b"50 %"))

        assert receive(backend.open().subscribe([topic], group)).message.value == b"50 %"


class TestSize:
    def test_largest_message_is_delivered(self, backend: Backend, topic: str, group: str) -> None:
        sent = Message(topic, "k", bytes(MAX_VALUE_BYTES), {"h": bytes(MAX_HEADER_BYTES - 100)})
        backend.open().publish(sent)

        assert receive(backend.open().subscribe([topic], group)).message == sent

    @pytest.mark.parametrize(
        "large",
        [
            Message("", "k", bytes(MAX_VALUE_BYTES + 1)),
            Message("", "k", b"", {"h": bytes(MAX_HEADER_BYTES)}),
            Message("", "k" * (MAX_HEADER_BYTES + 1), b""),
        ],
        ids=["value", "headers", "key"],
    )
    def test_too_large_message_is_refused_with_its_whole_batch(
        self, backend: Backend, topic: str, group: str, large: Message
    ) -> None:
        transport = backend.open()
        with pytest.raises(PermanentError) as refused:
            transport.publish(Message(topic, "k", b"along"), replace(large, topic=topic))
        transport.emit(replace(large, topic=topic))  # the report is lost
        transport.publish(Message(topic, "k", b"later"))

        assert refused.value.code is ErrorCode.MESSAGE_TOO_LARGE
        assert receive(transport.subscribe([topic], group)).message.value == b"later"

    def test_job_with_a_too_large_output_can_be_settled_with_a_smaller_one(
        self, backend: Backend, topic: str, group: str
    ) -> None:
        results = backend.topic("results")
        backend.open().publish(*jobs(topic, "a"))
        subscription = backend.open().subscribe([topic], group)
        delivery = receive(subscription)

        with pytest.raises(PermanentError):
            subscription.settle(delivery, Message(results, "a", bytes(MAX_VALUE_BYTES + 1)))
        subscription.settle(delivery, Message(results, "a", b"small"))

        assert receive(backend.open().subscribe([results], group)).message.value == b"small"


class TestGroups:
    def test_new_group_starts_with_the_oldest_message(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))

        first = collect(backend.open().subscribe([topic], f"{group}-1"), 1)
        second = collect(backend.open().subscribe([topic], f"{group}-2"), 1)

        assert first[0].message == second[0].message

    def test_empty_topic_delivers_nothing(self, backend: Backend, topic: str, group: str) -> None:
        assert backend.open().subscribe([topic], group).receive(0.2) is None

    def test_one_subscription_reads_several_topics(self, backend: Backend, topic: str, group: str) -> None:
        other = backend.topic("other")
        backend.open().publish(Message(topic, "a", b""), Message(other, "b", b""))

        deliveries = collect(backend.open().subscribe([topic, other], group), 2)

        assert {d.message.topic for d in deliveries} == {topic, other}


class TestAtLeastOnce:
    def test_settled_messages_are_not_redelivered(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a", "b", "c"))
        first = backend.open()
        settled = collect(first.subscribe([topic], group), 2)
        first.close()

        (rest,) = collect(backend.open().subscribe([topic], group), 1)

        assert rest.message.key not in {d.message.key for d in settled}

    def test_unsettled_message_is_redelivered_after_a_kill(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))
        member = backend.member(topic, group, mode="hold")
        assert member.read_report()["key"] == "a"
        member.end()

        assert receive(backend.open().subscribe([topic], group)).message.key == "a"

    def test_settling_out_of_order_loses_nothing(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a", "b", "c", "d"))
        first = backend.open()
        subscription = first.subscribe([topic], group)
        deliveries = [receive(subscription) for _ in range(4)]
        subscription.settle(deliveries[3])
        subscription.settle(deliveries[1])
        first.close()

        again = backend.open().subscribe([topic], group)
        keys: set[str] = set()
        while not {deliveries[0].message.key, deliveries[2].message.key} <= keys:
            (delivery,) = collect(again, 1)
            keys.add(delivery.message.key)


class TestSettle:
    def test_outputs_are_stored_when_settle_returns(self, backend: Backend, topic: str, group: str) -> None:
        results = backend.topic("results")
        backend.open().publish(*jobs(topic, "a"))
        subscription = backend.open().subscribe([topic], group)

        subscription.settle(receive(subscription), Message(results, "a", b"1"), Message(results, "a", b"2"))

        assert [d.message.value for d in collect(backend.open().subscribe([results], group), 2)] == [b"1", b"2"]

    def test_crash_between_outputs_and_offset_repeats_the_job(self, backend: Backend, topic: str, group: str) -> None:
        results = backend.topic("results")
        backend.open().publish(*jobs(topic, "a"))
        member = backend.member(topic, group, mode="die-in-settle", output=results)
        member.read_report()
        assert member.process.wait(TIMEOUT) == 9

        subscription = backend.open().subscribe([topic], group)
        delivery = receive(subscription)
        subscription.settle(delivery, Message(results, "a", b"again"))

        assert delivery.message.key == "a"
        expected = [b"again"] if backend.stores_outputs_with_the_offset else [b"done", b"again"]
        outputs = collect(backend.open().subscribe([results], group), len(expected))
        assert [d.message.value for d in outputs] == expected


class TestKeepAlive:
    @pytest.mark.slow
    def test_job_may_exceed_every_timeout(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))
        subscription = backend.open().subscribe([topic], group)
        delivery = receive(subscription)
        rival = backend.open().subscribe([topic], group)
        if delivery.cancel.wait(LONG_JOB):
            # The rebalance after the rival joined has moved the partition. It must not move again after that.
            subscription, rival = rival, subscription
            delivery = receive(subscription)
            assert not delivery.cancel.wait(LONG_JOB)

        assert rival.receive(0.2) is None
        subscription.settle(delivery)
        assert rival.receive(0.2) is None


class TestOwnership:
    @pytest.mark.slow
    def test_frozen_member_loses_its_job_and_cannot_settle_it(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))
        frozen = backend.member(topic, group, mode="hold")
        frozen.read_report()
        frozen.process.send_signal(signal.SIGSTOP)

        subscription = backend.open().subscribe([topic], group)
        delivery = receive(subscription)
        frozen.process.send_signal(signal.SIGCONT)
        frozen.send("settle")

        assert frozen.read_report() == {"event": "refused", "cancelled": True}
        frozen.end()
        with suppress(CancelledError):  # the group may rebalance when the member returns
            subscription.settle(delivery)
            return
        subscription.settle(receive(subscription))

    def test_close_cancels_open_deliveries(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))
        subscription = backend.open().subscribe([topic], group)
        delivery = receive(subscription)

        subscription.close()

        with pytest.raises(CancelledError):
            delivery.cancel.raise_if_set()


class TestAttempts:
    def test_counted_release_increments_the_attempt(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))
        subscription = backend.open().subscribe([topic], group)

        subscription.release(receive(subscription), count_attempt=True)
        second = receive(subscription)
        subscription.release(second, count_attempt=False)
        third = receive(subscription)

        assert (second.attempt, third.attempt) == (2, 2)

    def test_closing_counts_no_attempt(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))
        first = backend.open()
        receive(first.subscribe([topic], group))
        first.close()

        assert receive(backend.open().subscribe([topic], group)).attempt == 1

    @pytest.mark.slow
    def test_uncounted_release_survives_the_death_of_its_process(
        self, backend: Backend, topic: str, group: str
    ) -> None:
        backend.open().publish(*jobs(topic, "a"))
        member = backend.member(topic, group, mode="release")
        member.read_report()
        member.end()

        assert receive(backend.open().subscribe([topic], group)).attempt == 1

    @pytest.mark.slow
    def test_attempt_count_survives_the_death_of_every_process(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a"))

        attempts = []
        for _ in range(3):
            member = backend.member(topic, group, mode="hold")
            attempts.append(member.read_report()["attempt"])
            member.end()

        assert attempts == [1, 2, 3]

    def test_attempt_count_belongs_to_one_message(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "k", "k"))
        subscription = backend.open().subscribe([topic], group)
        subscription.release(receive(subscription), count_attempt=True)

        assert [d.attempt for d in collect(subscription, 2)] == [2, 1]


class TestRebalance:
    @pytest.mark.slow
    def test_joining_and_leaving_members_lose_nothing(self, backend: Backend, topic: str, group: str) -> None:
        keys = [f"job-{number}" for number in range(60)]
        backend.open().publish(*jobs(topic, *keys))
        seen: Counter[str] = Counter()
        lock = threading.Lock()
        all_seen = threading.Event()

        def listen(member: object) -> None:
            while (report := member.read_report())["event"] != "left":  # type: ignore[attr-defined]
                with lock:
                    seen[report["key"]] += 1
                    if len(seen) == len(keys):
                        all_seen.set()

        members = []
        listeners = []
        for _ in range(3):
            members.append(backend.member(topic, group, mode="drain"))
            listeners.append(threading.Thread(target=listen, args=(members[-1],)))
            listeners[-1].start()
        members[0].send("leave")
        assert all_seen.wait(TIMEOUT), f"missing: {set(keys) - set(seen)}"
        for member in members[1:]:
            member.send("leave")
        for listener in listeners:
            listener.join(TIMEOUT)

        assert set(seen) == set(keys)
        assert backend.open().subscribe([topic], group).receive(1.0) is None


class TestSuspects:
    def test_suspect_is_processed_in_isolation(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a", "b", "c"))
        subscription = backend.open().subscribe([topic], group)
        suspect, beside = receive(subscription), receive(subscription)
        subscription.release(suspect, count_attempt=True)

        # The suspect is next, but waits while another job is open; no other message is delivered meanwhile.
        while (waiting := subscription.receive(0.3)) is not None and waiting.attempt == 1:
            subscription.settle(waiting)  # a message of another partition may be delivered first
        assert waiting is None
        subscription.settle(beside)
        alone = receive(subscription)
        while alone.attempt == 1:
            subscription.settle(alone)
            alone = receive(subscription)

        assert (alone.message.key, alone.attempt) == (suspect.message.key, 2)
        assert subscription.receive(0.3) is None
        subscription.settle(alone)
        backend.open().publish(*jobs(topic, "d"))
        assert receive(subscription).attempt == 1

    def test_repeated_crash_counts_against_one_job_only(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(*jobs(topic, "a", "b"))
        for death in (1, 2):
            member = backend.member(topic, group, mode="work-on-all")
            begun = [member.read_report() for _ in range(2 if death == 1 else 1)]
            assert {report["attempt"] for report in begun} == {death}
            member.end()
        subscription = backend.open().subscribe([topic], group)
        attempts = []
        for _ in range(2):
            delivery = receive(subscription)
            attempts.append(delivery.attempt)
            subscription.settle(delivery)
        assert sorted(attempts) == [2, 3]


class TestNotBefore:
    def test_message_is_not_delivered_before_its_due_time(self, backend: Backend, topic: str, group: str) -> None:
        due = time.time() + 1.0
        backend.open().publish(later(topic, due))
        subscription = backend.open().subscribe([topic], group)
        receive(subscription)
        assert time.time() >= due - 0.001

    def test_messages_of_other_topics_do_not_wait_for_a_delayed_one(
        self, backend: Backend, topic: str, group: str
    ) -> None:
        other = backend.topic("other")
        backend.open().publish(later(topic, time.time() + 3600))
        subscription = backend.open().subscribe([topic, other], group)
        for number in range(3):  # also for messages published while it waits
            backend.open().publish(Message(other, f"{number}", b""))
            delivery = receive(subscription)
            assert delivery.message.key == f"{number}"
            subscription.settle(delivery)

    def test_waiting_for_the_due_time_counts_no_attempt(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(later(topic, time.time() + 1.0))
        first = backend.open()
        assert first.subscribe([topic], group).receive(0.1) is None
        first.close()
        assert receive(backend.open().subscribe([topic], group)).attempt == 1

    def test_malformed_due_time_is_ignored(self, backend: Backend, topic: str, group: str) -> None:
        backend.open().publish(Message(topic, "k", b"", {"not-before": b"tomorrow"}))
        assert receive(backend.open().subscribe([topic], group)).message.key == "k"


class TestWeights:
    def test_topics_are_consumed_by_weight_and_none_starves(self, backend: Backend, topic: str, group: str) -> None:
        low = backend.topic("low")
        count = 40
        backend.open().publish(*[Message(name, f"{n}", b"") for name in (topic, low) for n in range(count)])
        subscription = backend.open().subscribe([topic, low], group, weights={topic: 4, low: 1})
        collect(subscription, 5)  # at first only one topic's messages may have been fetched
        taken = [delivery.message.topic for delivery in collect(subscription, 30)]
        assert 4 <= taken.count(low) <= 12


def later(topic: str, due: float) -> Message:
    """Return a message that is not delivered before ``due``, s since the epoch."""
    return Message(topic, "later", b"", {"not-before": f"{due * 1000:.0f}".encode()})
