-- Each order is updated once (PENDING, then how it ended): room for that in its page, or its key's index gets a second
-- entry. docs/growth.md has what it saves.

ALTER TABLE orders SET (fillfactor = 80);
