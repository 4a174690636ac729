//! `sagactl`, as an operator uses it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Ran, Service, Services, Standalone, id, shared};
use serde_json::{Value, json};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(15);

/// A flow whose first step waits for a signal.
const BOOKING: &str = include_str!("../../../examples/booking/booking.v1.yaml");

fn tells(ran: &Ran, code: i32, words: &[&str]) -> Result<()> {
    ensure!(ran.code == code, "{ran:?}");
    for word in words {
        ensure!(
            ran.stdout.contains(word) || ran.stderr.contains(word),
            "no {word:?} in\n{}\n{}",
            ran.stdout,
            ran.stderr
        );
    }
    Ok(())
}

/// What is shown of a saga, once each service has answered: one that is slow is told as one that is away.
async fn shown(client: &Client, id: Uuid) -> Result<Ran> {
    e2e_tests::eventually("each service has answered", SOON, async || {
        let ran = client.sagactl(&["show", &id.to_string()]).await?;
        Ok((!ran.stdout.contains("can't be asked")).then_some(ran))
    })
    .await
}

#[tokio::test]
async fn a_sold_out_checkout_is_sent_listed_and_shown_with_where_its_money_went() -> Result<()> {
    let client = shared().await?;
    let user = format!("user-{}", Uuid::now_v7());
    let sold_out = ["checkout", "--user", &user, "--amount", "500.50", "--force-inventory-fail"];
    tells(&client.sagactl(&sold_out).await?, 1, &["FAILED/INVENTORY_FAILED", "out of stock"])?;
    tells(&client.sagactl(&["checkout", "--user", &user, "--amount", "7"]).await?, 0, &["COMPLETED"])?;

    let listed = client.sagactl(&["list", "--user", &user, "--since", "10m", "--json"]).await?;
    let sagas: Vec<Value> = listed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let steps: Vec<&str> = sagas.iter().map(|saga| saga["step"].as_str().unwrap_or_default()).collect();
    assert_eq!(steps, ["COMPLETED", "INVENTORY_FAILED"]);
    let failed = ["list", "--user", &user, "--status", "FAILED"];
    tells(&client.sagactl(&failed).await?, 0, &["SAGA", "INVENTORY_FAILED", "500.50 USD", "out of stock"])?;

    let all = client.sagactl(&["list", "--user", &user, "--all"]).await?;
    ensure!(all.code == 0 && all.stdout.lines().count() == 3, "{all:?}");

    // By its order's id as well as by its own.
    for field in ["sagaId", "orderId"] {
        let shown = shown(&client, id(&sagas[1], field)?).await?;
        tells(
            &shown,
            0,
            &[
                "500.50 USD were charged at",
                "The goods were refused at",
                "The money went back at",
                "no money and no goods are held",
                "payment.refund.command",
                "payment: REFUNDED",
                "CHARGE 500.50 USD",
                "REFUND 500.50 USD",
                "reservation: FAILED",
            ],
        )?;
        ensure!(!shown.stdout.contains('\x1b'), "colour where there is no terminal: {}", shown.stdout);
    }
    let saga_id = id(&sagas[1], "sagaId")?.to_string();
    let answered = async || {
        let whole = client.sagactl(&["show", &saga_id, "--json"]).await?.json()?;
        let errors = ["order", "payment", "reservation"].map(|service| whole["rows"][service]["error"].clone());
        Ok(errors.iter().all(Value::is_null).then_some(whole))
    };
    let whole = e2e_tests::eventually("each service has answered", SOON, answered).await?;
    assert_eq!(whole["rows"]["payment"]["row"]["status"], "REFUNDED");
    tells(&client.sagactl(&["stats"]).await?, 0, &["Unfinished", "COMPLETED", "p50"])
}

