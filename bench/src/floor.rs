//! The floor beside the platform, on the same Kafka and the same Postgres servers: its processes, and the proof that
//! it has not skipped any work.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Client, Databases, Process, Scratch, Service, eventually, free_port};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use serde_json::json;
use uuid::Uuid;

use crate::platform::{PARTITIONS, Subject, kafka};
use crate::usage::{Counted, Group};

const TOPICS: [&str; 4] =
    ["payment.charge.command", "payment.charged", "inventory.reserve.command", "inventory.reserved"];

const START_LIMIT: Duration = Duration::from_secs(30);

/// The durable commits of a checkout: 5 of the orchestrator, 2 of orders, 3 of payment, 1 of inventory.
pub const COMMITS: f64 = 11.0;

/// The running processes of `floor`. With the value go they and their logs.
pub struct Floor {
    processes: Vec<(&'static str, Process)>,
    url: String,
    _scratch: Scratch,
}

/// How many rows of finished checkouts there are, by table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows([i64; 7]);

impl Floor {
    /// Starts it, and waits until a first checkout has gone through.
    pub async fn start(client: &Client) -> Result<Self> {
        let (scratch, prefix) = (Scratch::new()?, format!("floor-{}-", Uuid::now_v7().simple()));
        create_topics(client.kafka.address(), &prefix).await?;
        let (port, orders_port) = (free_port()?, free_port()?);
        let start = |name: &'static str, service, more: &[&str], with_kafka: bool| {
            let mut arguments = vec![name.to_owned(), "--database".to_owned(), client.database_url(service)?];
            arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
            if with_kafka {
                let kafka = ["--kafka", client.kafka.address(), "--prefix", &prefix];
                arguments.extend(kafka.map(str::to_owned));
            }
            anyhow::Ok((name, Process::start_as(name, &scratch, "floor", &arguments, &[])?))
        };
        let (orders_at, port_text) = (format!("http://127.0.0.1:{orders_port}"), port.to_string());
        let mut processes = vec![
            start("orchestrator", Service::Orchestrator, &["--port", &port_text, "--orders", &orders_at], true)?,
            start("orders", Service::Order, &["--port", &orders_port.to_string()], false)?,
            start("payment", Service::Payment, &[], true)?,
            start("inventory", Service::Inventory, &[], true)?,
        ];
        let url = format!("http://127.0.0.1:{port}/checkout");
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(START_LIMIT).build()?;
        eventually("the floor takes a checkout", START_LIMIT, async || {
            for (name, process) in &mut processes {
                ensure!(process.has_ended().is_none(), "the floor's {name} has ended: {}", process.output());
            }
            let body = json!({"userId": "first", "totalAmount": 1});
            let answer = http.post(&url).json(&body).send().await;
            Ok(answer.is_ok_and(|answer| answer.status() == 200).then_some(()))
        })
        .await?;
        Ok(Self { processes, url, _scratch: scratch })
    }

    /// The columns are those of the platform.
    pub fn subject(&self, postgres: Group) -> Result<Subject> {
        let mut groups = vec![kafka()?, postgres];
        groups.extend(self.processes.iter().map(|(name, process)| Group {
            name: if *name == "orders" { "order" } else { name },
            processes: vec![Counted::Itself(process.id())],
        }));
        Ok(Subject { urls: vec![self.url.clone()], groups })
    }
}

impl Rows {
    pub async fn count(databases: &Databases) -> Result<Self> {
        let Databases { order, payment, inventory, orchestrator } = databases;
        let tables = [
            (orchestrator, "SELECT count(*) FROM floor.sagas WHERE status = 'COMPLETED'"),
            (orchestrator, "SELECT count(*) / 5 FROM floor.saga_events"),
            (order, "SELECT count(*) FROM floor.orders WHERE status = 'CONFIRMED'"),
            (payment, "SELECT count(*) FROM floor.payments WHERE status = 'CHARGED'"),
            (payment, "SELECT count(*) FROM floor.gateway_requests"),
            (payment, "SELECT count(*) FROM floor.gateway_ledger"),
            (inventory, "SELECT count(*) FROM floor.reservations WHERE status = 'RESERVED'"),
        ];
        let mut rows = [0; 7];
        for (count, (pool, sql)) in rows.iter_mut().zip(tables) {
            *count = sqlx::query_scalar(sql).fetch_one(pool).await?;
        }
        Ok(Self(rows))
    }

    /// What is wrong, if not every table has grown by as many rows as checkouts were answered.
    pub fn missing(self, before: Self, answered: u64) -> Option<String> {
        let grown: Vec<i64> = self.0.iter().zip(before.0).map(|(after, before)| after - before).collect();
        let all_there = grown.iter().all(|rows| u64::try_from(*rows) == Ok(answered));
        (!all_there).then(|| format!("the floor answered {answered} checkouts, its tables have grown by {grown:?}"))
    }
}

async fn create_topics(address: &str, prefix: &str) -> Result<()> {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", address).create()?;
    let names = TOPICS.map(|topic| format!("{prefix}{topic}"));
    let topics: Vec<_> =
        names.iter().map(|name| NewTopic::new(name, PARTITIONS as i32, TopicReplication::Fixed(1))).collect();
    let options = AdminOptions::new().operation_timeout(Some(START_LIMIT));
    for created in admin.create_topics(&topics, &options).await? {
        created.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_that_skips_a_table_is_found() {
        let (before, after) = (Rows([1; 7]), Rows([11; 7]));
        assert_eq!(after.missing(before, 10), None);
        assert!(after.missing(before, 11).is_some());
        assert!(Rows([11, 11, 11, 11, 11, 11, 10]).missing(before, 10).is_some());
    }
}
