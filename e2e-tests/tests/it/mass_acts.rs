//! An operator's act on all sagas that fit a filter: its preview, its pages, and `sagactl` and the dashboard on top.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Answer, Client, Service, Services, Standalone, eventually, id, shared};
use serde_json::{Value, json};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);

/// A flow whose first step waits for a signal, and whose sagas can be cancelled there.
const BOOKING: &str = include_str!("../../../examples/booking/booking.v1.yaml");

fn body() -> Value {
    json!({"by": "ann", "reason": "the bank is back"})
}

/// A user that no other test knows.
pub fn stranger() -> String {
    format!("user-{}", Uuid::now_v7())
}

async fn get(client: &Client, path: &str) -> Result<Answer> {
    client.get(Service::Orchestrator, path).await
}

/// The preview of an act on what a query asks for.
pub async fn preview(client: &Client, act: &str, query: &str) -> Result<Value> {
    let answer = get(client, &format!("/sagas/{act}?{query}")).await?;
    ensure!(answer.status == 200, "{query}: {} {}", answer.status, answer.text);
    answer.json()
}

/// Waits until a preview counts so many.
async fn counts(client: &Client, act: &str, query: &str, sagas: i64) -> Result<Value> {
    eventually(&format!("{act} of {query} is for {sagas}"), SOON, async || {
        Ok(Some(preview(client, act, query).await?).filter(|preview| preview["sagas"] == json!(sagas)))
    })
    .await
}

/// Acts on one page.
async fn act(client: &Client, act: &str, query: &str) -> Result<Value> {
    let answer = client.post(Service::Orchestrator, &format!("/sagas/{act}?{query}"), &body()).await?;
    ensure!(answer.status == 200, "{query}: {} {}", answer.status, answer.text);
    answer.json()
}

async fn checkouts(client: &Client, user: &str, count: usize) -> Result<Vec<Uuid>> {
    let mut sagas = Vec::new();
    for _ in 0..count {
        let begun = client.checkout_async(&json!({"userId": user, "totalAmount": 500})).await?;
        sagas.push(id(&begun.json()?, "sagaId")?);
    }
    Ok(sagas)
}

/// Bookings of a guest, which wait for their host.
pub async fn bookings(client: &Client, guest: &str, count: usize) -> Result<Vec<Uuid>> {
    let published = client.publish_flow(BOOKING).await?;
    ensure!(matches!(published.status, 200 | 201), "{} {}", published.status, published.text);
    let mut sagas = Vec::new();
    for number in 0..count {
        let request = json!({"guest": guest, "request": format!("R-{number}"), "price": 120});
        let begun = client.post(Service::Orchestrator, "/flows/booking", &request).await?;
        sagas.push(id(&begun.json()?, "sagaId")?);
    }
    Ok(sagas)
}

/// The entries that a person made in a saga's history, as (input, by, reason).
async fn by_hand(client: &Client, saga_id: Uuid) -> Result<Vec<[String; 3]>> {
    let history = client.saga(saga_id).await?["history"].as_array().cloned().context("a history")?;
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let entries = history.iter().filter(|entry| entry["by"].is_string());
    Ok(entries.map(|entry| [text(entry, "input"), text(entry, "by"), text(entry, "reason")]).collect())
}

async fn is_at(client: &Client, saga_id: Uuid, step: &str) -> Result<()> {
    let at = async || Ok((client.saga(saga_id).await?["step"] == json!(step)).then_some(()));
    eventually(&format!("the saga is at {step}"), SOON, at).await
}

