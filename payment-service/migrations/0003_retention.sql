-- Every order with a smaller id is old, and what nobody needs of it was removed. One row; none while everything is
-- kept. It never goes back: it tells that an order was here, so that a command about it is not taken for a new one.

CREATE TABLE retention_horizon (
    only_one boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    order_id uuid        NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);
