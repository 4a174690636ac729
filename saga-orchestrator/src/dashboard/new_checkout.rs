//! A form that sends a checkout, with a forced failure where those are allowed, and goes to its saga.

use axum::extract::State;
use maud::{Markup, html};

use super::layout::{Place, page};
use super::{Dashboard, Page};

pub async fn show(State(dashboard): State<Dashboard>) -> Page {
    let body = html! {
        h1 { "New checkout" }
        form.card.narrow data-checkout {
            label { "User" input name="userId" required maxlength="128" value="u1"; }
            div.row {
                label { "Amount" input name="totalAmount" required inputmode="decimal" pattern="[0-9]+(\\.[0-9]+)?" value="500"; }
                label { "Currency" input name="currency" required pattern="[A-Z]{3}" size="4" value="USD"; }
            }
            label { "Items, of products that are counted" input name="items" placeholder="blue-mug 2, teapot 1"; }
            p.hint { "None: the goods are not counted." }
            @if dashboard.forced_failures { (what_is_to_happen()) }
            p.hint { "This is what is sent:" }
            pre data-request {}
            p.error role="alert" hidden {}
            div.buttons { button.primary type="submit" { "Send the checkout" } }
        }
    };
    page("New checkout", Place::New, None, Some(&dashboard.gate), &body).into()
}

fn what_is_to_happen() -> Markup {
    html! {
        fieldset {
            legend { "What is to happen" }
            label.option { input type="radio" name="force" value="" checked; "All goes well" }
            label.option { input type="radio" name="force" value="forcePaymentFail"; "The payment is declined" }
            label.option { input type="radio" name="force" value="forceInventoryFail"; "The goods are out of stock: what was done is undone" }
        }
    }
}
