-- What an order is of, where its goods are counted: [{"sku", "qty"}], as it was ordered. NULL: they are not.

ALTER TABLE orders ADD COLUMN items jsonb;
