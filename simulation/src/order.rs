//! The order service's processes: what `order-service/src/routes.rs` does around `order.rs`, and its answers as HTTP
//! would carry them.

use messages::Items;
use order_service::answers::OrderBody;
use order_service::order::{
    Contents, Create, Move, Order, Refusal, Repeated, Status, Transition, Why, decide, repeated_create,
};
use saga_orchestrator::saga::OrderCall;
use service_runtime::http::Problem;

use crate::calls::Calling;
use crate::coverage::Seen;
use crate::pending::{Event, Work};
use crate::plan::{Service, index_of};
use crate::world::{ProcessId, World};
use saga_orchestrator::rehearsal::dice::Statement;

/// A request in the service's hands.
pub struct Serving {
    request: Request,
    step: Step,
    caller: ProcessId,
    /// The caller's life: a dead one gets no answer.
    life: u32,
    calling: Calling,
}

#[derive(Clone)]
enum Request {
    Create(Create),
    Move(Transition),
}

/// The next statement.
#[derive(Clone, Copy)]
enum Step {
    Write,
    /// The write's expectation did not hold: what is there instead?
    Read,
    LeaveTombstone,
}

/// An answer on its way to the caller.
pub struct Answered {
    pub calling: Calling,
    pub answer: HttpAnswer,
}

pub enum HttpAnswer {
    Complete {
        status: u16,
        body: Vec<u8>,
    },
    /// 503: the database is away.
    Passing,
}

impl World {
    pub fn ask_order_service(&mut self, server: ProcessId, caller: ProcessId, calling: Calling) {
        let request = match calling.call.clone() {
            OrderCall::Create { order_id, saga_id, user_id, money, .. } => {
                let contents = Contents { user_id, money, items: Items::default() };
                Request::Create(Create { order_id, saga_id: Some(saga_id), contents, flow: None, key: None })
            }
            OrderCall::Confirm { order_id, saga_id } => Request::Move(Transition {
                order_id,
                saga_id: Some(saga_id),
                to: Status::Confirmed,
                why: Why::default(),
            }),
            OrderCall::Cancel { order_id, saga_id, .. } => Request::Move(Transition {
                order_id,
                saga_id: Some(saga_id),
                to: Status::Cancelled,
                why: Why::default(),
            }),
        };
        let life = self.processes[caller].life;
        self.soon(server, Work::Serve(Box::new(Serving { request, step: Step::Write, caller, life, calling })));
    }

    pub fn serve(&mut self, process: ProcessId, mut serving: Box<Serving>) {
        let statement = self.statement(Service::Order);
        if statement == Statement::Fails {
            return self.answer(*serving, HttpAnswer::Passing);
        }
        let done = match &serving.request.clone() {
            Request::Create(create) => self.create(process, create, serving.step),
            Request::Move(wanted) => self.transition(process, wanted, serving.step),
        };
        match done {
            _ if statement == Statement::WorksAndSeemsToFail => self.answer(*serving, HttpAnswer::Passing),
            Ok(answer) => self.answer(*serving, answer),
            Err(next) => {
                serving.step = next;
                self.soon(process, Work::Serve(serving));
            }
        }
    }

    /// `routes.rs`, `create`: one statement of it. The answer, or the next statement.
    fn create(&mut self, process: ProcessId, create: &Create, step: Step) -> Result<HttpAnswer, Step> {
        let index = index_of(create.order_id);
        if let Step::Write = step {
            let order = create.to_order(self.clock(process));
            let created = self.databases.insert_order(index, order.clone());
            self.trace(|| format!("order {index} is created: {created}"));
            return if created { Ok(complete(201, order)) } else { Err(Step::Read) };
        }
        let Some(order) = self.databases.orders[index].clone() else {
            return Ok(refused(Refusal::Unknown(create.order_id)));
        };
        match repeated_create(&order, create) {
            // (None is placed directly here.)
            Ok(Repeated::Create | Repeated::TakenUp(_)) => Ok(complete(200, order)),
            Err(refusal) => {
                if matches!(refusal, Refusal::CancelledBefore(_)) {
                    self.saw(Seen::LateCreate);
                }
                Ok(refused(refusal))
            }
        }
    }

