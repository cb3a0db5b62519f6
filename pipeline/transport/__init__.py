"""Message transports behind one protocol: ``embedded`` for a single machine, ``kafka`` for several."""

from pipeline.transport.protocol import Delivery, Message, Subscription, Topic, Transport

__all__ = ["Delivery", "Message", "Subscription", "Topic", "Transport"]
