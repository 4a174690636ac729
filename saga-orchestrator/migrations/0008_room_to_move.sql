-- A batch moves all sagas of a page at once, so a page needs as much room as it has rows: at 70 it had not, and a third
-- of the moves went to another page, with an entry in every index. The table grows no larger by it, since what went
-- elsewhere took its room there. Likewise a saga's last move, which is never heap-only, writes a second entry beside the
-- first in each of these indexes, whose pages were full by then. docs/growth.md has what it saves.

ALTER TABLE sagas SET (fillfactor = 45);
ALTER INDEX sagas_pkey SET (fillfactor = 45);
ALTER INDEX sagas_order_id_key SET (fillfactor = 45);
ALTER INDEX sagas_by_user SET (fillfactor = 45);
