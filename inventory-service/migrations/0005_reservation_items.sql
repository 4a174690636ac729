-- What an order has of each product. A row of reservations that holds goods has its lines here, and each line its RESERVE in
-- stock_movements; together they are what products.reserved says.

ALTER TABLE reservations
    -- Whether its lines' pieces are set aside. A release gives them back. An older release sets the status only: whoever
    -- holds and is not RESERVED gives back as soon as this release runs again.
    ADD COLUMN holds boolean NOT NULL DEFAULT false,
    -- Why it is FAILED: [{"sku", "wanted", "available"}], the products of which there were too few pieces.
    ADD COLUMN short jsonb;

CREATE TABLE reservation_items (
    order_id uuid             NOT NULL,
    sku      text COLLATE "C" NOT NULL,
    quantity pieces           NOT NULL,
    PRIMARY KEY (order_id, sku)
);

-- An older release removes reservations by their age alone. Those that hold pieces stay: nothing else knows whose these are.
CREATE FUNCTION keep_who_holds() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER keep_who_holds BEFORE DELETE ON reservations
    FOR EACH ROW WHEN (OLD.holds) EXECUTE FUNCTION keep_who_holds();
