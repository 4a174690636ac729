//! What happens outside: somebody sends the signals that sagas wait for, before their saga waits, in time, too late or never,
//! and again until they are acknowledged.

use flow::{Late, State, Wait};
use uuid::Uuid;

use super::coverage::Seen;
use super::dice::Rate;
use super::matching::Matching;
use super::orchestrator::Work;
use super::script::ms;
use super::world::{Event, World};
use crate::saga::{Awaited, Saga, Signal};

/// What happens outside at a time of its own.
pub enum Turn {
    /// A signal is sent, and again until it is acknowledged.
    Send(usize),
    /// It comes once more, acknowledged or not.
    SendTwice(usize),
    /// Somebody sees that a saga still waits that nothing but its signal lets go on.
    Insist { saga: usize, step: usize },
}

/// All who send signals.
pub struct Outside {
    /// What comes of the signal of each step, by saga and step. `None`: not decided yet.
    fates: Vec<Vec<Option<Fate>>>,
    /// What was sent, by the sender's own id.
    sent: Vec<SentSignal>,
}

struct Fate {
    comes: Comes,
    /// What the signal names.
    matched: String,
    /// Whether its saga has begun to wait.
    is_awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// As soon as it is known what it has to name.
    Early,
    /// While its saga waits, mostly.
    InTime,
    /// After the limit.
    TooLate,
    Never,
}

impl Comes {
    const fn words(self) -> &'static str {
        match self {
            Self::Early => "as early as it can",
            Self::InTime => "in time",
            Self::TooLate => "too late",
            Self::Never => "never",
        }
    }
}

/// A signal as it is sent.
#[derive(Debug, Clone)]
struct SentSignal {
    /// The saga and the step that it is meant for.
    meant_for: (usize, usize),
    kind: String,
    matched: String,
    payload: String,
    is_acknowledged: bool,
}

/// A row of `signals`.
#[derive(Debug)]
pub struct StoredSignal {
    pub id: Uuid,
    /// The sender's own id.
    sent: usize,
    /// The saga and the step that it is meant for.
    pub meant_for: (usize, usize),
    pub kind: String,
    /// What it names.
    pub matched: String,
    pub payload: String,
    /// When it was stored, in ms.
    pub at: u64,
    /// The saga that has taken it, and at which step.
    pub taken: Option<(usize, usize)>,
}

impl StoredSignal {
    /// As the step has it that the saga waits at: what `take` in `signals.rs` reads.
    ///
    /// # Errors
    /// Why it does not count there.
    pub fn read(&self, saga: &Saga) -> Result<Signal, String> {
        let wait = saga.wait().filter(|wait| wait.signal == self.kind);
        let wait = wait.ok_or_else(|| format!("it waits for something else than a {}", self.kind))?;
        let values = wait.read(&self.payload).map_err(|misfit| format!("its payload does not fit: {misfit}"))?;
        Ok(Signal { signal_id: self.id, kind: self.kind.clone(), matched: self.matched.clone(), values })
    }

    /// Whether a wait can read its payload.
    pub fn fits(&self, wait: &Wait) -> bool {
        self.kind == wait.signal && wait.read(&self.payload).is_ok()
    }

    /// What a saga awaits that waits for it.
    pub fn key(&self) -> String {
        Awaited { kind: &self.kind, matched: self.matched.clone() }.key()
    }
}

impl Outside {
    pub fn new(sagas: usize, steps: usize) -> Self {
        let fates = (0..sagas).map(|_| (0..steps).map(|_| None).collect());
        Self { fates: fates.collect(), sent: Vec::new() }
    }
}

