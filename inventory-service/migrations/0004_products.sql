-- What the shop sells, and how many pieces of it there are. For each product and at any moment
--
--   received + adjusted = available + reserved + committed
--
-- both by its row and by its movements. Written by the inventory service only.

CREATE DOMAIN pieces AS bigint;
ALTER DOMAIN pieces ADD CONSTRAINT not_below_zero CHECK (VALUE >= 0);

CREATE TABLE products (
    sku        text COLLATE "C" PRIMARY KEY,
    name       text             NOT NULL,
    -- Free to be reserved.
    available  pieces           NOT NULL DEFAULT 0,
    -- Set aside for orders.
    reserved   pieces           NOT NULL DEFAULT 0,
    -- Gone to customers.
    committed  pieces           NOT NULL DEFAULT 0,
    created_at timestamptz      NOT NULL DEFAULT now(),
    updated_at timestamptz      NOT NULL DEFAULT now()
);

-- RECEIVE  pieces came into the house
-- ADJUST   a count found more, or (below zero) fewer
-- RESERVE  available pieces were set aside for an order
-- RELEASE  they are available again
-- EXPIRE   likewise, since their time was over
-- COMMIT   they went to the customer
CREATE DOMAIN movement_kind AS text;
ALTER DOMAIN movement_kind ADD CONSTRAINT known
    CHECK (VALUE IN ('RECEIVE', 'ADJUST', 'RESERVE', 'RELEASE', 'EXPIRE', 'COMMIT'));

-- The ledger: rows are added, and never changed. It refers to its product without a foreign key, which would lock the
-- product's row once more for each movement; products are not removed.
CREATE TABLE stock_movements (
    movement_id bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku         text COLLATE "C" NOT NULL,
    kind        movement_kind    NOT NULL,
    -- Above zero, but for an ADJUST.
    quantity    bigint           NOT NULL CHECK (quantity <> 0 AND (quantity > 0 OR kind = 'ADJUST')),
    -- Whose goods they are; of RECEIVE and ADJUST none.
    order_id    uuid,
    -- What its sender told it apart by, who did it, and why; of RECEIVE and ADJUST only.
    key         text,
    actor       text,
    reason      text,
    -- Not when its transaction began: that one may have waited for others.
    at          timestamptz      NOT NULL DEFAULT clock_timestamp(),
    CHECK ((order_id IS NULL) = (kind IN ('RECEIVE', 'ADJUST'))),
    CHECK (order_id IS NOT NULL OR (key IS NOT NULL AND actor IS NOT NULL AND reason IS NOT NULL))
);

-- One of each kind for an order and a product.
CREATE UNIQUE INDEX stock_movements_by_order ON stock_movements (order_id, sku, kind) WHERE order_id IS NOT NULL;
-- A movement that is sent again is the same.
CREATE UNIQUE INDEX stock_movements_by_key ON stock_movements (sku, key) WHERE key IS NOT NULL;
-- A product's latest movements.
CREATE INDEX stock_movements_of_product ON stock_movements (sku, movement_id);
