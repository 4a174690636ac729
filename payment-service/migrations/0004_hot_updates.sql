-- Each payment is updated once (CHARGING, then what became of it): room for that in its page, or its key's index gets
-- a second entry. docs/growth.md has what it saves.

ALTER TABLE payments SET (fillfactor = 80);
