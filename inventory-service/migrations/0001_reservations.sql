-- One row per order: whether goods are set aside for it. Written by the inventory service only.
--
-- RESERVED   the goods are set aside
-- FAILED     they could not be
-- RELEASED   they were, and are free again
-- VOIDED     a tombstone: a release came before its reserve, which will be refused

CREATE TABLE reservations (
    order_id   uuid        PRIMARY KEY,
    saga_id    uuid        NOT NULL,
    status     text        NOT NULL CHECK (status IN ('RESERVED', 'FAILED', 'RELEASED', 'VOIDED')),
    -- Why it is FAILED, RELEASED or VOIDED, in words.
    reason     text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
