//! The request of a checkout, whose fields have columns of their own in `sagas`.

use std::sync::Arc;

use flow::{Record, Request, Value};
use messages::{Item, Items, Money, UserId};

/// What the client of `POST /checkout` asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkout {
    pub user_id: UserId,
    pub money: Money,
    /// None where its goods are not counted.
    pub items: Items,
    pub force_payment_fail: bool,
    pub force_inventory_fail: bool,
}

/// As the flow reads it: the fields of its `start.input`, in their order.
impl From<Checkout> for Request {
    fn from(checkout: Checkout) -> Self {
        let Checkout { user_id, money, items, force_payment_fail, force_inventory_fail } = checkout;
        let line = |Item { sku, qty }: &Item| {
            Record(vec![("sku".into(), Value::Text(sku.to_string())), ("qty".into(), Value::Count((*qty).into()))])
        };
        let mut input = vec![("userId".into(), Value::Text(user_id.to_string()))];
        if !items.is_empty() {
            input.push((ITEMS.into(), Value::List(items.lines().iter().map(line).collect())));
        }
        input.extend([
            ("totalAmount".into(), Value::Amount(money.amount())),
            ("currency".into(), Value::Text(money.currency().code().to_owned())),
            (FORCE_PAYMENT_FAIL.into(), Value::Flag(force_payment_fail)),
            (FORCE_INVENTORY_FAIL.into(), Value::Flag(force_inventory_fail)),
        ]);
        Self { input: Record(input), owner: user_id, money: Some(money) }
    }
}

impl From<Checkout> for Arc<Request> {
    fn from(checkout: Checkout) -> Self {
        Self::new(checkout.into())
    }
}

/// Fields of the input.
pub const ITEMS: &str = "items";
pub const FORCE_PAYMENT_FAIL: &str = "forcePaymentFail";
pub const FORCE_INVENTORY_FAIL: &str = "forceInventoryFail";

#[cfg(test)]
mod tests {
    use flow::RESERVE_FIRST;
    use messages::Currency;

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
            let items = Items::default();
            let checkout = Checkout { user_id, money, items, force_payment_fail, force_inventory_fail };
            assert_eq!(Request::from(checkout), flows::pay_first().read_start(json).unwrap(), "{json}");
        }
    }

    #[test]
    fn one_with_items_is_what_their_flow_reads() {
        let json = r#"{"userId":"u1","items":[{"sku":"b","qty":2},{"sku":"a","qty":1000000}],"totalAmount":"19.90"}"#;
        let checkout = Checkout {
            user_id: "u1".to_owned().try_into().unwrap(),
            money: Money::parse("19.90", Currency::USD).unwrap(),
            items: serde_json::from_str(r#"[{"sku":"b","qty":2},{"sku":"a","qty":1000000}]"#).unwrap(),
            force_payment_fail: false,
            force_inventory_fail: false,
        };
        let flow = flows::checkout(RESERVE_FIRST).unwrap();
        assert_eq!(Request::from(checkout), flow.read_start(json).unwrap());
    }
}
