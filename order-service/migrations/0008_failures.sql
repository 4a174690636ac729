-- Why an order was cancelled, for its client.

ALTER TABLE orders
    -- As a word: OUT_OF_STOCK, say. NULL where nobody has said why.
    ADD COLUMN failure_reason text,
    -- The same for people.
    ADD COLUMN failure_detail text;
