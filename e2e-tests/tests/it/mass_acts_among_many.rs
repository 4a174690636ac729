//! An act by filter beside ten thousand sagas that have not ended: which are counted, and by which index they are found.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Standalone, eventually, id};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::mass_acts::{bookings, preview, stranger};

/// One more than a preview's sums go.
const MANY: i64 = 10_001;

/// Backends tell what they did when they are idle, up to 10 s late.
const LIMIT: Duration = Duration::from_secs(30);

/// Copies a saga that waits so many times, with newer ids and for other guests. The copies run by a version that nobody has
/// published: each act is refused to them.
async fn copy(client: &Client, saga_id: Uuid) -> Result<()> {
    let pool = &client.databases.orchestrator;
    let copies = "INSERT INTO sagas
                  SELECT copy.* FROM sagas AS saga, generate_series(1, $2) AS number,
                      jsonb_populate_record(saga, jsonb_build_object(
                          'saga_id', overlay(gen_random_uuid()::text PLACING 'f' FROM 1), 'order_id', gen_random_uuid(),
                          'user_id', 'guest-' || number % 500, 'definition_version', 99, 'awaits', NULL)) AS copy
                  WHERE saga.saga_id = $1";
    let copied = sqlx::query(copies).bind(saga_id).bind(MANY).execute(pool).await?;
    ensure!(copied.rows_affected() == u64::try_from(MANY)?, "{copied:?}");
    sqlx::query("ANALYZE sagas").execute(pool).await?;
    Ok(())
}

/// How often an index was used.
async fn scans(pool: &PgPool, index: &str) -> Result<i64> {
    let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1";
    Ok(sqlx::query_scalar(scans).bind(index).fetch_one(pool).await?)
}

#[tokio::test]
async fn few_sagas_that_an_act_is_for_are_found_and_acted_on_beside_many_that_have_not_ended() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let guest = stranger();
    let sagas = bookings(&client, &guest, 3).await?;
    copy(&client, sagas[0]).await?;

    let told = preview(&client, "cancel", "flow=booking").await?;
    assert_eq!((&told["sagas"], &told["permitted"], &told["more"]), (&json!(10_000), &json!(3), &json!(true)));
    let rule = "the saga runs by booking v99, which this release does not know";
    let place =
        json!({"definition": "booking v99", "status": "WAITING", "step": "ACCEPT", "sagas": MANY, "refused": rule});
    assert_eq!(told["places"][0], place, "all are counted where they stand");

    let order = id(&client.saga(sagas[1]).await?, "orderId")?;
    for (query, index, fitting) in
        [(format!("userId={guest}"), "sagas_by_user", 3), (format!("orderId={order}"), "sagas_order_id_key", 1)]
    {
        let before = scans(&client.databases.orchestrator, index).await?;
        for _ in 0..10 {
            assert_eq!(preview(&client, "cancel", &query).await?["sagas"], json!(fitting), "{query}");
        }
        // Each preview is two statements.
        eventually(&format!("{query} is looked up in {index}"), LIMIT, async || {
            Ok((scans(&client.databases.orchestrator, index).await? >= before + 20).then_some(()))
        })
        .await?;
    }

    let cancel = ["cancel", "--flow", "booking", "--limit", "3", "--by", "ann", "--reason", "x", "--yes", "--json"];
    let ran = client.sagactl(&cancel).await?;
    let refused = json!([{"reason": rule, "sagas": MANY}]);
    assert_eq!(ran.json()?, json!({"done": 3, "refused": refused, "more": false, "next": null}));
    ran.says(1, &["at least 10,000, of which 3 can be cancelled"]).context("some were refused")
}
