"""The hotel of the trip: a participant in one file. The rules that it keeps are those of docs/participants.md.

    python hotel.py 127.0.0.1:9092 hotel.db      (Kafka's address, the file of its table)

The hotel is full in the city NOH.
"""

import json
import logging
import secrets
import signal
import sqlite3
import sys
import uuid
from datetime import datetime, timezone

from confluent_kafka import Consumer, KafkaException, Producer

BOOK, CANCEL = "trip.hotel.book.command", "trip.hotel.cancel.command"
REPLIES = "trip.replies"

TABLE = """CREATE TABLE IF NOT EXISTS bookings (
    trip_id     TEXT PRIMARY KEY,
    saga_id     TEXT NOT NULL,
    asked       TEXT,           -- what was to be booked; null where the cancellation came first
    status      TEXT NOT NULL CHECK (status IN ('BOOKED', 'FULL', 'CANCELLED')),
    booking_ref TEXT,
    reason      TEXT,           -- why it is not booked
    decided_at  TEXT NOT NULL)"""


def read(body):
    """The command in a record. Raises where it is none; fields that it does not know are ignored."""
    command = json.loads(body)
    ids = {name: str(uuid.UUID(command[name])) for name in ("eventId", "sagaId", "tripId")}
    payload = command["payload"]
    return ids, {name: payload.get(name) for name in ("guest", "city", "arrive", "leave", "reason")}


def decide(topic, ids, payload, row):
    """The row after a command. The row as it was, where the command was carried out before; None, where it contradicts."""
    asked = json.dumps([payload[name] for name in ("guest", "city", "arrive", "leave")]) if topic == BOOK else None
    if row and (row["saga_id"] != ids["sagaId"] or (asked and row["asked"] and asked != row["asked"])):
        return None
    new = {"trip_id": ids["tripId"], "saga_id": ids["sagaId"], "asked": asked, "booking_ref": None, "reason": None}
    new["decided_at"] = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if topic == BOOK:
        if row:
            return row
        if payload["city"] == "NOH":
            return {**new, "status": "FULL", "reason": "no room is left"}
        return {**new, "status": "BOOKED", "booking_ref": "H-" + secrets.token_hex(4).upper()}
    if row is None:  # A tombstone: the booking that comes later is refused.
        return {**new, "status": "CANCELLED", "reason": "cancelled before it was booked"}
    if row["status"] == "BOOKED":
        return {**row, "status": "CANCELLED", "reason": "it was cancelled", "decided_at": new["decided_at"]}
    return row


def reply(topic, ids, row):
    """The event that answers a command: a function of the command and the row, and so the same each time."""
    if topic == CANCEL:
        event, payload = "trip.hotel.cancelled", {}
    elif row["status"] == "BOOKED":
        price = {"amount": "89.00", "currency": "EUR"}
        event, payload = "trip.hotel.booked", {"bookingRef": row["booking_ref"], "price": price}
    else:
        event, payload = "trip.hotel.full", {"reason": row["reason"]}
    event_id = str(uuid.uuid5(uuid.UUID(ids["eventId"]), event))
    body = {"eventId": event_id, "causationId": ids["eventId"], "sagaId": ids["sagaId"], "tripId": ids["tripId"]}
    body |= {"timestamp": row["decided_at"], "payload": payload}
    headers = {"content-type": "application/json", "ce_specversion": "1.0", "ce_id": event_id, "ce_type": event}
    headers |= {"ce_source": "/trip-hotel", "ce_time": row["decided_at"]}
    return {"topic": REPLIES, "key": ids["sagaId"], "value": json.dumps(body), "headers": headers}


class Hotel:
    def __init__(self, kafka, file):
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.execute(TABLE)
        # As Java's clients hash keys: the reply reaches the orchestrator that waits for it.
        self.producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "acks": "all"})
        self.consumer = Consumer({
            "bootstrap.servers": kafka, "group.id": "trip-hotel", "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "session.timeout.ms": 6000, "fetch.wait.max.ms": 50,
            "topic.metadata.refresh.interval.ms": 10000,
        })
        self.consumer.subscribe([BOOK, CANCEL])

    def handle(self, message):
        topic = message.topic()
        try:
            ids, payload = read(message.value())
        except Exception as error:  # Whatever is wrong with it: those behind it must get through.
            return logging.warning("%s %s: no command: %r", topic, message.offset(), error)
        row = self.store(topic, ids, payload)
        if row is None:
            return logging.warning("trip %s: the command contradicts its row and gets no reply", ids["tripId"])
        logging.info("trip %s: %s", ids["tripId"], row["status"])
        self.send(reply(topic, ids, row))

    def store(self, topic, ids, payload):
        self.db.execute("BEGIN IMMEDIATE")
        row = self.db.execute("SELECT * FROM bookings WHERE trip_id = ?", [ids["tripId"]]).fetchone()
        row = decide(topic, ids, payload, dict(row) if row else None)
        if row:
            self.db.execute(
                "REPLACE INTO bookings (trip_id, saga_id, asked, status, booking_ref, reason, decided_at) VALUES "
                "(:trip_id, :saga_id, :asked, :status, :booking_ref, :reason, :decided_at)", row)
        self.db.execute("COMMIT")
        return row

    def send(self, record):
        """Returns once Kafka has it. What it has not fails the program: the command comes again."""
        failed = []
        self.producer.produce(**record, on_delivery=lambda error, _: error and failed.append(error))
        if self.producer.flush(30) or failed:
            raise SystemExit(f"no reply could be sent: {failed}")

    def run(self):
        while True:
            message = self.consumer.poll(1)
            if message is None:
                continue
            if message.error():
                logging.warning("%s", message.error())
                continue
            self.handle(message)
            try:
                self.consumer.commit(message, asynchronous=False)
            except KafkaException as error:  # Its partition is another's by now: the command comes again, there.
                logging.warning("%s", error)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s hotel %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    hotel = Hotel(*sys.argv[1:3])
    try:
        hotel.run()
    except KeyboardInterrupt:
        pass
    finally:
        hotel.consumer.close()
