-- Moving a saga must be cheap. A row version that changes an indexed column needs a new entry in every index of the
-- table; one that does not, and finds room on its page, needs none (a HOT update). So what the sweeper's index is on
-- is no longer set by each move: `sweep_at` says when to look, and only `next_attempt_at` when the effect is due.

-- When the sweeper looks at the saga next: never later than next_attempt_at. Mostly the saga has ended by then.
ALTER TABLE sagas ADD COLUMN sweep_at timestamptz NOT NULL DEFAULT '-infinity';
UPDATE sagas SET sweep_at = next_attempt_at WHERE status IN ('RUNNING', 'COMPENSATING');
DROP INDEX sagas_due;
CREATE INDEX sagas_to_sweep ON sagas (sweep_at) WHERE status IN ('RUNNING', 'COMPENSATING');
