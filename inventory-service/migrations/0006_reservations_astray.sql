-- Reservations that an older release has released and that hold pieces all the same.
CREATE INDEX reservations_astray ON reservations (order_id) WHERE holds AND status <> 'RESERVED';
