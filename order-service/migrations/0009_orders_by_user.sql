-- A user's orders, the highest id first. Ids that are generated begin with the time they were made, so that is the newest first. In
-- a migration of its own: orders are read while the index is built.
CREATE INDEX orders_by_user ON orders (user_id, order_id);
