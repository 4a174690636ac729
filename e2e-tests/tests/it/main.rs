//! The platform as a client sees it. One binary, so that it is linked once; a module for each thing that is promised.

mod audit;
mod checkout_input;
mod crashes;
mod dashboard;
mod dead_letter_outage;
mod dead_letters;
mod descriptions;
mod duplicates;
mod idempotency;
mod metrics;
mod operator;
mod orders;
mod outages;
mod poison;
mod readme;
mod redrive;
mod retention;
mod sagactl;
mod scenarios;
mod shutdown;
mod slow_gateway;
mod startup_errors;
mod structure;
mod traces;
mod views;
mod waiting;
