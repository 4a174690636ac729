//! Whether every client was told the truth: each HTTP answer is held against its saga's final row. The databases'
//! agreement among themselves is another check, which needs no clients.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use sqlx::FromRow;

use super::{Got, Scenario, Sent};
use crate::{Answer, Databases};

/// A row of `sagas` at the end.
#[derive(Debug, Clone, FromRow)]
pub struct Saga {
    pub saga_id: String,
    pub user_id: String,
    pub idempotency_key: Option<String>,
    pub status: String,
    pub step: String,
    pub amount: String,
}

/// What is wrong, in words.
#[derive(Debug, Default)]
pub struct Findings {
    /// Answers that were checked.
    pub answers: usize,
    /// Sagas that a client was told of.
    pub acknowledged: usize,
    /// Acknowledged sagas that are not there, or have not ended.
    pub lost: Vec<String>,
    pub violations: Vec<String>,
}

/// All sagas.
pub async fn read(databases: &Databases) -> Result<Vec<Saga>> {
    let sagas = sqlx::query_as(
        "SELECT saga_id::text, user_id, idempotency_key, status, step, trim_scale(total_amount)::text AS amount
         FROM sagas ORDER BY saga_id",
    );
    Ok(sagas.fetch_all(&databases.orchestrator).await?)
}

/// Holds what the clients were told against the rows.
pub fn check(sent: &[Sent], sagas: &[Saga]) -> Findings {
    let mut findings = Findings::default();
    let mut by_user: BTreeMap<&str, Vec<&Saga>> = BTreeMap::new();
    for saga in sagas {
        by_user.entry(&saga.user_id).or_default().push(saga);
    }
    for sent in sent {
        let own = by_user.remove(sent.request.user_id.as_str()).unwrap_or_default();
        Client { sent, sagas: &own, findings: &mut findings }.check();
    }
    for saga in by_user.into_values().flatten() {
        findings.violations.push(format!("saga {} of {} belongs to no request", saga.saga_id, saga.user_id));
    }
    findings
}

/// One request, and the sagas of its user.
struct Client<'a> {
    sent: &'a Sent,
    sagas: &'a [&'a Saga],
    findings: &'a mut Findings,
}

impl Client<'_> {
    fn check(mut self) {
        if self.sagas.len() > 1 {
            self.wrong(&format!("one request, and sagas {:?}", self.sagas));
        }
        for saga in self.sagas {
            self.check_row(saga);
        }
        if self.sent.undecided {
            self.wrong("has a key, and never got a definite answer");
        }
        let tried = &self.sent.tries;
        if !self.sagas.is_empty() && !tried.iter().any(|one| one.own_body && may_have_stored(&one.got)) {
            self.wrong("every try was answered that nothing was stored, but there is a saga");
        }
        let (mut ends, mut told, mut started) = (BTreeSet::new(), BTreeSet::new(), 0);
        for one in tried {
            let Got::Answer(answer) = &one.got else { continue };
            self.findings.answers += 1;
            if let Err(why) = self.check_answer(answer, one.own_body) {
                self.wrong(&format!("was answered {} {}: {why}", answer.status, answer.text));
            }
            if let Some(saga_id) = vouched_for(answer) {
                told.insert(saga_id);
                started += usize::from(answer.header("idempotent-replayed") != "true");
            }
            if matches!(answer.status, 200 | 402 | 409) {
                ends.insert((answer.status, answer.text.as_str()));
            }
        }
        if ends.len() > 1 {
            self.wrong(&format!("was told different ends: {ends:?}"));
        }
        if told.len() > 1 {
            self.wrong(&format!("was told of different sagas: {told:?}"));
        }
        if started > 1 {
            self.wrong(&format!("{started} answers say that they are the first, and no replay"));
        }
        self.findings.acknowledged += told.len();
        for saga_id in told {
            match self.sagas.iter().find(|saga| saga.saga_id == saga_id) {
                None => self.lost(&format!("was told of saga {saga_id}, which is not there")),
                Some(saga) if !matches!(saga.status.as_str(), "COMPLETED" | "FAILED") => {
                    self.lost(&format!("was told of saga {saga_id}, which has not ended: {saga:?}"));
                }
                Some(_) => {}
            }
        }
    }

    fn check_row(&mut self, saga: &Saga) {
        let request = &self.sent.request;
        if saga.amount != request.amount().to_string() || saga.idempotency_key != request.key {
            self.wrong(&format!("its saga is about something else: {saga:?}"));
        }
        let allowed: &[&str] = match request.scenario {
            Scenario::PaymentFails | Scenario::InventoryFails => &["FAILED"],
            Scenario::Plain | Scenario::Async => &["COMPLETED", "FAILED"],
        };
        if !allowed.contains(&saga.status.as_str()) {
            self.wrong(&format!("a saga that can't end so: {saga:?}"));
        }
    }

    fn check_answer(&self, answer: &Answer, own_body: bool) -> Result<(), String> {
        let expect = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        let location = answer.header("location");
        match answer.status {
            422 => return expect(!own_body, "the key's own request is refused"),
            429 | 503 if location.is_empty() => {
                return expect(!answer.header("retry-after").is_empty(), "it does not say when to try again");
            }
            503 => return Ok(()),
            200 | 202 | 402 | 409 => {}
            _ => return Err("an answer that the contract does not have".to_owned()),
        }
        expect(own_body, "another request with the key is not refused")?;
        let body = answer.json().map_err(|error| error.to_string())?;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let (saga_id, told) = (text("sagaId"), (text("status"), text("step")));
        expect(location == format!("/sagas/{saga_id}"), "Location is another saga")?;
        let request = &self.sent.request;
        expect(text("userId") == request.user_id, "it is about another user")?;
        expect(body["totalAmount"] == request.amount(), "it is about another amount")?;
        // A 202 says where the saga was: it has gone on since.
        if answer.status != 202 {
            expect(status_of(&told) == Some(answer.status), "status and body differ")?;
            let stored = self.sagas.iter().find(|saga| saga.saga_id == saga_id);
            let stored = stored.map(|saga| (saga.status.clone(), saga.step.clone()));
            expect(stored.is_none_or(|stored| stored == told), "the row says otherwise")?;
        }
        Ok(())
    }

    fn wrong(&mut self, what: &str) {
        self.findings.violations.push(format!("{}: {what}", self.sent.request.user_id));
    }

    fn lost(&mut self, what: &str) {
        self.findings.lost.push(format!("{}: {what}", self.sent.request.user_id));
    }
}

/// The saga that an answer says is stored.
fn vouched_for(answer: &Answer) -> Option<String> {
    let body = matches!(answer.status, 200 | 202 | 402 | 409).then(|| answer.json().ok()).flatten()?;
    Some(body["sagaId"].as_str()?.to_owned())
}

/// Whether after this there may be a saga.
fn may_have_stored(got: &Got) -> bool {
    match got {
        Got::NoConnection => false,
        Got::ConnectionLost | Got::TimedOut => true,
        Got::Answer(answer) => !matches!(answer.status, 429 | 503) || answer.text.contains("outcome unknown"),
    }
}

/// The HTTP status of an end.
fn status_of((status, step): &(String, String)) -> Option<u16> {
    match (status.as_str(), step.as_str()) {
        ("COMPLETED", _) => Some(200),
        ("FAILED", "PAYMENT_FAILED") => Some(402),
        ("FAILED", _) => Some(409),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
