//! The platform as a client sees it. One binary, so that it is linked once; a module for each thing that is promised.

mod checkout_input;
mod commands;
mod crashes;
mod dead_letters;
mod duplicates;
mod orders;
mod outages;
mod readme;
mod scenarios;
mod shutdown;
mod slow_gateway;
mod startup_errors;
mod structure;
mod waiting;
