//! The same load for a long time: nothing grows.

use std::time::Duration;

use anyhow::Result;

use crate::load::Told;
use crate::memory::{Memory, in_words};
use crate::several::Several;

/// Before the first minute: connections are opened, caches and buffers filled.
const WARM_UP: Duration = Duration::from_secs(30);

const MINUTE: Duration = Duration::from_secs(60);

/// How much larger a process may be in the last minute than in the first, of 1.
const GROWTH: f64 = 0.05;

/// Answers what is wrong.
pub async fn run(instances: usize, minutes: u32, rate: u32) -> Result<Vec<String>> {
    let mut several = Several::start("steady", instances, rate).await?;
    tokio::time::sleep(WARM_UP).await;
    let memory = Memory::watch(several.services.process_ids());
    let (mut first, mut last) = (None, None);
    for minute in 1..=minutes {
        let span = several.span();
        memory.take_peak();
        tokio::time::sleep(MINUTE).await;
        let peak = memory.take_peak();
        let told = Told::of(&several.load.since(span.began));
        let (replies, waiters) = (several.replies_since(&span), several.routing.waiters());
        println!("minute {minute}: {told}; {replies}; {waiters} wait; {}", in_words(&peak));
        first.get_or_insert_with(|| peak.clone());
        last = Some(peak);
    }
    let mut wrong = Vec::new();
    for (instance, now) in last.unwrap_or_default() {
        let then = first.as_ref().and_then(|first| first.get(&instance)).copied().unwrap_or_default();
        println!("{instance}: {then} KiB in the first minute, {now} KiB in the last");
        if now as f64 > then as f64 * (1.0 + GROWTH) {
            wrong.push(format!("{instance} grew from {then} to {now} KiB"));
        }
    }
    let (_, found) = several.ended().await?;
    wrong.extend(found);
    several.over(wrong)
}
