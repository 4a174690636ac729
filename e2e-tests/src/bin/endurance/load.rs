//! Clients at a steady rate before several orchestrators. Each has an `Idempotency-Key`, asks one orchestrator, and
//! goes on to the next when that one refuses the connection, or closes it before it has answered: the key makes the
//! second asking harmless. What is answered, whatever it is, is not asked again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e_tests::clients::{Driver, Got, Request, Reuse, Scenario, Sent, Try};
use service_runtime::CancellationToken;
use tokio::task::JoinSet;

/// How long a client goes on asking while nobody answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two rounds of orchestrators of which none could be reached.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(50);

/// A load that goes on until it is ended.
pub struct Load {
    served: Arc<Mutex<Vec<Served>>>,
    stop: CancellationToken,
    work: tokio::task::JoinHandle<()>,
}

/// A request with its answer, and how long that took in all.
#[derive(Debug, Clone)]
pub struct Served {
    pub sent: Sent,
    pub began: Instant,
    pub took: Duration,
}

impl Served {
    /// The status of the answer; `None` if there was none.
    pub fn status(&self) -> Option<u16> {
        self.sent.tries.iter().find_map(|one| match &one.got {
            Got::Answer(answer) => Some(answer.status),
            _ => None,
        })
    }
}

impl Load {
    /// Begins to send `rate` checkouts a second, to each of the orchestrators in turn.
    pub fn start(who: &'static str, orchestrators: &[SocketAddr], rate: u32) -> Result<Self> {
        let (served, stop) = (Arc::<Mutex<Vec<Served>>>::default(), CancellationToken::new());
        let clients = Arc::new(Clients {
            driver: Driver::new(orchestrators.to_vec())?,
            orchestrators: orchestrators.to_vec(),
            served: served.clone(),
        });
        let stopped = stop.clone();
        let work = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
            let mut asking = JoinSet::new();
            for index in 0.. {
                tokio::select! {
                    () = stopped.cancelled() => break,
                    _ = ticks.tick() => {}
                }
                let clients = clients.clone();
                asking.spawn(async move { clients.serve(who, index).await });
                while asking.try_join_next().is_some() {}
            }
            asking.join_all().await;
        });
        Ok(Self { served, stop, work })
    }

    /// What was asked since `began` and is answered by now.
    pub fn since(&self, began: Instant) -> Vec<Served> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.iter().filter(|one| one.began >= began).cloned().collect()
    }

    /// Sends no more, waits for the last answers, and gives all of them.
    pub async fn ended(&mut self) -> Result<Vec<Served>> {
        self.stop.cancel();
        (&mut self.work).await?;
        Ok(std::mem::take(&mut self.served.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

struct Clients {
    driver: Driver,
    orchestrators: Vec<SocketAddr>,
    served: Arc<Mutex<Vec<Served>>>,
}

impl Clients {
    async fn serve(&self, who: &str, index: usize) {
        let (began, user_id, key) = (Instant::now(), format!("{who}-{index}"), Some(format!("checkout-{who}-{index}")));
        let (scenario, reuse, items) = (Scenario::Plain, Reuse::No, Vec::new());
        let request = Request { index, user_id, scenario, key, reuse, items, seed: 0 };
        let mut tries = Vec::new();
        for turn in index.. {
            let orchestrator = self.orchestrators[turn % self.orchestrators.len()];
            let got = self.driver.once(&request, true, orchestrator).await;
            let elsewhere = matches!(got, Got::NoConnection | Got::ConnectionLost);
            tries.push(Try { own_body: true, got });
            if !elsewhere || began.elapsed() > PATIENCE {
                break;
            }
            if tries.len().is_multiple_of(self.orchestrators.len()) {
                tokio::time::sleep(BETWEEN_ROUNDS).await;
            }
        }
        let undecided = !tries.iter().any(|one| matches!(one.got, Got::Answer(_)));
        let served = Served { sent: Sent { request, tries, undecided }, began, took: began.elapsed() };
        self.served.lock().unwrap_or_else(PoisonError::into_inner).push(served);
    }
}

/// Some answers, in a line.
pub struct Told {
    /// By status.
    pub answers: BTreeMap<String, usize>,
    refused: usize,
    lost: usize,
    median: Duration,
    p99: Duration,
    pub longest: Duration,
}

impl Told {
    pub fn of(served: &[Served]) -> Self {
        let mut answers = BTreeMap::new();
        for one in served {
            let status = one.status().map_or_else(|| "none".to_owned(), |status| status.to_string());
            *answers.entry(status).or_default() += 1;
        }
        let tries = || served.iter().flat_map(|one| &one.sent.tries);
        let mut times: Vec<Duration> = served.iter().map(|one| one.took).collect();
        times.sort_unstable();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
        Self {
            answers,
            refused: tries().filter(|one| matches!(one.got, Got::NoConnection)).count(),
            lost: tries().filter(|one| matches!(one.got, Got::ConnectionLost)).count(),
            median: at(0.5),
            p99: at(0.99),
            longest: times.last().copied().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_millis();
        let (median, p99, longest) = (ms(self.median), ms(self.p99), ms(self.longest));
        write!(f, "answers {:?}, median {median} ms, p99 {p99} ms, longest {longest} ms", self.answers)?;
        if self.refused + self.lost > 0 {
            write!(f, "; {} connections refused, {} closed before the answer", self.refused, self.lost)?;
        }
        Ok(())
    }
}
