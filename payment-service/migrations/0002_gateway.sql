-- The simulated payment gateway's own memory. Written by the gateway only, in transactions of its own: it stands
-- for another company's system, and is what the payments are checked against.

-- Every request that was decided, by its idempotency key (`<order>:charge`, `<order>:refund`). Decided once: the
-- same key gets the same answer for ever.
CREATE TABLE gateway_requests (
    idempotency_key text        PRIMARY KEY,
    order_id        uuid        NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('CHARGE', 'REFUND')),
    amount          numeric     NOT NULL CHECK (amount > 0),
    currency        text        NOT NULL,
    outcome         text        NOT NULL CHECK (outcome IN ('APPROVED', 'DECLINED')),
    reason          text,
    created_at      timestamptz NOT NULL DEFAULT now()
);

-- One row per request that moved money.
CREATE TABLE gateway_ledger (
    entry_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    idempotency_key text        NOT NULL UNIQUE,
    order_id        uuid        NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('CHARGE', 'REFUND')),
    amount          numeric     NOT NULL CHECK (amount > 0),
    currency        text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX gateway_ledger_by_order ON gateway_ledger (order_id);
