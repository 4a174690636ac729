//! Finished sagas, put into all four databases as if they had been checked out: a platform with a past. And sagas that
//! wait for a signal beside what is measured.

use anyhow::{Result, ensure};
use e2e_tests::{Client, Databases};
use sqlx::{AssertSqlSafe, PgPool};

/// Ids in the order in which they were made, as UUIDv7: the number stands in the time and at the end. The same number
/// gives the same order in all databases.
const IDS: &str = "
    CREATE FUNCTION pg_temp.an_id(n bigint, kind text) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN
        (lpad(to_hex(1600000000000 + n), 12, '0') || '7000' || kind || lpad(to_hex(n), 15, '0'))::uuid;
    CREATE FUNCTION pg_temp.order_id(n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN pg_temp.an_id(n, '8');
    CREATE FUNCTION pg_temp.saga_id(n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN pg_temp.an_id(n, '9')";

const ORDERS: &str = "
    INSERT INTO orders (order_id, saga_id, user_id, total_amount, currency, status, created_at, updated_at)
    SELECT pg_temp.order_id(n), pg_temp.saga_id(n), 'user-' || n % 1000, 100 + n % 1000, 'USD', 'CONFIRMED', at, at
    FROM past";

const PAYMENTS: &str = "
    INSERT INTO payments (order_id, saga_id, user_id, amount, currency, status, force_fail, created_at, updated_at)
    SELECT pg_temp.order_id(n), pg_temp.saga_id(n), 'user-' || n % 1000, 100 + n % 1000, 'USD', 'CHARGED', false, at, at
    FROM past;
    INSERT INTO gateway_requests (idempotency_key, order_id, kind, amount, currency, outcome, created_at)
    SELECT pg_temp.order_id(n) || ':charge', pg_temp.order_id(n), 'CHARGE', 100 + n % 1000, 'USD', 'APPROVED', at
    FROM past;
    INSERT INTO gateway_ledger (idempotency_key, order_id, kind, amount, currency, created_at)
    SELECT pg_temp.order_id(n) || ':charge', pg_temp.order_id(n), 'CHARGE', 100 + n % 1000, 'USD', at
    FROM past";

const RESERVATIONS: &str = "
    INSERT INTO reservations (order_id, saga_id, status, created_at, updated_at)
    SELECT pg_temp.order_id(n), pg_temp.saga_id(n), 'RESERVED', at, at FROM past";

const SAGAS: &str = "
    INSERT INTO sagas (saga_id, order_id, user_id, total_amount, currency, status, step, force_payment_fail,
                       force_inventory_fail, definition, definition_version, version, next_attempt_at, expires_at,
                       traceparent, created_at, updated_at)
    SELECT pg_temp.saga_id(n), pg_temp.order_id(n), 'user-' || n % 1000, 100 + n % 1000, 'USD', 'COMPLETED',
           'COMPLETED', false, false, 'pay-first', 1, 5, at + interval '2 s', at + interval '90 s',
           '00-' || md5(n::text) || '-00f067aa0ba902b7-01', at, at
    FROM past;
    INSERT INTO saga_events (saga_id, seq, input, status, step, at)
    SELECT pg_temp.saga_id(n), seq, input, status, step, at
    FROM past CROSS JOIN (VALUES
        (1, 'started', 'RUNNING', 'ORDER_CREATE'),
        (2, 'order.created', 'RUNNING', 'PAYMENT_CHARGE'),
        (3, 'payment.charged', 'RUNNING', 'INVENTORY_RESERVE'),
        (4, 'inventory.reserved', 'RUNNING', 'ORDER_CONFIRM'),
        (5, 'order.confirmed', 'COMPLETED', 'COMPLETED')) AS history (seq, input, status, step)
    ORDER BY n, seq";

/// A flow whose sagas wait first.
const BOOKING: &str = include_str!("../../examples/booking/booking.v1.yaml");

/// Half of their three days is over.
const WAITING: &str = "
    INSERT INTO sagas (saga_id, order_id, user_id, total_amount, currency, status, step, force_payment_fail,
                       force_inventory_fail, definition, definition_version, version, deadline_at, next_attempt_at,
                       sweep_at, expires_at, traceparent, created_at, updated_at, input, awaits)
    SELECT pg_temp.saga_id(n), pg_temp.order_id(n), 'user-' || n % 1000, 100, 'EUR', 'WAITING', 'ACCEPT', false, false,
           'booking', 1, 1, now() + interval '36 h', now() + interval '36 h', now() + interval '36 h',
           now() + interval '36 h', '00-' || md5(n::text) || '-00f067aa0ba902b7-01', at, at,
           json_build_object('guest', 'user-' || n % 1000, 'request', 'R-' || n, 'price', 100, 'currency', 'EUR'),
           'booking.accepted R-' || n
    FROM past;
    INSERT INTO saga_events (saga_id, seq, input, status, step, at)
    SELECT pg_temp.saga_id(n), 1, 'started', 'WAITING', 'ACCEPT', at FROM past";

/// Publishes a flow, and puts `count` of its sagas into the orchestrator's database, each waiting for a signal of its own.
pub async fn wait(client: &Client, count: u64) -> Result<()> {
    let published = client.publish_flow(BOOKING).await?;
    ensure!(published.status == 201, "{} {}", published.status, published.text);
    fill(&client.databases.orchestrator, count, WAITING).await
}

/// Puts `count` COMPLETED sagas into the databases, whose tables are there, and has the planner look at them.
pub async fn preload(databases: &Databases, count: u64) -> Result<()> {
    let Databases { order, payment, inventory, orchestrator } = databases;
    tokio::try_join!(
        fill(order, count, ORDERS),
        fill(payment, count, PAYMENTS),
        fill(inventory, count, RESERVATIONS),
        fill(orchestrator, count, SAGAS),
    )?;
    Ok(())
}

async fn fill(pool: &PgPool, count: u64, statements: &'static str) -> Result<()> {
    let mut connection = pool.acquire().await?;
    sqlx::raw_sql(IDS).execute(&mut *connection).await?;
    // One every 10 ms, up to a minute ago.
    let past = format!(
        "CREATE TEMP VIEW past AS SELECT n, now() - interval '1 min' - ({count} - n) * interval '10 ms' AS at
         FROM generate_series(1, {count}::bigint) AS n"
    );
    sqlx::raw_sql(AssertSqlSafe(past)).execute(&mut *connection).await?;
    for statement in statements.split(';') {
        sqlx::raw_sql(statement).execute(&mut *connection).await?;
    }
    sqlx::raw_sql("DROP VIEW past").execute(&mut *connection).await?;
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut *connection).await?;
    Ok(())
}
