-- Sagas that wait for something outside, for days perhaps, and the signals that they wait for.

-- Not checked against the rows that are there: they have the statuses that were known before.
ALTER DOMAIN saga_status DROP CONSTRAINT known;
-- RUNNING or WAITING, in turns -> COMPLETED, or RUNNING or WAITING -> COMPENSATING -> FAILED.
ALTER DOMAIN saga_status ADD CONSTRAINT known
    CHECK (VALUE IN ('RUNNING', 'WAITING', 'COMPENSATING', 'COMPLETED', 'FAILED')) NOT VALID;

-- The kind of signal that is awaited, a space, and what the signal has to name. NULL: none is.
ALTER TABLE sagas ADD COLUMN awaits text;
-- The reports of progress that the pending step has made, by their ids: each gives it time once. NULL: none.
ALTER TABLE sagas ADD COLUMN progressed uuid[];

-- `awaits` changes where a saga begins to wait or ends it: its status changes as well, and with it which indexes it is in.
CREATE INDEX sagas_waiting_to_sweep ON sagas (definition, sweep_at) WHERE status = 'WAITING';
CREATE INDEX sagas_awaiting ON sagas (awaits, saga_id) WHERE awaits IS NOT NULL;

-- What happened outside. A signal is stored first and matched then: it may come before its saga waits for it.
CREATE TABLE signals (
    signal_id   uuid        PRIMARY KEY,
    kind        text        NOT NULL,
    -- The sender's own id of it: sent again, it is the same signal.
    id          text        NOT NULL,
    -- What it names: the saga that waits for this kind and this value takes it.
    match       text        NOT NULL,
    -- (json and not jsonb: it is kept as it was sent.)
    payload     json        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    -- The saga that has taken it, at which step, and when. NULL: none has.
    saga_id     uuid,
    step        text,
    matched_at  timestamptz,
    UNIQUE (kind, id)
);
CREATE INDEX signals_unmatched ON signals (kind, match, received_at) WHERE saga_id IS NULL;
CREATE INDEX signals_by_age ON signals (received_at);
