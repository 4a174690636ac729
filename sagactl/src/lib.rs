//! `sagactl`, the operators' program: it tells where a customer's money is and what happens next ([`show`], [`sagas`]),
//! steps in ([`acts`], [`many`]), sends signals ([`signal`]), shows and moves stock ([`stock`]), tells how full the topics are ([`topics`]), proves that the four
//! databases agree about everybody's money ([`audit`]), and looks through, and sends back, what was set aside on the
//! dead-letter topics ([`dlq`]). Flow files are checked, drawn and published ([`flow`]), and the programs that carry out
//! their steps are checked over Kafka ([`participant`]).
//!
//! A library first, so that the end-to-end tests judge by the very same invariants.

pub mod acts;
pub mod api;
pub mod audit;
pub mod databases;
pub mod dlq;
pub mod flow;
pub mod many;
pub mod paint;
pub mod participant;
pub mod sagas;
pub mod show;
pub mod signal;
pub mod stock;
pub mod timeline;
pub mod topics;
