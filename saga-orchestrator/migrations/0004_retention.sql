-- Every order with a smaller id is old: its saga has ended, and is removed in every service, here last. One row; none
-- while everything is kept. Stored before anything is removed, and never goes back.

CREATE TABLE retention_horizon (
    only_one boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    order_id uuid        NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);