#[tokio::test]
async fn sagas_that_are_stuck_are_counted_and_retried_page_by_page_and_no_others_are() -> Result<()> {
    let mut services = Services::start(&[("RESEND_FIRST_MS", "200"), ("RESEND_MAX_MS", "60000")]).await?;
    let client = services.client()?;
    let (user, other) = (stranger(), stranger());
    assert_eq!(client.checkout(&json!({"userId": user, "totalAmount": 5})).await?.status, 200);
    services.kill(Service::Payment)?;
    let (stuck, others) = (checkouts(&client, &user, 7).await?, checkouts(&client, &other, 1).await?);

    let query = format!("flow=pay-first&step=payment_charge&since=2026-01-01T00:00:00Z&userId={user}");
    let told = counts(&client, "retry", &query, 7).await?;
    let place = json!({"definition": "pay-first v1", "status": "RUNNING", "step": "PAYMENT_CHARGE", "sagas": 7});
    assert_eq!((&told["permitted"], &told["more"], &told["places"]), (&json!(7), &json!(false), &json!([place])));
    let first: Vec<Uuid> =
        told["first"].as_array().context("the first")?.iter().map(|saga| id(saga, "sagaId")).collect::<Result<_>>()?;
    assert_eq!(first, stuck.iter().rev().copied().collect::<Vec<_>>(), "newest first");
    for saga_id in &stuck {
        assert_eq!(by_hand(&client, *saga_id).await?, Vec::<[String; 3]>::new(), "a preview changes nothing");
    }

    let mut page = act(&client, "retry", &format!("{query}&limit=3")).await?;
    assert_eq!((&page["done"], &page["refused"], &page["next"]), (&json!(3), &json!([]), &json!(stuck[4])));
    assert_eq!(by_hand(&client, stuck[3]).await?.len(), 0, "a limit stops it");
    let mut done = vec![3];
    while let Some(next) = page["next"].as_str() {
        page = act(&client, "retry", &format!("{query}&limit=3&before={next}")).await?;
        done.push(page["done"].as_i64().context("a count")?);
    }
    assert_eq!(done, [3, 3, 1]);
    for saga_id in &stuck {
        let entry = ["operator.retried", "ann", "the bank is back"].map(str::to_owned);
        assert_eq!(by_hand(&client, *saga_id).await?, [entry]);
    }
    assert_eq!(by_hand(&client, others[0]).await?.len(), 0, "another user's saga was not meant");

    // A saga that was retried fits as before, so the next run goes on behind the last one.
    counts(&client, "retry", &query, 7).await?;
    let retry = ["retry", "--user", &user, "--limit", "2", "--by", "ann", "--reason", "x", "--yes", "--json"];
    let first = client.sagactl(&retry).await?.json()?;
    let next = first["next"].as_str().context("others fit")?;
    let second = client.sagactl(&[&retry[..], &["--before", next]].concat()).await?.json()?;
    assert_eq!((&first["done"], &second["done"], &second["next"]), (&json!(2), &json!(2), &json!(stuck[3])));
    let mut entries = Vec::new();
    for saga_id in &stuck {
        entries.push(by_hand(&client, *saga_id).await?.len());
    }
    assert_eq!(entries, [1, 1, 1, 2, 2, 2, 2]);

    services.start_again(Service::Payment).await?;
    for saga_id in stuck.iter().chain(&others) {
        assert_eq!(client.end_of(&format!("/sagas/{saga_id}"), SOON).await?["status"], json!("COMPLETED"));
    }
    let query = format!("userId={user}");
    assert_eq!(preview(&client, "retry", &query).await?["sagas"], json!(0));
    let page = act(&client, "retry", &format!("{query}&limit=500")).await?;
    assert_eq!((&page["done"], &page["next"]), (&json!(0), &Value::Null), "a second run finds none");
    client.agree_about(&stuck).await
}

#[tokio::test]
async fn a_saga_that_its_flow_does_not_let_go_is_refused_with_the_rule_and_the_others_are_cancelled() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    // It stands at the confirmation, since the order service goes away while it is reserved.
    let mut lock = client.databases.inventory.begin().await?;
    sqlx::query("LOCK TABLE reservations IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    let confirmed = checkouts(&client, "u1", 1).await?[0];
    is_at(&client, confirmed, "INVENTORY_RESERVE").await?;
    services.kill(Service::Order)?;
    lock.rollback().await?;
    is_at(&client, confirmed, "ORDER_CONFIRM").await?;
    let created = checkouts(&client, "u1", 2).await?;

    let rule = "the saga is RUNNING/ORDER_CONFIRM: only a saga that has not reached ORDER_CONFIRM can be cancelled";
    let told = preview(&client, "cancel", "flow=pay-first").await?;
    assert_eq!((&told["sagas"], &told["permitted"]), (&json!(3), &json!(2)));
    let at_confirmation = told["places"].as_array().context("places")?.iter().find(|at| at["step"] == "ORDER_CONFIRM");
    assert_eq!(at_confirmation.context("the one that is refused")?["refused"], json!(rule));

    let page = act(&client, "cancel", "flow=pay-first&since=2026-01-01T00:00:00Z&limit=100").await?;
    assert_eq!(page, json!({"done": 2, "refused": [{"reason": rule, "sagas": 1}], "next": null}));
    for saga_id in &created {
        let entry = ["operator.cancelled", "ann", "the bank is back"].map(str::to_owned);
        assert_eq!(by_hand(&client, *saga_id).await?, [entry]);
    }
    assert_eq!(by_hand(&client, confirmed).await?.len(), 0);
    // One that turns back is not cancelled again.
    let cancel = ["cancel", "--flow", "pay-first", "--since", "1h", "--by", "ann", "--reason", "x", "--yes"];
    let refused =
        ["Sagas that fit and have not turned back: 1, of which 0 can be cancelled", "0 cancelled", "1 refused:", rule];
    client.sagactl(&cancel).await?.says(1, &refused)?;

    services.start_again(Service::Order).await?;
    assert_eq!(client.end_of(&format!("/sagas/{confirmed}"), SOON).await?["status"], json!("COMPLETED"));
    for saga_id in &created {
        assert_eq!(client.end_of(&format!("/sagas/{saga_id}"), SOON).await?["step"], json!("CANCELLED"));
    }
    client.agree_about(&[created, vec![confirmed]].concat()).await
}

