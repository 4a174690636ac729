-- Pieces may be set aside for a time. When it is over the service gives them back by itself.
--
-- EXPIRED    the goods were set aside, and their time is over: they are free again
-- COMMITTED  the goods have gone to the customer

-- Not checked against the rows that are there: none has another one.
ALTER DOMAIN reservation_status DROP CONSTRAINT known;
ALTER DOMAIN reservation_status ADD CONSTRAINT known
    CHECK (VALUE IN ('RESERVED', 'FAILED', 'RELEASED', 'VOIDED', 'EXPIRED', 'COMMITTED')) NOT VALID;

ALTER TABLE reservations
    -- Until when they were set aside, as the reserve was answered. NULL: without a limit.
    ADD COLUMN expires_at timestamptz,
    -- Whether expires_at is still to be seen to: a RESERVED one is to be EXPIRED then, and an EXPIRED one is to be announced.
    ADD COLUMN will_expire boolean NOT NULL DEFAULT false;

CREATE INDEX reservations_to_expire ON reservations (expires_at) WHERE will_expire AND status = 'RESERVED';
CREATE INDEX reservations_to_announce ON reservations (updated_at) WHERE will_expire AND status <> 'RESERVED';