    /// `routes.rs`, `transition`: one statement of its loop. The answer, or the next statement.
    fn transition(&mut self, process: ProcessId, wanted: &Transition, step: Step) -> Result<HttpAnswer, Step> {
        let (index, now) = (index_of(wanted.order_id), self.clock(process));
        match step {
            Step::Write => {
                let moved = self.databases.move_order(index, wanted, now);
                if moved.is_some() {
                    self.trace(|| format!("order {index} is {}", wanted.to.as_str()));
                    if wanted.to == Status::Cancelled {
                        self.saw(Seen::Cancelled);
                    }
                }
                moved.map(|order| complete(200, order)).ok_or(Step::Read)
            }
            Step::Read => {
                let found = self.databases.orders[index].clone();
                match (decide(found.as_ref(), wanted), found) {
                    (Err(refusal), _) => Ok(refused(refusal)),
                    (Ok(Move::Nothing), Some(order)) => Ok(complete(200, order)),
                    (Ok(Move::Store | Move::Nothing), _) => {
                        self.saw(Seen::OrderRaceLost);
                        Err(Step::Write)
                    }
                    (Ok(Move::LeaveTombstone), _) => Err(Step::LeaveTombstone),
                }
            }
            Step::LeaveTombstone => {
                self.leave_order_tombstone(index, wanted, process);
                Err(Step::Write)
            }
        }
    }

    fn leave_order_tombstone(&mut self, index: usize, cancel: &Transition, process: ProcessId) {
        let now = self.clock(process);
        let (order_id, saga_id, status) = (cancel.order_id, cancel.saga_id, Status::Cancelled);
        let tombstone = Order {
            order_id,
            saga_id,
            contents: None,
            flow: None,
            awaits_saga: false,
            status,
            why: cancel.why.clone(),
            created_at: now,
            updated_at: now,
        };
        if self.databases.insert_order(index, tombstone) {
            self.saw(Seen::OrderTombstone);
            self.trace(|| format!("order {index} is CANCELLED before it was created"));
        } else {
            self.saw(Seen::OrderRaceLost);
        }
    }

    fn answer(&mut self, serving: Serving, answer: HttpAnswer) {
        let Serving { caller, life, calling, .. } = serving;
        if self.dice.chance(self.rates.http) {
            self.trace(|| format!("the answer to {:?} is lost", calling.call));
            return self.saw(Seen::AnswerLost);
        }
        let at = self.now + self.delay();
        let work = Work::CallAnswered(Box::new(Answered { calling, answer }));
        self.schedule(at, Event::Work { process: caller, life, work });
    }

    /// Somebody who knows the saga's id cancels its order, as `PATCH` lets them.
    pub fn cancel_order_by_hand(&mut self, index: usize) {
        let Some(saga) = self.databases.sagas[index].as_ref().map(|row| row.saga.clone()) else { return };
        let wanted = Transition {
            order_id: saga.order_id,
            saga_id: Some(saga.saga_id),
            to: Status::Cancelled,
            why: Why::default(),
        };
        let (process, found) = (Service::Order as usize * 2, self.databases.orders[index].clone());
        let done = match decide(found.as_ref(), &wanted) {
            Ok(Move::LeaveTombstone) => {
                self.leave_order_tombstone(index, &wanted, process);
                true
            }
            Ok(Move::Store) => {
                let now = self.clock(process);
                self.databases.move_order(index, &wanted, now).is_some()
            }
            Ok(Move::Nothing) | Err(_) => false,
        };
        if done {
            self.saw(Seen::OrderCancelledByHand);
        }
    }
}

fn complete(status: u16, order: Order) -> HttpAnswer {
    let body = serde_json::to_vec(&OrderBody::from(order)).expect("an order of plain fields always has a JSON form");
    HttpAnswer::Complete { status, body }
}

fn refused(refusal: Refusal) -> HttpAnswer {
    let problem = Problem::from(refusal);
    let body = serde_json::to_vec(&problem).expect("a problem of plain fields always has a JSON form");
    HttpAnswer::Complete { status: problem.status().as_u16(), body }
}