#[tokio::test]
async fn an_act_that_begins_where_its_preview_did_is_for_none_that_have_begun_since() -> Result<()> {
    let client = shared().await?;
    let guest = stranger();
    let query = format!("userId={guest}");
    assert_eq!(preview(&client, "cancel", &query).await?["before"], Value::Null, "none fit");
    let seen = bookings(&client, &guest, 2).await?;
    let told = preview(&client, "cancel", &query).await?;
    let begun_since = bookings(&client, &guest, 2).await?;

    let before = told["before"].as_str().context("where it begins")?;
    let older = preview(&client, "cancel", &format!("{query}&before={before}")).await?;
    assert_eq!((&older["sagas"], &older["before"]), (&json!(2), &told["before"]));
    let page = act(&client, "cancel", &format!("{query}&limit=100&before={before}")).await?;
    assert_eq!((&page["done"], &page["next"]), (&json!(2), &Value::Null));
    for saga_id in &seen {
        assert_eq!(client.end_of(&format!("/sagas/{saga_id}"), SOON).await?["step"], json!("CANCELLED"));
    }
    for saga_id in &begun_since {
        assert_eq!(by_hand(&client, *saga_id).await?.len(), 0, "nobody was shown it");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_ends_where_the_act_was_done_on_as_many_as_it_may_be_at_most() -> Result<()> {
    let client = shared().await?;
    let guest = stranger();
    let sagas = bookings(&client, &guest, 3).await?;
    // Of a version that nobody has published the act is refused.
    let of_version = "UPDATE sagas SET definition_version = $2 WHERE saga_id = $1";
    sqlx::query(of_version).bind(sagas[2]).bind(99).execute(&client.databases.orchestrator).await?;
    let cancel = async |before: &str| {
        let path = format!("/sagas/cancel?userId={guest}&limit=100{before}");
        let body = json!({"by": "ann", "reason": "the bank is back", "atMost": 1});
        client.post(Service::Orchestrator, &path, &body).await?.json()
    };

    let rule = "the saga runs by booking v99, which this release does not know";
    let refused = json!([{"reason": rule, "sagas": 1}]);
    assert_eq!(cancel("").await?, json!({"done": 1, "refused": refused, "next": sagas[1]}));
    assert_eq!(by_hand(&client, sagas[0]).await?.len(), 0, "it was one too many");
    let last = cancel(&format!("&before={}", sagas[1])).await?;
    assert_eq!(last, json!({"done": 1, "refused": [], "next": null}));
    sqlx::query(of_version).bind(sagas[2]).bind(1).execute(&client.databases.orchestrator).await?;
    Ok(())
}

#[tokio::test]
async fn a_row_that_somebody_holds_stops_no_other_and_is_done_by_the_next_run() -> Result<()> {
    let client = shared().await?;
    let guest = stranger();
    let sagas = bookings(&client, &guest, 3).await?;
    let query = format!("flow=booking&step=ACCEPT&status=waiting&userId={guest}&limit=100");
    let mut holder = client.databases.orchestrator.begin().await?;
    sqlx::query("SELECT FROM sagas WHERE saga_id = $1 FOR UPDATE").bind(sagas[1]).execute(&mut *holder).await?;

    let page = act(&client, "cancel", &query).await?;
    let held = json!([{"reason": "another transaction holds the saga's row", "sagas": 1}]);
    assert_eq!((&page["done"], &page["refused"], &page["next"]), (&json!(2), &held, &Value::Null));
    holder.rollback().await?;

    assert_eq!(act(&client, "cancel", &query).await?["done"], json!(1), "the rest");
    assert_eq!(act(&client, "cancel", &query).await?["done"], json!(0));
    for saga_id in &sagas {
        assert_eq!(client.end_of(&format!("/sagas/{saga_id}"), SOON).await?["step"], json!("CANCELLED"));
        assert_eq!(by_hand(&client, *saga_id).await?.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn acts_keep_to_the_pace_of_repetitions_and_a_request_ends_before_its_client_gives_up() -> Result<()> {
    let standalone = Standalone::start(&[("RESEND_PER_SECOND", "1")]).await?;
    let client = standalone.client()?;
    let guest = stranger();
    let sagas = bookings(&client, &guest, 9).await?;
    let begun = Instant::now();

    let page = act(&client, "cancel", &format!("userId={guest}&limit=100")).await?;
    let done = page["done"].as_u64().context("a count")?;
    ensure!((2..9).contains(&done), "{done} of {} in {:?}", sagas.len(), begun.elapsed());
    ensure!(begun.elapsed() >= Duration::from_secs(done - 1), "{done} in {:?}", begun.elapsed());
    let next = page["next"].as_str().context("it goes on elsewhere")?;

    let rest = act(&client, "cancel", &format!("userId={guest}&limit=100&before={next}")).await?;
    assert_eq!(rest["done"].as_u64(), Some(9 - done));
    Ok(())
}

#[tokio::test]
async fn an_act_on_many_that_says_not_which_or_why_is_refused_by_name() -> Result<()> {
    let client = shared().await?;
    let wrong = [
        ("retry", "flow=cruise&limit=1", "flow", "pay-first"),
        ("retry", "step=PAY-&limit=1", "step", "PAYMENT_CHARGE"),
        ("retry", "status=DONE&limit=1", "status", "RUNNING"),
        ("retry", "status=FAILED&limit=1", "status", "RUNNING or WAITING or COMPENSATING"),
        ("retry", "step=TIMED_OUT&limit=1", "step", "RUNNING or WAITING or COMPENSATING"),
        ("cancel", "status=COMPENSATING&limit=1", "status", "RUNNING or WAITING"),
        ("cancel", "userId=%20&limit=1", "userId", ""),
        ("cancel", "flow=pay-first&limit=501", "limit", "1 to 500"),
    ];
    for (act, query, field, rule) in wrong {
        for answer in [
            client.post(Service::Orchestrator, &format!("/sagas/{act}?{query}"), &body()).await?,
            get(&client, &format!("/sagas/{act}?{query}")).await?,
        ] {
            // How many are shown is the preview's own.
            if field == "limit" && answer.status == 200 {
                continue;
            }
            answer.is_problem(400, &[field, rule]).with_context(|| format!("{act}?{query}"))?;
            assert_eq!(answer.field("field")?, field, "{act}?{query}");
        }
    }
    for (query, name) in [("flow=pay-first&since=yesterday", "since"), ("flow=pay-first&user=u1", "user")] {
        let answer = client.post(Service::Orchestrator, &format!("/sagas/retry?{query}"), &body()).await?;
        answer.is_problem(400, &[name])?;
    }
    let unbounded = client.post(Service::Orchestrator, "/sagas/retry?flow=pay-first", &body()).await?;
    unbounded.is_problem(400, &["`limit` must be given"])?;
    for query in ["limit=1", "needsAttention=false&status=&limit=1", "status=,&limit=1", "flow=%20&step=%20&limit=1"] {
        let all = client.post(Service::Orchestrator, &format!("/sagas/retry?{query}"), &body()).await?;
        all.is_problem(422, &["`all` must be true"])?;
    }
    for (body, field) in [
        (json!({"by": "ann"}), "reason"),
        (json!({"by": " ", "reason": "x"}), "by"),
        (json!({"by": "ann", "reason": "one\ntwo"}), "reason"),
        (json!({"by": "ann", "reason": "x", "limit": 3}), "limit"),
        (json!({"by": "ann", "reason": "x", "atMost": 0}), "atMost"),
        (json!({"by": "ann", "reason": "x", "atMost": 501}), "atMost"),
    ] {
        let answer = client.post(Service::Orchestrator, "/sagas/cancel?flow=pay-first&limit=1", &body).await?;
        answer.is_problem(422, &[field])?;
    }
    Ok(())
}

#[tokio::test]
async fn sagactl_shows_which_they_are_asks_keeps_to_its_limit_and_goes_on_with_the_rest() -> Result<()> {
    let client = shared().await?;
    let guest = stranger();
    let sagas = bookings(&client, &guest, 3).await?;
    let filter = ["cancel", "--flow", "booking", "--user", &guest, "--since", "1h"];
    let by = ["--by", "ann", "--reason", "the hotel has closed"];
    let ran = async |more: &[&str]| client.sagactl(&[&filter[..], &by, more].concat()).await;

    // Its input is no terminal here.
    let newest = sagas[2].to_string();
    ran(&[])
        .await?
        .says(2, &["Sagas that fit and have not turned back: 3\n", "booking v1", "ACCEPT", &newest, "--yes"])?;
    assert_eq!(by_hand(&client, sagas[0]).await?.len(), 0);
    let limited = ran(&["--yes", "--limit", "2"]).await?;
    let next = sagas[1].to_string();
    limited.says(0, &["2 cancelled", &format!("others may fit; go on with --before {next}")])?;
    let rest = ran(&["--yes", "--json", "--before", &next]).await?.json()?;
    assert_eq!(rest, json!({"done": 1, "refused": [], "more": false, "next": null}));
    ran(&["--yes"]).await?.says(0, &["not turned back: 0", "0 cancelled"])?;
    for saga_id in &sagas {
        let entry = ["operator.cancelled", "ann", "the hotel has closed"].map(str::to_owned);
        assert_eq!(by_hand(&client, *saga_id).await?, [entry]);
    }

    client.sagactl(&[&["retry"][..], &by].concat()).await?.says(2, &["--flow", "--all"])?;
    for other in [["--flow", "booking"], ["--before", &newest]] {
        let both = [&["retry", &newest][..], &other, &by].concat();
        client.sagactl(&both).await?.says(2, &["cannot be used with"])?;
    }
    let unknown = [&["retry", "--flow", "cruise"][..], &by].concat();
    client.sagactl(&unknown).await?.says(2, &["400", "`flow` must be one of"])
}

#[tokio::test]
async fn the_dashboard_offers_an_act_where_a_filter_is_set_and_shows_which_sagas_it_is_for() -> Result<()> {
    let client = shared().await?;
    let guest = stranger();
    let sagas = bookings(&client, &guest, 2).await?;
    let query = format!("flow=booking&userId={guest}");
    let list = get(&client, &format!("/?{query}")).await?;
    let escaped = query.replace('&', "&amp;");
    for act in ["retry", "cancel"] {
        ensure!(list.text.contains(&format!("href=\"/dashboard/{act}?{escaped}\"")), "no {act} in\n{}", list.text);
    }
    for without in ["/", "/?status=FAILED"] {
        let list = get(&client, without).await?;
        ensure!(!list.text.contains("/dashboard/cancel"), "{without} offers an act");
    }

    let page = get(&client, &format!("/dashboard/cancel?{query}&status=&step=")).await?;
    assert_eq!(page.status, 200, "{}", page.text);
    let sent = format!("data-acts=\"/sagas/cancel?{escaped}&amp;\"");
    let before = preview(&client, "cancel", &query).await?["before"].as_str().map(str::to_owned).context("a bound")?;
    let bounds = format!("data-permitted=\"2\" data-before=\"{before}\"");
    for words in ["2 sagas", "booking v1", "ACCEPT", &sent, &bounds, &format!("/dashboard/sagas/{}", sagas[0])] {
        ensure!(page.text.contains(words), "no {words:?} in\n{}", page.text);
    }
    ensure!(!page.text.contains(" style=") && !page.text.contains("onclick"), "the policy forbids what stands in it");
    let none = get(&client, &format!("/dashboard/retry?{query}")).await?;
    ensure!(none.status == 200 && none.text.contains("0 sagas") && !none.text.contains("data-acts"), "{}", none.text);
    for query in ["status=", "status=,", "flow=%20"] {
        let all = get(&client, &format!("/dashboard/retry?{query}")).await?;
        ensure!(all.status == 400 && all.text.contains("choose a filter"), "{query}: {}", all.text);
        let list = get(&client, &format!("/?{query}")).await?;
        ensure!(!list.text.contains("/dashboard/retry"), "{query} offers an act");
    }
    Ok(())
}
