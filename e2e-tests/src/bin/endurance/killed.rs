//! One instance of each service dies, and is not started again for a while: the others go on with its work.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e_tests::{Instance, Service};

use crate::load::{Served, Told};
use crate::several::{Several, other_answers};
use crate::{BACK_LIMIT, NORMAL};

/// Before the first death, and after each return.
const CALM: Duration = Duration::from_secs(10);

/// Answers what is wrong.
pub async fn run(instances: usize, dead: Duration, rate: u32) -> Result<Vec<String>> {
    let mut several = Several::start("killed", instances, rate).await?;
    tokio::time::sleep(CALM).await;
    let mut wrong = several.calm(CALM).await;
    for service in [Service::Orchestrator, Service::Payment, Service::Inventory, Service::Order] {
        let instance = Instance { service, number: 1 };
        let span = several.span();
        several.services.kill(instance)?;
        tokio::time::sleep(dead).await;
        let (told, back) = (Told::of(&several.load.since(span.began)), normal_after(&several, span.began));
        println!(
            "{instance} killed: normal after {:.1} s; {told}; {}",
            back.as_secs_f64(),
            several.replies_since(&span)
        );
        if back > BACK_LIMIT {
            wrong.push(format!("{instance} was killed: normal only after {back:?}"));
        }

        let span = several.span();
        several.services.start_again(instance).await?;
        tokio::time::sleep(CALM).await;
        let (told, back) = (Told::of(&several.load.since(span.began)), normal_after(&several, span.began));
        println!(
            "{instance} started again: normal after {:.1} s; {told}; {}",
            back.as_secs_f64(),
            several.replies_since(&span)
        );
    }
    let (served, found) = several.ended().await?;
    wrong.extend(found);
    wrong.extend(other_answers(&served));
    Ok(wrong)
}

/// How long after `event` a checkout was last begun that was not answered as on a good day; those that have no answer
/// yet included.
fn normal_after(several: &Several, event: Instant) -> Duration {
    let unusual = |one: &Served| one.took > NORMAL || one.status() != Some(200);
    let served = several.load.since(event);
    let last = served.iter().filter(|one| unusual(one)).map(|one| one.began.duration_since(event)).max();
    last.unwrap_or_default()
}
