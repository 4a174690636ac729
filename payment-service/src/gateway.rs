//! The simulated payment gateway: it stands for another company's system, so it has tables and transactions of its
//! own, is idempotent by key, decides a key once, and remembers its answer for ever.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use messages::{Money, OrderId};
use rust_decimal::Decimal;
use serde::Deserialize;
use service_runtime::batch::{Answers, Batch, Batcher};
use service_runtime::database::{Session, StoreError};
use service_runtime::metrics::Metrics;
use service_runtime::settings::{HOUR_MS, Settings, SettingsError, Share, require_within};
use service_runtime::trace::{self, Kind};
use sqlx::Row as _;

use crate::payment::{Answer, Call};

const _: () = assert!(messages::IS_SIMULATED, "a real gateway takes the place of this file");

/// How the simulated gateway behaves.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct GatewaySettings {
    payment_failure_rate: Share,
    payment_refund_refusal_rate: Share,
    payment_unavailable_rate: Share,
    payment_processing_ms: u64,
}

impl TryFrom<&Settings> for GatewaySettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Self = settings.section()?;
        require_within("payment_processing_ms", section.payment_processing_ms, 0..=HOUR_MS)?;
        Ok(section)
    }
}

/// A handle to the gateway; calls run side by side.
pub struct SimulatedGateway {
    decisions: Batcher<Decisions>,
    settings: GatewaySettings,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It may have been decided all the same: ask again, later.
    #[error("the payment gateway can't be reached")]
    Unreachable,
    /// The gateway's tables stand in the service's own database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SimulatedGateway {
    pub fn start(session: Session, settings: GatewaySettings, metrics: &Metrics) -> Self {
        Self { decisions: Batcher::start(Decisions(session), metrics), settings }
    }

    /// Makes a call. The same call again gets the same answer, and moves money once.
    ///
    /// # Errors
    /// When it can't be decided now. It may have been decided all the same: ask again.
    pub async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let span = trace::child(Kind::Client, || match call {
            Call::Charge { .. } => "gateway charge".into(),
            Call::Refund { .. } => "gateway refund".into(),
        });
        span.around(self.answer(call)).await.inspect_err(|error| span.fail(&error.to_string()))
    }

    async fn answer(&self, call: Call) -> Result<Answer, CallError> {
        let GatewaySettings { payment_failure_rate, payment_refund_refusal_rate, .. } = self.settings;
        let happens = |share: Share| rand::random::<f64>() < share.get();
        if self.settings.payment_processing_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.settings.payment_processing_ms)).await;
        }
        let decline = match &call {
            Call::Charge { force_fail: true, .. } => Some("declined: forcePaymentFail"),
            Call::Charge { .. } if happens(payment_failure_rate) => Some("declined by the bank"),
            Call::Refund { .. } if happens(payment_refund_refusal_rate) => Some("the card is closed"),
            Call::Charge { .. } | Call::Refund { .. } => None,
        };
        let unreachable = happens(self.settings.payment_unavailable_rate);
        // The request is lost on its way there, or the answer on its way back.
        if unreachable && happens(Share::HALF) {
            return Err(CallError::Unreachable);
        }
        let answer = self.decisions.submit(Request { call, decline }).await?;
        if unreachable { Err(CallError::Unreachable) } else { Ok(answer) }
    }
}

/// A call, and what a first decision on it would be.
struct Request {
    call: Call,
    decline: Option<&'static str>,
}

impl Request {
    fn kind(&self) -> &'static str {
        match self.call {
            Call::Charge { .. } => "CHARGE",
            Call::Refund { .. } => "REFUND",
        }
    }

    fn order(&self) -> (OrderId, Money) {
        match self.call {
            Call::Charge { order_id, money, .. } | Call::Refund { order_id, money } => (order_id, money),
        }
    }

    /// The idempotency key: one charge and one refund an order.
    fn key(&self) -> String {
        format!("{}:{}", self.order().0, self.kind().to_ascii_lowercase())
    }

    fn answer(&self, declined: Option<String>) -> Answer {
        match (&self.call, declined) {
            (_, Some(reason)) => Answer::Declined { reason },
            (Call::Charge { .. }, None) => Answer::Charged,
            (Call::Refund { .. }, None) => Answer::Refunded,
        }
    }
}

