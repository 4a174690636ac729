//! The dashboard in a real browser: what a page does by itself, what its buttons send, and what its reader sees without
//! ever loading it again. Chromium and its driver have to be there, so these tests have a cargo feature of their own;
//! `.ci/run` installs both and runs them. `SCREENSHOTS_DIR` keeps the pictures that they take.

mod browser;
mod hostile;
mod intake;
mod mass_acts;
mod pictures;
mod reading;
mod saga_page;
mod stock;
