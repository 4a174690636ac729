-- The sagas of a user's flow, newest first. Checkouts, which are most sagas mostly, are not in it: storing and moving
-- them costs what it did. Neither column is changed by a move.
CREATE INDEX sagas_by_flow ON sagas (definition, saga_id) WHERE definition <> 'pay-first';
