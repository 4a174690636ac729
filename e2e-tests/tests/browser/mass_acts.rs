//! What is done to all sagas of a list.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use e2e_tests::{Service, Services, eventually, id};
use serde_json::json;
use uuid::Uuid;

use crate::browser::Browser;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_sagas_of_a_list_are_cancelled_by_its_button_which_shows_them_and_what_it_sends() -> Result<()> {
    let mut services = Services::start(&[]).await?;
    let client = services.client()?;
    let browser = Browser::start(client.ports.orchestrator).await?;
    services.stop(Service::Payment).await?;
    let mut sagas = Vec::new();
    for _ in 0..3 {
        sagas.push(id(&client.checkout_async(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?, "sagaId")?);
    }
    for saga_id in &sagas {
        let charged = async || Ok((client.saga(*saga_id).await?["step"] == json!("PAYMENT_CHARGE")).then_some(()));
        eventually("its charge is pending", SOON, charged).await?;
    }

    browser.open("/?step=PAYMENT_CHARGE&status=&userId=").await?;
    browser.click("a[href='/dashboard/cancel?step=PAYMENT_CHARGE']").await?;
    browser.until_shows("#permitted", "3 sagas").await?;
    browser.watch_requests().await?;
    browser.fill("[data-acts] [name=by]", "ann").await?;
    browser.fill("[data-acts] [name=reason]", "the bank is closed").await?;
    let request = |before: Uuid, at_most: usize| {
        format!(
            "POST /sagas/cancel?step=PAYMENT_CHARGE&limit=500&before={before}\nContent-Type: application/json\n\n\
             {{\n  \"by\": \"ann\",\n  \"reason\": \"the bank is closed\",\n  \"atMost\": {at_most}\n}}"
        )
    };
    let newest_first: Vec<Uuid> = sagas.iter().copied().collect::<BTreeSet<_>>().into_iter().rev().collect();
    let all = request(Uuid::from_u128(newest_first[0].as_u128() + 1), 3);
    assert_eq!(browser.text("[data-acts] [data-request]").await?, all);
    browser.picture("mass-cancel", 1280).await?;
    // Nobody was shown this one.
    let late = id(&client.checkout_async(&json!({"userId": "u1", "totalAmount": 500})).await?.json()?, "sagaId")?;
    let charged = async || Ok((client.saga(late).await?["step"] == json!("PAYMENT_CHARGE")).then_some(()));
    eventually("its charge is pending", SOON, charged).await?;
    let two = "const limit = document.querySelector('[name=limit]');
               limit.value = 2; limit.dispatchEvent(new Event('input', { bubbles: true }))";
    browser.js(two).await?;
    browser.click("[data-acts] button[type=submit]").await?;

    browser.until_shows("[data-sums]", "2 done; the limit is reached, and others may fit").await?;
    let rest = request(newest_first[1], 1);
    assert_eq!(browser.text("[data-acts] [data-request]").await?, rest, "it goes on behind them");
    browser.click("[data-acts] button[type=submit]").await?;
    browser.until_shows("[data-sums]", "1 done; no more fit").await?;
    let two = request(Uuid::from_u128(newest_first[0].as_u128() + 1), 2);
    assert_eq!(browser.sent().await?, json!([two, rest]), "what is shown is what is sent");
    let again = "return document.querySelector('[data-acts] [type=submit]').hidden";
    assert_eq!(browser.js(again).await?, json!(true), "what fits now has to be seen first");
    browser.nothing_is_wrong().await?;
    browser.close().await?;
    services.start_again(Service::Payment).await?;
    for saga_id in &sagas {
        assert_eq!(client.end_of(&format!("/sagas/{saga_id}"), SOON).await?["step"], json!("CANCELLED"));
    }
    assert_eq!(client.end_of(&format!("/sagas/{late}"), SOON).await?["step"], json!("COMPLETED"));
    client.agree_about(&[sagas, vec![late]].concat()).await
}
