-- Orders that are placed directly, by POST /orders with items: an event (order.created) makes the orchestrator start a saga for
-- each. It is sent again until the row names that saga, so the row is the outbox.

ALTER TABLE orders
    -- The flow by which such an order goes on. NULL for all others.
    ADD COLUMN flow            text,
    -- When the order is to be announced again. NULL once its saga has taken it up, or it has ended without one.
    ADD COLUMN announce_at     timestamptz,
    -- The client's key. A request with the same key is the same order.
    ADD COLUMN idempotency_key text;

-- Its condition does not name the status: what an index names can't be changed without a new entry in every index of the row
-- (0003_hot_updates.sql), and each order's status changes.
CREATE INDEX orders_to_announce ON orders (announce_at) WHERE announce_at IS NOT NULL;
CREATE UNIQUE INDEX orders_by_key ON orders (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