#[tokio::test]
async fn a_running_saga_is_watched_cancelled_and_ends_and_what_is_refused_is_told() -> Result<()> {
    let services = Services::start(&[("PAYMENT_PROCESSING_MS", "60000")]).await?;
    let client = services.client()?;
    let begun = client.sagactl(&["checkout", "--user", "u1", "--amount", "500", "--no-wait", "--json"]).await?;
    ensure!(begun.code == 3, "{begun:?}");
    let saga = id(&begun.json()?, "sagaId")?.to_string();
    let at_charge =
        async || Ok(client.sagactl(&["show", &saga]).await?.stdout.contains("pending: payment.charge").then_some(()));
    e2e_tests::eventually("the charge is pending", SOON, at_charge).await?;

    let by = ["--by", "ann", "--reason", "she called"];
    tells(&client.sagactl(&[&["retry", &saga][..], &by].concat()).await?, 0, &["RUNNING/PAYMENT_CHARGE"])?;
    let early = [&["resolve", &saga, "--step", "PAYMENT_REFUND", "--evidence", "4711"][..], &by].concat();
    tells(&client.sagactl(&early).await?, 1, &["409", "needs attention"])?;
    tells(&client.sagactl(&[&["cancel", &saga][..], &by].concat()).await?, 0, &["COMPENSATING/PAYMENT_REFUND"])?;
    tells(&client.sagactl(&["show", &saga]).await?, 0, &["ann cancelled it at", "she called"])?;

    tells(
        &client.sagactl(&[&["intake", "pause"][..], &by].concat()).await?,
        0,
        &["intake paused, by ann: she called"],
    )?;
    tells(&client.sagactl(&["checkout", "--user", "u1", "--amount", "5"]).await?, 2, &["503", "paused"])?;
    tells(&client.sagactl(&[&["intake", "resume"][..], &by].concat()).await?, 0, &["intake open"])?;
    tells(&client.sagactl(&["intake", "status"]).await?, 0, &["intake open, by ann"])
}

