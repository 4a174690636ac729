//! `examples/read-model`: a program of somebody else's keeps tables from what the platform publishes.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::Service::Order;
use e2e_tests::{Client, Scratch, Standalone, eventually};
use serde_json::{Value, json};
use sqlx::Row as _;
use standalone::platform::KAFKA_FILE;

use crate::participants::{examples, set_up};
use crate::platform::END_LIMIT;

/// Prints the rows of both tables, as a JSON object of lists.
const READ_TABLES: &str = "import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
orders = db.execute('SELECT order_id, status FROM orders ORDER BY order_id').fetchall()
outcomes = db.execute('SELECT flow, status, cause FROM outcomes ORDER BY saga_id').fetchall()
print(json.dumps({'orders': orders, 'outcomes': outcomes}))";

/// The program, until this is dropped.
struct Reader(Child);

impl Reader {
    fn start(kafka: &str, file: &Path, log: &Path) -> Result<Self> {
        let python = examples().join(".run/venv/bin/python");
        let script = examples().join("../read-model/read_model.py");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut reader = Command::new(python);
        reader.arg(script).arg(kafka).arg(file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(reader.spawn()?))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // With SIGKILL, as a machine ends.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn tables(file: &Path) -> Result<Value> {
    let output = tokio::process::Command::new("python3").args(["-c", READ_TABLES]).arg(file).output().await?;
    // Before it has made them there are none.
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// The orders as the order service has them.
async fn orders(client: &Client) -> Result<Value> {
    let rows = sqlx::query("SELECT order_id::text, status::text FROM orders ORDER BY order_id");
    let rows = rows.fetch_all(client.databases.of(Order)).await?;
    Ok(rows.iter().map(|row| json!([row.get::<String, _>(0), row.get::<String, _>(1)])).collect())
}

#[tokio::test]
async fn a_read_model_in_python_has_what_happened_also_after_it_was_killed() -> Result<()> {
    set_up().await?;
    let settings = [("KAFKA_TOPIC_PREFIX", ""), ("PUBLISH_OUTCOMES", "true"), ("PUBLISH_ORDER_EVENTS", "true")];
    let standalone = Standalone::start(&settings).await?;
    let (client, scratch) = (standalone.quiet_client()?, Scratch::new()?);
    let kafka = std::fs::read_to_string(standalone.data_dir().join(KAFKA_FILE))?;
    let (file, log) = (scratch.path().join("shop.db"), scratch.path().join("reader.log"));
    let start = || Reader::start(kafka.trim(), &file, &log);
    let agrees = async |outcomes: &[Value]| -> Result<()> {
        let known = async || {
            let found = tables(&file).await?;
            let ended = found["outcomes"].as_array().map_or(0, Vec::len);
            Ok((ended == outcomes.len() && found["orders"] == orders(&client).await?).then_some(found))
        };
        let found = eventually("the reader knows all", END_LIMIT, known).await;
        let found = found.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        ensure!(found["outcomes"] == json!(outcomes), "{found}");
        Ok(())
    };

    let reader = start()?;
    assert_eq!(client.checkout(&json!({"userId": "ann", "totalAmount": 500})).await?.status, 200);
    let declined = json!({"userId": "bob", "totalAmount": 7, "forcePaymentFail": true});
    assert_eq!(client.checkout(&declined).await?.status, 402);
    let mut outcomes = vec![json!(["pay-first", "COMPLETED", null]), json!(["pay-first", "FAILED", "PAYMENT_FAILED"])];
    agrees(&outcomes).await?;
    drop(reader);
    let sold_out = json!({"userId": "cyd", "totalAmount": 7, "forceInventoryFail": true});
    assert_eq!(client.checkout(&sold_out).await?.status, 409);
    outcomes.push(json!(["pay-first", "FAILED", "INVENTORY_FAILED"]));

    let _reader = start()?;
    agrees(&outcomes).await
}
