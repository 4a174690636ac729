//! Honest checkouts beside clients that hold connections, bodies, heads and streams: from another address, through the
//! same proxy, and from the same address. The honest ones are answered 200 as if they were alone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use e2e_tests::attackers::{Attack, Hold, http_from};
use e2e_tests::{Service, Services};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::task::JoinSet;

use crate::memory::{MIB, Memory, in_words};
use crate::{NORMAL, disagreement, proxy, until_normal};

const HONEST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

const SETTINGS: [(&str, &str); 1] = [("TRUSTED_PROXIES", "127.0.0.3")];

/// The most that a process may take, in KiB.
const MOST_MEMORY: u64 = 300 * MIB;

/// The descriptors of each service in the attack that takes them all.
const FEW_DESCRIPTORS: u64 = 700;

/// Honest clients, and how they reach the orchestrator.
struct Honest {
    from: Ipv4Addr,
    to: SocketAddr,
    rate: u32,
    time: Duration,
}

/// Answers what is wrong.
pub async fn run(time: Duration, rate: u32) -> Result<Vec<String>> {
    let mut services = Services::launch_none(&SETTINGS).await?;
    services.start_all().await?;
    let client = services.quiet_client()?;
    let orchestrator = services.address(Service::Orchestrator.into())?;
    let memory = Memory::watch(services.process_ids());
    until_normal(&client).await?;
    let through_proxy = proxy::start(PROXY, orchestrator).await?;
    let apart = Honest { from: HONEST, to: orchestrator, rate, time };
    let behind_proxy = Honest { to: through_proxy, ..apart };
    let of = |count, from, to, hold| Attack::start(count, from, to, hold);

    let mut wrong = Vec::new();
    wrong.extend(beside("nothing", vec![], &apart, &memory).await?);
    let bodies = vec![of(2000, ATTACKER, orchestrator, Hold::Body)];
    wrong.extend(beside("2,000 bodies that come byte by byte", bodies, &apart, &memory).await?);
    let heads = vec![of(700, ATTACKER, orchestrator, Hold::Head)];
    wrong.extend(beside("700 heads that come byte by byte", heads, &apart, &memory).await?);
    let streams = vec![of(2100, ATTACKER, orchestrator, Hold::Stream)];
    wrong.extend(beside("2,100 streams of events", streams, &apart, &memory).await?);
    let same = [Hold::Body, Hold::Head, Hold::Idle].map(|hold| of(500, HONEST, orchestrator, hold)).into();
    wrong.extend(beside("500 bodies, heads and idle connections of the same address", same, &apart, &memory).await?);
    let proxied = [Hold::Body, Hold::Stream].map(|hold| of(1000, ATTACKER, through_proxy, hold)).into();
    wrong.extend(beside("1,000 bodies and streams through the same proxy", proxied, &behind_proxy, &memory).await?);

    for (instance, process) in services.process_ids() {
        let limit = Rlimit { current: Some(FEW_DESCRIPTORS), maximum: Some(FEW_DESCRIPTORS) };
        prlimit(Pid::from_raw(process.cast_signed()), Resource::Nofile, limit)
            .map_err(|error| anyhow!("the descriptors of {instance}: {error}"))?;
    }
    let addresses = Service::ALL.map(|service| services.address(service.into()));
    let idle = addresses.into_iter().map(|to| Ok(of(700, ATTACKER, to?, Hold::Idle))).collect::<Result<_>>()?;
    wrong.extend(beside("700 idle connections to each service of 700 descriptors", idle, &apart, &memory).await?);
    wrong.extend(disagreement(&client).await?);
    Ok(wrong)
}

/// Sends honest checkouts while the attacks go on, and answers what is wrong with their answers.
async fn beside(what: &str, attacks: Vec<Attack>, honest: &Honest, memory: &Memory) -> Result<Vec<String>> {
    memory.take_peak();
    let answers = honest.checkouts().await?;
    let mut times: Vec<Duration> = answers.iter().map(|(_, took)| *took).collect();
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    let (median, p99, longest) = (at(0.5), at(0.99), times.last().copied().unwrap_or_default());
    let mut by_status = BTreeMap::<&str, usize>::new();
    answers.iter().for_each(|(status, _)| *by_status.entry(status).or_default() += 1);
    let sum = |of: fn(&Attack) -> usize| attacks.iter().map(of).sum::<usize>();
    let peak = memory.take_peak();
    println!("beside {what}:");
    println!(
        "  honest: {by_status:?}, median {} ms, p99 {} ms, longest {} ms",
        median.as_millis(),
        p99.as_millis(),
        longest.as_millis()
    );
    println!(
        "  attack: {} held at the end, {} closed or refused, {:.1} kB/s sent; at most {}",
        sum(Attack::held),
        sum(Attack::closed),
        sum(Attack::sent) as f64 / honest.time.as_secs_f64() / 1000.0,
        in_words(&peak)
    );
    let mut wrong = Vec::new();
    if by_status.keys().any(|status| *status != "200") {
        wrong.push(format!("beside {what} the honest ones got {by_status:?}"));
    }
    if p99 >= NORMAL {
        wrong.push(format!("beside {what} their p99 is {p99:?}"));
    }
    let large = peak.iter().filter(|(_, kib)| **kib >= MOST_MEMORY);
    wrong.extend(large.map(|(who, kib)| format!("beside {what} {who} takes {kib} KiB")));
    Ok(wrong)
}

impl Honest {
    /// Each answer's status, or why there was none, and how long it took.
    async fn checkouts(&self) -> Result<Vec<(String, Duration)>> {
        let (http, url) = (http_from(self.from)?, format!("http://{}/checkout", self.to));
        let (mut ticks, mut asking) =
            (tokio::time::interval(Duration::from_secs(1) / self.rate.max(1)), JoinSet::new());
        let began = Instant::now();
        while began.elapsed() < self.time {
            ticks.tick().await;
            let request =
                http.post(&url).json(&json!({"userId": format!("honest-{}", asking.len()), "totalAmount": 1}));
            asking.spawn(async move {
                let sent = Instant::now();
                let status = match request.send().await {
                    Ok(answer) => answer.status().as_u16().to_string(),
                    Err(error) => format!("no answer: {error:?}"),
                };
                (status, sent.elapsed())
            });
        }
        Ok(asking.join_all().await)
    }
}
