//! Far more checkouts than the platform can do: what is too much is refused at once, what is taken is answered, and
//! when it is over all is as before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e_tests::{Service, Services};
use serde_json::json;
use tokio::task::JoinSet;

use crate::memory::{MIB, Memory, in_words};
use crate::{BACK_LIMIT, disagreement, until_normal};

/// The gateway takes 100 ms for a call and the payment service has 20 in hand: 200 checkouts a second.
const SETTINGS: [(&str, &str); 3] =
    [("PAYMENT_PROCESSING_MS", "100"), ("KAFKA_MAX_IN_FLIGHT", "20"), ("CHECKOUT_MAX_WAITING", "1000")];

/// The most that a process may take, in KiB.
const MOST_MEMORY: u64 = 300 * MIB;

/// Answers what is wrong.
pub async fn run(time: Duration, rate: u32) -> Result<Vec<String>> {
    let mut services = Services::launch_none(&SETTINGS).await?;
    services.start_all().await?;
    let client = services.quiet_client()?;
    let memory = Memory::watch(services.process_ids());
    until_normal(&client).await?;

    let url = format!("http://{}/checkout", services.address(Service::Orchestrator.into())?);
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(60)).build()?;
    let (mut sent, mut requests, mut answers) = (0, JoinSet::new(), BTreeMap::<String, usize>::new());
    let began = Instant::now();
    let mut count = |outcome: Result<Result<u16, reqwest::Error>, tokio::task::JoinError>| {
        let what = match outcome {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => format!("no answer: {error:?}"),
            Err(error) => error.to_string(),
        };
        *answers.entry(what).or_default() += 1;
    };
    while began.elapsed() < time {
        // Whatever is due by now, so that the rate does not sink with the platform's speed.
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize;
        for n in sent..due {
            let request = http.post(&url).json(&json!({"userId": format!("overload-{n}"), "totalAmount": 1}));
            requests.spawn(async move {
                let answer = request.send().await?;
                let status = answer.status().as_u16();
                answer.bytes().await.map(|_| status)
            });
        }
        sent = due.max(sent);
        while let Some(outcome) = requests.try_join_next() {
            count(outcome);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let offered = sent as f64 / began.elapsed().as_secs_f64();
    let back = until_normal(&client).await?;
    while let Some(outcome) = requests.join_next().await {
        count(outcome);
    }
    println!("{sent} checkouts offered, {offered:.0} a second; answers {answers:?}");
    println!("back to normal {:.1} s after the end", back.as_secs_f64());
    let completed = answers.get("200").copied().unwrap_or_default();
    println!("{:.0} completed a second", completed as f64 / time.as_secs_f64());

    let mut wrong = Vec::new();
    let known = ["200", "202", "429", "503"];
    wrong.extend(answers.keys().filter(|answer| !known.contains(&answer.as_str())).map(|a| format!("answers: {a}")));
    if back > BACK_LIMIT {
        wrong.push(format!("back to normal only after {back:?}"));
    }
    let peak = memory.take_peak();
    println!("at most: {}", in_words(&peak));
    wrong.extend(peak.iter().filter(|(_, kib)| **kib >= MOST_MEMORY).map(|(who, kib)| format!("{who}: {kib} KiB")));
    wrong.extend(disagreement(&client).await?);
    Ok(wrong)
}
