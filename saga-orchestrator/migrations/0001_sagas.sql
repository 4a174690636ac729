-- The saga orchestrator's own memory: which checkouts there are, where each stands, how it got there.

-- One row per saga. The row says what has to happen next; whoever finds it overdue repeats just that.
CREATE TABLE sagas (
    saga_id              uuid        PRIMARY KEY,
    order_id             uuid        NOT NULL UNIQUE,
    user_id              text        NOT NULL,
    total_amount         numeric     NOT NULL CHECK (total_amount > 0),
    currency             text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- RUNNING -> COMPLETED, or RUNNING -> COMPENSATING -> FAILED.
    status               text        NOT NULL CHECK (status IN ('RUNNING', 'COMPENSATING', 'COMPLETED', 'FAILED')),
    -- What is pending (ORDER_CREATE, PAYMENT_CHARGE, PAYMENT_REFUND, ...), or how it ended.
    step                 text        NOT NULL,
    -- Why it turned back: stored when it does, never overwritten.
    cause                text,
    reason               text,
    force_payment_fail   boolean     NOT NULL,
    force_inventory_fail boolean     NOT NULL,
    -- By which table of steps it runs.
    definition           text        NOT NULL,
    definition_version   integer     NOT NULL,
    -- Counts the moves. A row is replaced only by its next version, so of two processes one wins.
    version              bigint      NOT NULL,
    -- How often the pending effect was repeated, and when it is due again.
    attempts             integer     NOT NULL DEFAULT 0,
    next_attempt_at      timestamptz NOT NULL,
    -- When the pending step counts as timed out. NULL from the pivot on, and while compensating.
    deadline_at          timestamptz,
    -- When the saga has to have passed its pivot.
    expires_at           timestamptz NOT NULL,
    -- Since when a person should look: its compensation or confirmation does not succeed. It is still repeated.
    needs_attention_since timestamptz,
    traceparent          text,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    CONSTRAINT a_cause_stands_from_turning_back_to_the_end
        CHECK ((status IN ('COMPENSATING', 'FAILED')) = (cause IS NOT NULL))
);

-- What the sweeper looks for. Small: ended sagas are not in it.
CREATE INDEX sagas_due ON sagas (next_attempt_at) WHERE status IN ('RUNNING', 'COMPENSATING');

-- The history, append-only: one row for each version of a saga, without gaps.
CREATE TABLE saga_events (
    saga_id  uuid        NOT NULL,
    seq      bigint      NOT NULL,
    -- What happened: started, a reply's topic, order.created, deadline.passed, ...
    input    text        NOT NULL,
    -- The message that told.
    event_id uuid,
    -- Where it led to.
    status   text        NOT NULL,
    step     text        NOT NULL,
    reason   text,
    at       timestamptz NOT NULL,
    PRIMARY KEY (saga_id, seq)
);

-- Replies that did not count, because they were late or came twice: one row each, with a count.
CREATE TABLE ignored_inputs (
    saga_id  uuid        NOT NULL,
    input    text        NOT NULL,
    -- Where the saga stood.
    state    text        NOT NULL,
    count    bigint      NOT NULL DEFAULT 1,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    PRIMARY KEY (saga_id, input, state)
);