#[tokio::test]
async fn a_signal_is_stored_and_the_saga_that_has_taken_it_is_named() -> Result<()> {
    let client = shared().await?;
    let published = client.publish_flow(BOOKING).await?;
    ensure!(matches!(published.status, 200 | 201), "{} {}", published.status, published.text);
    let number = format!("R-{}", Uuid::now_v7());
    let accepted = ["signal", "booking.accepted", "--match", &number, "--id", &number, "--payload"];
    let by = async |payload: &str| client.sagactl(&[&accepted[..], &[payload]].concat()).await;
    tells(&by(r#"{"by":"eve"}"#).await?, 0, &["booking.accepted", &number, "no saga waits for it yet"])?;

    let request = json!({"guest": "ann", "request": number, "price": 120});
    let begun = client.post(Service::Orchestrator, "/flows/booking", &request).await?.json()?;
    let saga = id(&begun, "sagaId")?.to_string();
    let ended = client.end_of(&format!("/sagas/{saga}"), SOON).await?;
    assert_eq!((&ended["status"], &ended["kept"]["ACCEPT"]), (&json!("COMPLETED"), &json!({"by": "eve"})));
    let taken = format!("sent before, taken by saga {saga}, at ACCEPT");
    tells(&by(r#"{"by":"eve"}"#).await?, 0, &[&taken])?;

    tells(&by(r#"{"by":"mallory"}"#).await?, 1, &["409", &number])?;
    let unreadable = ["signal", "booking.accepted", "--match", &number];
    tells(&client.sagactl(&unreadable).await?, 1, &["422", "payload.by"])?;
    let unknown = ["signal", "booking.acepted", "--match", &number];
    tells(&client.sagactl(&unknown).await?, 2, &["404", "booking.accepted"])
}

#[tokio::test]
async fn watching_a_saga_tells_its_moves_and_ends_with_it() -> Result<()> {
    let client = shared().await?;
    let saga = id(&client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?, "sagaId")?.to_string();
    let watched = client.sagactl(&["watch", &saga, "--json"]).await?;
    tells(&watched, 0, &[])?;
    let inputs: Vec<Value> = watched
        .stdout
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["input"].clone()))
        .collect::<Result<_>>()?;
    assert_eq!(inputs, ["started", "order.created", "payment.charged", "inventory.reserved", "order.confirmed"]);
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_done_is_told_in_one_line_that_says_why() -> Result<()> {
    let client = shared().await?;
    let unknown = Uuid::now_v7().to_string();
    tells(&client.sagactl(&["show", &unknown]).await?, 2, &["there is no saga"])?;
    tells(&client.sagactl(&["cancel", &unknown, "--by", "ann", "--reason", "x"]).await?, 2, &["404"])?;
    tells(&client.sagactl(&["list", "--step", "NOWHERE"]).await?, 2, &["PAYMENT_CHARGE"])?;
    let nobody = format!("http://127.0.0.1:{}", e2e_tests::free_port()?);
    let away = client.sagactl_with(&["stats"], &[("ORCHESTRATOR_URL", &nobody)]).await?;
    tells(&away, 2, &["the orchestrator can't be reached", &nobody, "--orchestrator-url"])?;
    ensure!(away.stderr.lines().count() == 1, "{}", away.stderr);
    let completions = client.sagactl(&["completions", "bash"]).await?;
    completions.stdout.find("complete -F").map(|_| ()).context("completions")
}

#[tokio::test]
async fn topics_are_told_with_their_records_and_where_their_readers_are() -> Result<()> {
    let client = shared().await?;
    let completed = client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    ensure!(completed.status == 200, "{}", completed.status);
    tells(&client.sagactl(&["topics"]).await?, 0, &["TOPIC", "payment.charge.command", "saga-orchestrator"])?;
    let told = client.sagactl(&["topics", "--json"]).await?;
    let topics: Vec<Value> = told.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(topics.len(), messages::TOPICS.len());
    for used in ["payment.charge.command", "payment.charged", "inventory.reserved"] {
        let topic = topics.iter().find(|topic| topic["topic"] == used).context(used)?;
        ensure!(topic["records"].as_u64() > Some(0), "{topic}");
    }
    // Offsets are committed twice a second.
    let committed = async || {
        let told = client.sagactl(&["topics", "--json"]).await?.stdout;
        let topics: Vec<Value> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let charged = topics.iter().find(|topic| topic["topic"] == "payment.charged").context("payment.charged")?;
        let partitions = charged["partitions"].as_array().context("partitions")?;
        Ok(partitions.iter().any(|partition| partition["committed"].as_i64() > Some(0)).then_some(()))
    };
    e2e_tests::eventually("the group has committed", SOON, committed).await?;
    let nowhere = client.sagactl_with(&["topics"], &[("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")]).await?;
    tells(&nowhere, 2, &["Kafka can't be reached at 127.0.0.1:1", "KAFKA_BOOTSTRAP_SERVERS"])
}

/// The databases' URLs as `sagactl` has them by default: without passwords.
fn without_passwords(client: &Client) -> Result<Vec<(String, String)>> {
    let url = |service: Service| {
        let url = client.database_url(service)?;
        let (user, place) = url.split_once('@').context("a URL")?;
        let user = user.rsplit_once(':').context("a password")?.0;
        Ok((format!("{}_DATABASE_URL", service.database().to_uppercase()), format!("{user}@{place}")))
    };
    Service::ALL.map(url).into_iter().collect()
}

#[tokio::test]
async fn passwords_come_from_the_file_that_the_start_prints_and_a_missing_one_is_reported() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;
    let data = standalone.data_dir().display().to_string();
    let file = format!("{data}/pgpass");
    let urls = without_passwords(&client)?;
    let audit = async |more: &[(&str, &str)]| {
        let urls = urls.iter().map(|(name, url)| (name.as_str(), url.as_str()));
        client.sagactl_with(&["audit"], &urls.chain(more.iter().copied()).collect::<Vec<_>>()).await
    };

    tells(&audit(&[("PGPASSFILE", &file)]).await?, 0, &["0 sagas"])?;
    tells(&audit(&[("DATA_DIR", &data)]).await?, 0, &["0 sagas"])?;

    let place = "the order database order_user@127.0.0.1:";
    let refused = "password authentication failed";
    let nowhere = audit(&[]).await?;
    tells(&nowhere, 2, &[place, refused, "there is no data/pgpass: `standalone` prints `export PGPASSFILE="])?;
    ensure!(nowhere.stderr.lines().count() == 1, "{}", nowhere.stderr);
    let gone = format!("{data}/gone");
    tells(&audit(&[("PGPASSFILE", &gone)]).await?, 2, &[place, refused, &format!("{gone} can't be read")])?;
    let other = format!("{data}/other");
    std::fs::copy(&file, &other)?;
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    tells(&audit(&[("PGPASSFILE", &other)]).await?, 2, &[place, refused, "others may read it"])?;
    std::fs::write(&other, "localhost:1:order_db:order_user:x\n")?;
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    tells(&audit(&[("PGPASSFILE", &other)]).await?, 2, &[place, refused, &format!("{other} has no line for it")])
}

#[tokio::test]
async fn psql_gets_in_by_the_lines_that_the_start_prints() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let output = standalone.output();
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    let export = lines.iter().find(|line| line.starts_with("export PGPASSFILE=")).context("no export")?;
    let psql: Vec<&&str> = lines.iter().filter(|line| line.starts_with("psql -h localhost -p ")).collect();
    ensure!(psql.len() == 4, "{output}");
    if std::process::Command::new("psql").arg("--version").output().is_err() {
        println!("skipped: there is no psql");
        return Ok(());
    }
    for line in psql {
        let script = format!("{export}; {line} -Atc 'SELECT current_user'");
        let ran = std::process::Command::new("sh").args(["-c", &script]).output()?;
        let user = line.split_whitespace().skip_while(|word| *word != "-U").nth(1).context("a user")?;
        ensure!(String::from_utf8_lossy(&ran.stdout).trim() == user, "{script}: {ran:?}");
    }
    Ok(())
}
