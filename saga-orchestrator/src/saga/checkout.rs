//! The request of a checkout, whose fields have columns of their own in `sagas`.

use std::sync::Arc;

use flow::{Record, Request, Value};
use messages::{Money, UserId};

/// What the client of `POST /checkout` asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkout {
    pub user_id: UserId,
    pub money: Money,
    pub force_payment_fail: bool,
    pub force_inventory_fail: bool,
}

/// As the flow reads it: the fields of pay-first's `start.input`, in their order.
impl From<Checkout> for Request {
    fn from(checkout: Checkout) -> Self {
        let Checkout { user_id, money, force_payment_fail, force_inventory_fail } = checkout;
        let input = vec![
            ("userId".into(), Value::Text(user_id.to_string())),
            ("totalAmount".into(), Value::Amount(money.amount())),
            ("currency".into(), Value::Text(money.currency().code().to_owned())),
            (FORCE_PAYMENT_FAIL.into(), Value::Flag(force_payment_fail)),
            (FORCE_INVENTORY_FAIL.into(), Value::Flag(force_inventory_fail)),
        ];
        Self { input: Record(input), owner: user_id, money: Some(money) }
    }
}

impl From<Checkout> for Arc<Request> {
    fn from(checkout: Checkout) -> Self {
        Self::new(checkout.into())
    }
}

/// Fields of the input.
pub const FORCE_PAYMENT_FAIL: &str = "forcePaymentFail";
pub const FORCE_INVENTORY_FAIL: &str = "forceInventoryFail";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::flows;

    #[test]
    fn a_checkout_is_the_request_that_the_flow_reads() {
        for (json, force_payment_fail, force_inventory_fail) in [
            (r#"{"userId":"u1","totalAmount":"19.90","currency":"EUR"}"#, false, false),
            (r#"{"userId":"u1","totalAmount":19.90,"currency":"EUR","forcePaymentFail":true}"#, true, false),
            (r#"{"userId":"u1","totalAmount":19.9,"currency":"EUR","forceInventoryFail":true}"#, false, true),
        ] {
            let user_id = "u1".to_owned().try_into().unwrap();
            let money = Money::parse("19.90", "EUR".parse().unwrap()).unwrap();
            let checkout = Checkout { user_id, money, force_payment_fail, force_inventory_fail };
            assert_eq!(Request::from(checkout), flows::pay_first().read_start(json).unwrap(), "{json}");
        }
    }
}
