//! The clients: each sends its checkout, again and again if it has a key, until it has a definite answer; and remembers
//! all that it was told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Request, Reuse, Scenario};
use crate::Answer;

/// The most clients that are at work at the same time; the plan waits for them.
const MOST_AT_WORK: usize = 256;

/// How long a client waits for an answer. Longer than `CHECKOUT_WAIT_MS`: what is slower than this is frozen.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long it waits before it tries again, in ms.
const BETWEEN_TRIES_MS: (u64, u64) = (200, 1500);

/// A request with all that came of it.
#[derive(Debug, Clone)]
pub struct Sent {
    pub request: Request,
    pub tries: Vec<Try>,
    /// It has a key, and never got a definite answer.
    pub undecided: bool,
}

/// One HTTP request.
#[derive(Debug, Clone)]
pub struct Try {
    /// Whether it was the request's own body, or another one with its key.
    pub own_body: bool,
    pub got: Got,
}

/// What came of a try.
#[derive(Debug, Clone)]
pub enum Got {
    Answer(Answer),
    /// No connection: the request has not reached anybody.
    NoConnection,
    /// The connection was lost, and with it the answer: the request may have had an effect.
    ConnectionLost,
    /// No answer in time: the request may have had an effect, or have one yet.
    TimedOut,
}

/// Sends requests to the orchestrators.
pub struct Driver {
    http: reqwest::Client,
    orchestrators: Vec<SocketAddr>,
    pub at_work: Arc<Semaphore>,
    pub decided: AtomicUsize,
    given_up: AtomicBool,
}

impl Driver {
    pub fn new(orchestrators: Vec<SocketAddr>) -> Result<Self> {
        // rustls asks each process to choose its cryptography, once; a second choice is refused, and is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE).build()?;
        let (at_work, decided) = (Arc::new(Semaphore::new(MOST_AT_WORK)), AtomicUsize::new(0));
        Ok(Self { http, orchestrators, at_work, decided, given_up: AtomicBool::new(false) })
    }

    /// Nobody tries again from now on.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Sees a request through.
    pub async fn send(&self, request: Request) -> Sent {
        let mut dice = StdRng::seed_from_u64(request.seed);
        let mut sent = Sent { request, tries: Vec::new(), undecided: false };
        if sent.request.reuse == Reuse::AtOnce {
            let mut other_dice = StdRng::seed_from_u64(dice.random());
            let ((ours, decided), (theirs, also_decided)) = tokio::join!(
                self.until_definite(&sent.request, true, &mut dice),
                self.until_definite(&sent.request, true, &mut other_dice)
            );
            sent.tries.extend(ours.into_iter().chain(theirs));
            sent.undecided = !(decided && also_decided);
        } else {
            self.again(&mut sent, true, &mut dice).await;
        }
        match sent.request.reuse {
            Reuse::AfterAnswer if !sent.undecided => self.again(&mut sent, true, &mut dice).await,
            Reuse::OtherBody if !sent.undecided => self.again(&mut sent, false, &mut dice).await,
            _ => {}
        }
        self.decided.fetch_add(1, Ordering::Relaxed);
        sent
    }

    /// Sends a decided request once more, when all is over.
    pub async fn send_at_the_end(&self, sent: &mut Sent) {
        let mut dice = StdRng::seed_from_u64(!sent.request.seed);
        self.again(sent, true, &mut dice).await;
    }

    async fn again(&self, sent: &mut Sent, own_body: bool, dice: &mut StdRng) {
        let (tries, decided) = self.until_definite(&sent.request, own_body, dice).await;
        sent.tries.extend(tries);
        sent.undecided |= !decided && sent.request.key.is_some();
    }

    /// Tries until there is a definite answer, and says whether there is one. Without a key there is one try.
    async fn until_definite(&self, request: &Request, own_body: bool, dice: &mut StdRng) -> (Vec<Try>, bool) {
        let mut tries = Vec::new();
        loop {
            let orchestrator = self.orchestrators[dice.random_range(0..self.orchestrators.len())];
            let got = self.once(request, own_body, orchestrator).await;
            let definite = matches!(&got, Got::Answer(answer) if is_definite(answer, request));
            tries.push(Try { own_body, got });
            if definite || request.key.is_none() || self.given_up.load(Ordering::Relaxed) {
                return (tries, definite);
            }
            let (least, most) = BETWEEN_TRIES_MS;
            tokio::time::sleep(Duration::from_millis(dice.random_range(least..=most))).await;
        }
    }

    /// Asks one orchestrator, once.
    pub async fn once(&self, request: &Request, own_body: bool, orchestrator: SocketAddr) -> Got {
        let mut call = self.http.post(format!("http://{orchestrator}/checkout")).json(&body(request, own_body));
        if let Some(key) = &request.key {
            call = call.header("Idempotency-Key", key);
        }
        if request.scenario == Scenario::Async {
            call = call.header("Prefer", "respond-async");
        }
        match call.send().await {
            // Cut off in the middle of the answer.
            Ok(response) => Answer::read(response).await.map_or(Got::ConnectionLost, Got::Answer),
            Err(error) if error.is_connect() => Got::NoConnection,
            Err(error) if error.is_timeout() => Got::TimedOut,
            Err(_) => Got::ConnectionLost,
        }
    }
}

/// What nobody asks again for: an end, a refusal, and the 202 that was asked for.
fn is_definite(answer: &Answer, request: &Request) -> bool {
    match answer.status {
        202 => request.scenario == Scenario::Async,
        429 => false,
        status => status < 500,
    }
}

fn body(request: &Request, own: bool) -> Value {
    let mut body = json!({"userId": request.user_id, "totalAmount": request.amount() + usize::from(!own)});
    match request.scenario {
        Scenario::PaymentFails => body["forcePaymentFail"] = true.into(),
        Scenario::InventoryFails => body["forceInventoryFail"] = true.into(),
        Scenario::Plain | Scenario::Async => {}
    }
    if !request.items.is_empty() {
        body["items"] = request.items.iter().map(|(sku, pieces)| json!({"sku": sku, "qty": pieces})).collect();
    }
    body
}