/// Decides requests, many in one statement: the decision and the move of money are one transaction.
struct Decisions(Session);

impl Batch for Decisions {
    type Item = Request;
    type Answer = Answer;
    const NAME: &'static str = "gateway";

    async fn run(&self, items: &[Request]) -> Answers<Answer> {
        let keys: Vec<String> = items.iter().map(Request::key).collect();
        let mut seen = HashSet::new();
        let firsts: Vec<usize> = (0..items.len()).filter(|i| seen.insert(&keys[*i])).collect();
        let first = || firsts.iter().map(|i| &items[*i]);
        let decide = sqlx::query(
            "WITH decided AS (
                 INSERT INTO gateway_requests (idempotency_key, order_id, kind, amount, currency, outcome, reason)
                 SELECT key, order_id, kind, amount, currency,
                        CASE WHEN reason IS NULL THEN 'APPROVED' ELSE 'DECLINED' END, reason
                 FROM (SELECT UNNEST($1::text[]) AS key, UNNEST($2::uuid[]) AS order_id,
                              UNNEST($3::text[]) AS kind, UNNEST($4::numeric[]) AS amount,
                              UNNEST($5::text[]) AS currency, UNNEST($6::text[]) AS reason) AS new
                 ORDER BY key
                 ON CONFLICT (idempotency_key) DO NOTHING
                 RETURNING *
             ), moved AS (
                 INSERT INTO gateway_ledger (idempotency_key, order_id, kind, amount, currency)
                 SELECT idempotency_key, order_id, kind, amount, currency FROM decided WHERE outcome = 'APPROVED'
             )
             SELECT idempotency_key FROM decided",
        )
        .bind(firsts.iter().map(|i| keys[*i].as_str()).collect::<Vec<_>>())
        .bind(first().map(|r| r.order().0.as_uuid()).collect::<Vec<_>>())
        .bind(first().map(Request::kind).collect::<Vec<_>>())
        .bind(first().map(|r| r.order().1.amount()).collect::<Vec<Decimal>>())
        .bind(first().map(|r| r.order().1.currency().code()).collect::<Vec<_>>())
        .bind(first().map(|r| r.decline).collect::<Vec<_>>());
        let decided = self.0.rows(decide).await?;

        let decided = decided.iter().map(|row| row.try_get::<String, _>(0));
        let mut decided: HashSet<String> = decided.collect::<Result<_, _>>()?;
        let own: Vec<bool> = keys.iter().map(|key| decided.remove(key)).collect();
        let others = keys.iter().zip(&own).filter(|(_, own)| !**own).map(|(key, _)| key.as_str()).collect();
        let remembered = self.remembered(others).await;
        let answer = |((request, key), own): ((&Request, &String), bool)| match (own, &remembered) {
            (true, _) => Ok(request.answer(request.decline.map(str::to_owned))),
            (false, Ok(remembered)) => match remembered.get(key) {
                Some(declined) => Ok(request.answer(declined.clone())),
                None => Err(StoreError::Unavailable(format!("{key} is not decided").into())),
            },
            (false, Err(error)) => Err(error.clone()),
        };
        Ok(items.iter().zip(&keys).zip(own).map(answer).collect())
    }
}

impl Decisions {
    /// What was decided before on these keys: why declined, or `None` for approved.
    async fn remembered(&self, keys: Vec<&str>) -> Result<HashMap<String, Option<String>>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let wanted =
            sqlx::query("SELECT idempotency_key, reason FROM gateway_requests WHERE idempotency_key = ANY($1)")
                .bind(keys);
        let rows = self.0.rows(wanted).await?;
        rows.iter().map(|row| Ok((row.try_get("idempotency_key")?, row.try_get("reason")?))).collect()
    }
}
