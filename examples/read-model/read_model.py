"""An example read model: which orders there are, and how their sagas ended, from the events that the platform publishes.

    python read_model.py 127.0.0.1:9092 shop.db      (Kafka's address, the file of its tables)

An event may come more than once, and one that comes again may come late. So a row is replaced only by a later change, and the
offset is committed after the rows: whoever dies in between reads the event again, and nothing changes.
"""

import json
import signal
import sqlite3
import sys

from confluent_kafka import Consumer

OUTCOMES, ORDERS = "saga.outcomes", "order.events"

TABLES = """
CREATE TABLE IF NOT EXISTS orders (
    order_id   TEXT PRIMARY KEY,
    sequence   INTEGER NOT NULL,  -- which of the order's changes this is
    status     TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    amount     TEXT NOT NULL,
    currency   TEXT NOT NULL,
    changed_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    saga_id    TEXT PRIMARY KEY,
    flow       TEXT NOT NULL,
    status     TEXT NOT NULL,
    cause      TEXT,              -- why it failed
    owner      TEXT NOT NULL,
    ended_at   TEXT NOT NULL);
"""

# The first event of a saga's end counts: it has only one.
OUTCOME = """INSERT INTO outcomes VALUES (:saga_id, :flow, :status, :cause, :owner, :ended_at) ON CONFLICT DO NOTHING"""

ORDER = """INSERT INTO orders VALUES (:order_id, :sequence, :status, :user_id, :amount, :currency, :changed_at)
    ON CONFLICT (order_id) DO UPDATE SET sequence = excluded.sequence, status = excluded.status,
        changed_at = excluded.changed_at
    WHERE excluded.sequence > orders.sequence"""


def apply(database, topic, event):
    """Stores an event. Fields that it does not know are ignored."""
    payload = event["payload"]
    if topic == OUTCOMES:
        row = {name: payload.get(name) for name in ("flow", "status", "cause", "owner")}
        database.execute(OUTCOME, {**row, "saga_id": event["sagaId"], "ended_at": event["timestamp"]})
    else:
        row = {"sequence": int(payload["sequence"]), "status": payload["status"], "user_id": payload["userId"], **payload["money"]}
        database.execute(ORDER, {**row, "order_id": event["orderId"], "changed_at": event["timestamp"]})


def main(kafka, file):
    database = sqlite3.connect(file)
    database.executescript(TABLES)
    consumer = Consumer({
        "bootstrap.servers": kafka,
        "group.id": "read-model",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 10000,
    })
    consumer.subscribe([OUTCOMES, ORDERS])
    running = True

    def stop(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while running:
        records = consumer.consume(500, timeout=0.5)
        for record in records:
            if record.error():
                print(record.error(), file=sys.stderr)  # The topic is missing, say. It goes on by itself.
        records = [record for record in records if not record.error()]
        if not records:
            continue
        with database:
            for record in records:
                # Amounts keep their digits.
                apply(database, record.topic(), json.loads(record.value(), parse_float=str, parse_int=str))
        consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
