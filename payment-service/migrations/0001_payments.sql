-- One row per order: what the payment service knows of its payment. Written by the payment service only.
--
-- CHARGING   the charge is announced; the gateway may or may not have been called
-- CHARGED    the gateway took the money
-- FAILED     the gateway declined
-- REFUNDING  the refund is announced
-- REFUNDED   the gateway gave the money back
-- VOIDED     a tombstone: a refund came before its charge, which will be refused

CREATE TABLE payments (
    order_id   uuid        PRIMARY KEY,
    saga_id    uuid        NOT NULL,
    user_id    text,
    amount     numeric     NOT NULL CHECK (amount > 0),
    currency   text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    status     text        NOT NULL
               CHECK (status IN ('CHARGING', 'CHARGED', 'FAILED', 'REFUNDING', 'REFUNDED', 'VOIDED')),
    -- Why it is FAILED, REFUNDED or VOIDED, in words.
    reason     text,
    force_fail boolean     NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
