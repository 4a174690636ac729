-- With publish_order_events each change of an order leaves an entry here, in the statement that makes it; an entry is removed
-- once its event is in Kafka (order.events). Without it nothing is written here.

CREATE TABLE outbox (
    seq  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The order.
    id   uuid        NOT NULL,
    -- The status that it has reached.
    what text        NOT NULL,
    at   timestamptz NOT NULL DEFAULT now()
) WITH (
    -- Every entry is deleted soon: what is dead stands where the next ones are looked for.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000
);

-- The instance that holds the lease, and when it expires.
CREATE TABLE outbox_sender (
    only_one boolean     PRIMARY KEY DEFAULT TRUE CHECK (only_one),
    instance uuid        NOT NULL,
    until    timestamptz NOT NULL
);
