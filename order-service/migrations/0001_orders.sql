-- One row per order. Written by the order service only.

CREATE TABLE orders (
    order_id     uuid        PRIMARY KEY,
    -- The saga that the order belongs to: only it moves the order. NULL for an order made by hand.
    saga_id      uuid,
    -- NULL only in a tombstone: a CANCELLED row left by a cancel that came before its create.
    user_id      text,
    total_amount numeric     CHECK (total_amount > 0),
    currency     text        CHECK (currency ~ '^[A-Z]{3}$'),
    status       text        NOT NULL CHECK (status IN ('PENDING', 'CONFIRMED', 'CANCELLED')),
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    CONSTRAINT only_a_tombstone_lacks_its_contents CHECK (
        (user_id IS NOT NULL AND total_amount IS NOT NULL AND currency IS NOT NULL)
        OR (status = 'CANCELLED' AND user_id IS NULL AND total_amount IS NULL AND currency IS NULL)
    )
);