impl World<'_> {
    /// A saga has come somewhere: what comes of its signals is decided once it is known what they have to name.
    pub fn happen_outside(&mut self, saga: usize, stored: &Saga) {
        let State::Running { step: at } = stored.state else { return };
        let script = self.script;
        for (step, of) in script.flow.steps.iter().enumerate().skip(at) {
            let Some(wait) = of.wait().filter(|_| self.outside.fates[saga][step].is_none()) else { continue };
            let Some(matched) = named(stored, wait) else { continue };
            let comes = self.comes(step);
            self.trace(|| format!("outside: {} for saga {saga} comes {}", wait.signal, comes.words()));
            self.outside.fates[saga][step] = Some(Fate { comes, matched, is_awaited: false });
            if comes == Comes::Early {
                self.send((saga, step), 0);
            }
        }
        self.begin_wait(saga, at);
    }

    fn comes(&mut self, step: usize) -> Comes {
        match self.dice.between(0, 99) {
            0..=29 => Comes::Early,
            30..=69 => Comes::InTime,
            70..=84 => Comes::TooLate,
            _ if self.has_to_come(step) => Comes::InTime,
            _ => Comes::Never,
        }
    }

    /// Whether nothing but its signal lets a saga go on from this step.
    fn has_to_come(&self, step: usize) -> bool {
        let step = &self.script.flow.steps[step];
        step.within.is_none() || step.late == Late::Attention
    }

    /// How long a saga waits at this step, in ms.
    fn patience(&self, step: usize) -> u64 {
        self.script.flow.steps[step].within.map_or(self.script.times.longest, ms)
    }

    fn begin_wait(&mut self, saga: usize, step: usize) {
        let fate = self.outside.fates[saga][step].as_mut();
        let Some(fate) = fate.filter(|fate| !fate.is_awaited) else { return };
        fate.is_awaited = true;
        let (comes, patience) = (fate.comes, self.patience(step));
        match comes {
            Comes::Early | Comes::Never => {}
            Comes::InTime => {
                let most = if self.dice.chance(Rate::percent(50)) { 2_000 } else { patience };
                let after = self.dice.between(0, most.min(patience));
                self.send((saga, step), after);
            }
            Comes::TooLate => {
                let after = self.dice.between(patience, patience + patience / 2);
                self.send((saga, step), after);
            }
        }
        if self.has_to_come(step) {
            self.schedule(self.now + 2 * patience, Event::Outside(Turn::Insist { saga, step }));
        }
    }

    /// Sends the signal of a step: perhaps one before it that does not fit, and one that names nobody.
    fn send(&mut self, meant_for: (usize, usize), after: u64) {
        let (script, (saga, step)) = (self.script, meant_for);
        let wait = script.flow.steps[step].wait().zip(script.parts[step].signal.as_ref());
        let (Some((wait, carried)), Some(fate)) = (wait, &self.outside.fates[saga][step]) else { return };
        let place = self.dice.between(0, carried.fitting.len() as u64 - 1) as usize;
        let sent = SentSignal {
            meant_for,
            kind: wait.signal.clone(),
            matched: fate.matched.clone(),
            payload: carried.fitting[place].clone(),
            is_acknowledged: false,
        };
        let mut at = self.now + after + self.dice.between(0, 300);
        if let Some(misfit) = carried.misfit.as_ref().filter(|_| self.dice.chance(self.rates.forged)) {
            self.post(at, SentSignal { payload: misfit.clone(), ..sent.clone() });
            at += self.dice.between(0, 1_000);
        }
        if self.dice.chance(self.rates.forged) {
            let matched = format!("nobody {}", self.dice.bits());
            self.post(at, SentSignal { matched, ..sent.clone() });
        }
        self.post(at, sent);
    }

    fn post(&mut self, at: u64, sent: SentSignal) {
        self.outside.sent.push(sent);
        self.schedule(at, Event::Outside(Turn::Send(self.outside.sent.len() - 1)));
    }

    pub fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Send(number) if self.outside.sent[number].is_acknowledged => {}
            Turn::Send(number) => {
                self.deliver(number);
                if self.dice.chance(self.rates.reply_doubled) {
                    let at = self.now + self.delay();
                    self.schedule(at, Event::Outside(Turn::SendTwice(number)));
                }
                let again = self.now + self.dice.between(1_000, 4_000);
                self.schedule(again, Event::Outside(Turn::Send(number)));
            }
            Turn::SendTwice(number) => self.deliver(number),
            Turn::Insist { saga, step } => self.insist(saga, step),
        }
    }

    /// A request comes to one of the orchestrators. If none runs, it is sent again.
    fn deliver(&mut self, number: usize) {
        let Some(process) = self.live() else { return };
        let SentSignal { kind, matched, payload, .. } = self.outside.sent[number].clone();
        self.trace(|| format!("outside: signal {number} is sent: {kind} {matched}: {payload}"));
        let after = self.delay();
        self.later(process, after, Work::Match(Matching::Store(number)));
    }

    /// The signal of this saga was taken by another one, say. Who sees that it still waits sends another.
    fn insist(&mut self, saga: usize, step: usize) {
        let state = self.rows[saga].as_ref().and_then(|row| row.state());
        let wait = self.script.flow.steps[step].wait();
        let (Some(fate), Some(wait)) = (&self.outside.fates[saga][step], wait) else { return };
        if state != Some(State::Running { step }) {
            return;
        }
        let is_on_its_way = self.outside.sent.iter().any(|sent| {
            let is_its = sent.kind == wait.signal && sent.matched == fate.matched;
            is_its && !sent.is_acknowledged && wait.read(&sent.payload).is_ok()
        });
        let is_stored = self.there(wait, &fate.matched).is_some();
        if !is_stored && !is_on_its_way {
            self.send((saga, step), 0);
        }
        let at = self.now + self.patience(step);
        self.schedule(at, Event::Outside(Turn::Insist { saga, step }));
    }

    /// Stores a signal, once for each of the sender's ids; its place, and whether it is new.
    pub fn store_sent(&mut self, number: usize) -> (usize, bool) {
        if let Some(place) = self.signals.iter().position(|signal| signal.sent == number) {
            return (place, false);
        }
        let id = Uuid::from_u64_pair(self.dice.bits(), self.dice.bits());
        let SentSignal { meant_for, kind, matched, payload, .. } = self.outside.sent[number].clone();
        let (saga, step) = meant_for;
        let state = self.rows[saga].as_ref().and_then(|row| row.state());
        self.saw(match state {
            Some(State::Running { step: at }) if at < step => Seen::SignalEarly,
            Some(State::Running { step: at }) if at == step => Seen::SignalInTime,
            _ => Seen::SignalLate,
        });
        let (sent, at) = (number, self.now);
        self.signals.push(StoredSignal { id, sent, meant_for, kind, matched, payload, at, taken: None });
        (self.signals.len() - 1, true)
    }

    /// The sender knows that it is stored.
    pub fn acknowledge(&mut self, number: usize) {
        self.outside.sent[number].is_acknowledged = true;
    }
}

/// What a signal of this wait names.
fn named(saga: &Saga, wait: &Wait) -> Option<String> {
    let mut json = Vec::new();
    let is_there = saga.write(&wait.matched, &mut json);
    serde_json::from_slice(&json).ok().filter(|_| is_there)
}
