-- What people look for among many sagas. docs/growth.md has the plans.

-- A user's checkouts, newest first (ids begin with the time they were made).
CREATE INDEX sagas_by_user ON sagas (user_id, saga_id);
-- What failed, newest first; and of one cause. Those that complete are not in them. (By cause, not by step, which is the
-- same for these: an index on a column that each move changes would spoil every move's heap-only tuple.)
CREATE INDEX sagas_failed ON sagas (saga_id) WHERE status = 'FAILED';
CREATE INDEX sagas_failed_by_cause ON sagas (cause, saga_id) WHERE status = 'FAILED';
-- The latest moves of all sagas. The history grows at its end, so a few bytes for each 128 pages tell where a time is.
CREATE INDEX saga_events_by_time ON saga_events USING brin (at) WITH (autosummarize = on);
