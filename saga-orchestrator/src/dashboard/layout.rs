//! What all pages have in common.

use maud::{DOCTYPE, Markup, html};
use service_runtime::http::Problem;

use crate::gate::Gate;

/// Where a page stands in the navigation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Sagas,
    Attention,
    New,
    DeadLetters,
    Stock,
    Flows,
    Elsewhere,
}

/// A whole page. `live`: where its moves come from, for a page that keeps itself fresh.
pub fn page(title: &str, place: Place, live: Option<&str>, gate: Option<&Gate>, body: &Markup) -> Markup {
    let link = |to: &str, text: &str, of: Place| {
        html! { a href=(to) aria-current=[(of == place).then_some("page")] { (text) } }
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Checkouts" }
                link rel="icon" href="/assets/icon.svg";
                link rel="stylesheet" href="/assets/style.css";
                script src="/assets/script.js" defer {}
            }
            body data-live=[live] {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" { img src="/assets/icon.svg" alt="" width="24" height="24"; "Checkouts" }
                    nav aria-label="Pages" {
                        (link("/", "Sagas", Place::Sagas))
                        (link("/?needsAttention=true", "Needs attention", Place::Attention))
                        (link("/dashboard/flows", "Flows", Place::Flows))
                        (link("/dashboard/stock", "Stock", Place::Stock))
                        (link("/dashboard/dead-letters", "Dead letters", Place::DeadLetters))
                        (link("/dashboard/new", "New checkout", Place::New))
                    }
                    form.find action="/dashboard/find" role="search" {
                        input name="id" type="search" required placeholder="Saga or order id" aria-label="Saga or order id" size="20";
                    }
                    @if let Some(gate) = gate { (intake(gate)) }
                }
                main id="main" { (body) }
                div.toast id="toast" role="status" aria-live="polite" {}
            }
        }
    }
}

/// Whether new checkouts are taken, and the button that changes it.
fn intake(gate: &Gate) -> Markup {
    let closed = gate.refusal();
    let acts = [("pause", "Pause intake"), ("resume", "Resume intake")];
    let (act, label) = acts[usize::from(gate.is_paused())];
    html! {
        div.intake id="intake" data-fresh {
            @match &closed {
                None => { span.dot.good title="New checkouts are taken" { "intake open" } }
                Some(why) => { span.dot.bad title=(why) { "intake closed" } }
            }
            button type="button" data-open={ "act-" (act) } { (label) }
        }
        // Both dialogs, beside what is kept fresh: the button may change while the page is open.
        @for (act, label) in acts {
            (dialog(act, label, &format!("/intake/{act}"), "It holds for all instances, over restarts too. Running sagas finish.", &[]))
        }
    }
}

/// A question before something is done: who, why, and the exact request that is going to be sent.
pub fn dialog(act: &str, title: &str, path: &str, what: &str, more: &[(&str, &str, &str)]) -> Markup {
    html! {
        dialog id={ "act-" (act) } aria-labelledby={ "title-" (act) } {
            form method="dialog" data-post=(path) {
                h2 id={ "title-" (act) } { (title) }
                p { (what) }
                label { "Your name" input name="by" required maxlength="128" autocomplete="username"; }
                label { "Reason" input name="reason" required maxlength="1000"; }
                @for (name, label, value) in more {
                    label { (label) input name=(name) required maxlength="1000" value=(value) readonly[!value.is_empty()]; }
                }
                p.hint { "This is what is sent:" }
                pre data-request {}
                p.error role="alert" hidden {}
                div.buttons {
                    button type="button" data-close { "Not now" }
                    button.primary type="submit" { (title) }
                }
            }
        }
    }
}

/// Why a page can't be shown.
pub fn problem(problem: &Problem) -> Markup {
    let body = html! {
        h1 { (problem.status().to_string()) }
        p { (problem.detail()) }
        @if let Some(id) = problem.error_id() { p { "errorId: " code { (id) } } }
        p { a href="/" { "All sagas" } }
    };
    page("Not shown", Place::Elsewhere, None, None, &body)
}
