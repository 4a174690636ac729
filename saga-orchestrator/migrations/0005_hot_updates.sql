-- A saga's row is replaced at each of its moves. Where no indexed column changes and the page has room, Postgres writes
-- no index entry for the new version (a heap-only tuple) and needs no vacuum to reuse the old one. docs/growth.md has
-- what it saves.

ALTER TABLE sagas SET (fillfactor = 70);

-- Whose keys may be forgotten: by when they began, which never changes.
DROP INDEX sagas_with_old_keys;
CREATE INDEX sagas_with_old_keys ON sagas (created_at)
    WHERE idempotency_key IS NOT NULL AND status IN ('COMPLETED', 'FAILED');
