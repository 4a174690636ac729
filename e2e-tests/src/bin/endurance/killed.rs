//! One instance of each service dies, and is not started again for a while: the others go on with its work.

use std::time::Duration;

use anyhow::Result;
use e2e_tests::{Instance, Service};

use crate::BACK_LIMIT;
use crate::several::Several;

/// Before the first death, and after each return.
const CALM: Duration = Duration::from_secs(10);

/// Answers what is wrong.
pub async fn run(instances: usize, dead: Duration, rate: u32) -> Result<Vec<String>> {
    let mut several = Several::start("killed", instances, rate).await?;
    tokio::time::sleep(CALM).await;
    let mut wrong = several.calm(CALM).await;
    let mut parts = Vec::new();
    for service in [Service::Orchestrator, Service::Payment, Service::Inventory, Service::Order] {
        let instance = Instance { service, number: 1 };
        let span = several.span();
        several.services.kill(instance)?;
        tokio::time::sleep(dead).await;
        parts.push(several.part(span, format!("{instance} killed")));

        let span = several.span();
        several.services.start_again(instance).await?;
        tokio::time::sleep(CALM).await;
        parts.push(several.part(span, format!("{instance} started again")));
    }
    let (served, found) = several.ended().await?;
    for part in parts {
        let (told, normal) = part.told(&served);
        if normal > BACK_LIMIT {
            wrong.push(told.clone());
        }
        println!("{told}");
    }
    wrong.extend(found);
    several.over(wrong)
}
