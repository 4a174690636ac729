-- Sagas that answer their client and go on behind the answer.

-- When the client was answered, with which HTTP status, and with which body: whoever asks again gets these bytes. NULL: it
-- was not answered yet, or its end is the answer.
-- (json and not jsonb: it is kept as it was sent.)
ALTER TABLE sagas ADD COLUMN answered_at timestamptz, ADD COLUMN answer_status int, ADD COLUMN answer json;
