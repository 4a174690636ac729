-- What clients and operators may do about a saga: send it again under a key, cancel it, repeat it, settle it by hand.

-- The client's Idempotency-Key. NULL: none was sent, or its time is over.
ALTER TABLE sagas ADD COLUMN idempotency_key text;
CREATE UNIQUE INDEX sagas_by_idempotency_key ON sagas (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- Whose keys may be forgotten, by when they ended.
CREATE INDEX sagas_with_old_keys ON sagas (updated_at)
    WHERE idempotency_key IS NOT NULL AND status IN ('COMPLETED', 'FAILED');

-- Why a person should look, in words. (Not tied to needs_attention_since by a constraint: a release that does not
-- know the column may run beside this one.)
ALTER TABLE sagas ADD COLUMN attention_reason text;
CREATE INDEX sagas_needing_attention ON sagas (needs_attention_since) WHERE needs_attention_since IS NOT NULL;
-- A compensation was settled outside of the system: what the participants' rows show may still be held.
ALTER TABLE sagas ADD COLUMN resolved_by_hand boolean NOT NULL DEFAULT false;

-- The operator who made a move (operator.cancelled, operator.retried, operator.resolved), and what proves it.
ALTER TABLE saga_events ADD COLUMN actor text;
ALTER TABLE saga_events ADD COLUMN evidence text;

-- Whether new checkouts are taken: the newest row tells. No row: they are.
CREATE TABLE intake_changes (
    change_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    open      boolean     NOT NULL,
    actor     text        NOT NULL,
    reason    text        NOT NULL,
    at        timestamptz NOT NULL DEFAULT now()
);
