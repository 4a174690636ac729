//! A database on two servers, one of them a hot standby: whoever writes finds the primary, before a failover and after it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Scratch, Service, Services, eventually, free_port, id};
use serde_json::json;
use standalone::data_dir::DataDir;
use standalone::postgres::Servers;

const LIMIT: Duration = Duration::from_secs(30);

/// The standby's copy of the order service's database, and its server's port.
async fn standby(
    services: &Services,
    client: &Client,
    scratch: &Scratch,
    data_dir: &DataDir,
) -> Result<(Servers, u16)> {
    let primary = services.database(Service::Order)?;
    primary.stop().await;
    let name = Service::Order.database();
    let copied = Command::new("cp").arg("-a").arg(services.data_dir().join(name)).arg(scratch.data()).status()?;
    ensure!(copied.success());
    primary.start().await?;
    std::fs::write(signal(&scratch.data()), "")?;
    let mut databases = client.ports.databases();
    databases.retain(|database| database.name == name);
    databases[0].port = free_port()?;
    let port = databases[0].port;
    Ok((Servers::start(data_dir, databases, |_| ()).await?, port))
}

fn signal(data: &Path) -> std::path::PathBuf {
    data.join(Service::Order.database()).join("standby.signal")
}

#[tokio::test]
async fn the_primary_of_two_hosts_is_found_before_a_failover_and_after_it() -> Result<()> {
    let mut services = Services::launch_none(&[]).await?;
    let client = services.client()?;
    services.start_again(Service::Order).await?;
    services.stop(Service::Order).await?;
    let scratch = Scratch::new()?;
    std::fs::create_dir_all(scratch.data())?;
    // Both servers have the same roles, and so the same passwords.
    let passwords =
        Command::new("cp").arg("-a").arg(services.data_dir().join("pgpass")).arg(scratch.data()).status()?;
    ensure!(passwords.success());
    let data_dir = DataDir::open(&scratch.data())?;
    let (servers, port) = standby(&services, &client, &scratch, &data_dir).await?;
    let second = servers.server(Service::Order.database()).context("it was started")?;

    let url = client.database_url(Service::Order)?;
    let first = format!("127.0.0.1:{}", client.ports.order_db);
    let both = format!("{}&target_session_attrs=read-write", url.replace(&first, &format!("127.0.0.1:{port},{first}")));
    services.set("DATABASE_URL", &both);
    services.start_again(Service::Order).await?;
    let body = json!({"userId": "u1", "totalAmount": 500});
    let create = async || client.post(Service::Order, "/orders", &body).await;
    let order = create().await?;
    ensure!(order.status == 201, "{} {}", order.status, order.text);
    let audited = client.sagactl_with(&["audit"], &[("ORDER_DATABASE_URL", &both)]).await?;
    ensure!(!audited.stderr.contains("the order database"), "{audited:?}");

    services.database(Service::Order)?.stop().await;
    second.stop().await;
    std::fs::remove_file(signal(&scratch.data()))?;
    second.start().await?;

    let order = eventually("the new primary takes orders", LIMIT, async || {
        let order = create().await?;
        ensure!(matches!(order.status, 201 | 503), "{} {}", order.status, order.text);
        Ok((order.status == 201).then_some(order))
    })
    .await?;
    let path = format!("/orders/{}", id(&order.json()?, "orderId")?);
    let read = client.get(Service::Order, &path).await?;
    ensure!(read.status == 200, "{} {}", read.status, read.text);
    eventually("it is ready", LIMIT, async || {
        Ok((client.get(Service::Order, "/health/ready").await?.status == 200).then_some(()))
    })
    .await?;
    ensure!(client.log().contains("the database's primary is this one now"), "{}", client.log());
    servers.stop().await;
    Ok(())
}
