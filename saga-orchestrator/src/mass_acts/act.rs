//! What an operator does to many sagas, which of them it is for, and which flows refuse it.

use flow::{Flow, Happened, Name, Role, State, WAITING};
use service_runtime::http::Problem;

use crate::operator::{cancel_rule, refusal};
use crate::registry::Flows;
use crate::saga::OperatorAct;
use crate::store::lists::Filter;
use crate::views::list::{self, ListQuery};

/// What an operator does to many sagas. (Resolving is not among it: what proves it differs from one to the next.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MassAct {
    /// For sagas that nobody has answered in time.
    Retry,
    /// For sagas that have not turned back.
    Cancel,
}

/// The sagas that an act is for.
pub struct Meant {
    pub filter: Filter,
    /// The query has no filter: the act is for all sagas that have use for it.
    pub all: bool,
}

impl MassAct {
    pub const ALL: [Self; 2] = [Self::Retry, Self::Cancel];

    /// As paths have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
        }
    }

    /// As it stands in a saga's history.
    pub const fn of_operator(self) -> OperatorAct {
        match self {
            Self::Retry => OperatorAct::Retry,
            Self::Cancel => OperatorAct::Cancel(Role::Operator),
        }
    }

    /// Whether the act may be for sagas that this query asks for, and not for all sagas.
    pub fn is_for(self, query: &ListQuery, flows: &Flows) -> bool {
        self.meant(query, flows).is_ok_and(|meant| !meant.all)
    }

    /// The sagas of a query that this is for.
    ///
    /// # Errors
    /// 400 naming the parameter that is wrong, or asks for others only.
    pub fn meant(self, query: &ListQuery, flows: &Flows) -> Result<Meant, Problem> {
        let filter = list::filter(query, &flows.all())?;
        let narrowing = if filter.step.is_some() { "step" } else { "status" };
        Ok(Meant { all: filter.is_all(), filter: self.narrowed(filter, narrowing)? })
    }

    /// `by`: the parameter that the filter's statuses follow from.
    fn narrowed(self, mut filter: Filter, by: &str) -> Result<Filter, Problem> {
        let statuses: &[&str] = match self {
            Self::Retry => &["RUNNING", WAITING, "COMPENSATING"],
            // One that turns back already would go on as it does.
            Self::Cancel => &["RUNNING", WAITING],
        };
        if filter.statuses.is_empty() {
            filter.statuses = statuses.iter().copied().filter_map(Name::new).collect();
        }
        filter.statuses.retain(|status| statuses.contains(&status.as_str()));
        if filter.statuses.is_empty() {
            return Err(Problem::invalid_parameter(
                by,
                format_args!("must be of sagas that are {}", statuses.join(" or ")),
            ));
        }
        filter.is_stuck = self == Self::Retry;
        Ok(filter)
    }

    /// Why it is refused to a saga of this flow and version that stands there. The core decides once more.
    pub fn refused(self, flows: &Flows, (name, version): (&str, i32), status: &str, step: &str) -> Option<String> {
        match flows.find(name, version) {
            None => Some(format!("the saga runs by {name} v{version}, which this release does not know")),
            Some(flow) => self.refused_by(&flow, status, step),
        }
    }

    fn refused_by(self, flow: &Flow, status: &str, step: &str) -> Option<String> {
        let is_permitted = match self {
            Self::Retry => true,
            Self::Cancel => State::parse(flow, status, step, None)
                .is_ok_and(|state| state.next(flow, Happened::Cancelled(Role::Operator)).is_some()),
        };
        (!is_permitted).then(|| refusal(&format!("{status}/{step}"), &cancel_rule(flow, Role::Operator)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::flows::pay_first;

    fn of(statuses: &[&str]) -> Filter {
        Filter { statuses: statuses.iter().filter_map(|status| Name::new(status)).collect(), ..Filter::default() }
    }

    #[test]
    fn an_act_is_for_sagas_that_have_not_ended_and_a_cancel_for_none_that_turns_back() {
        let narrowed = |act: MassAct, statuses: &[&str]| {
            let filter = act.narrowed(of(statuses), "status").map_err(|problem| problem.detail().to_owned())?;
            assert_eq!(filter.is_stuck, act == MassAct::Retry);
            Ok::<_, String>(filter.statuses)
        };
        assert_eq!(narrowed(MassAct::Retry, &[]).unwrap(), ["RUNNING", "WAITING", "COMPENSATING"]);
        assert_eq!(narrowed(MassAct::Cancel, &[]).unwrap(), ["RUNNING", "WAITING"]);
        assert_eq!(narrowed(MassAct::Cancel, &["COMPENSATING", "WAITING", "FAILED"]).unwrap(), ["WAITING"]);
        let ended = narrowed(MassAct::Retry, &["FAILED"]).unwrap_err();
        assert_eq!(ended, "`status` must be of sagas that are RUNNING or WAITING or COMPENSATING");
        let turned_back = narrowed(MassAct::Cancel, &["COMPENSATING"]).unwrap_err();
        assert_eq!(turned_back, "`status` must be of sagas that are RUNNING or WAITING");
    }

    #[test]
    fn a_cancel_is_refused_where_the_flow_does_not_permit_it_and_a_retry_nowhere() {
        let flow = pay_first();
        assert_eq!(MassAct::Cancel.refused_by(&flow, "RUNNING", "INVENTORY_RESERVE"), None);
        let rule = "the saga is RUNNING/ORDER_CONFIRM: only a saga that has not reached ORDER_CONFIRM can be cancelled";
        assert_eq!(MassAct::Cancel.refused_by(&flow, "RUNNING", "ORDER_CONFIRM").as_deref(), Some(rule));
        assert_eq!(MassAct::Retry.refused_by(&flow, "RUNNING", "ORDER_CONFIRM"), None);
        let never = Flow { cancel: None, ..(*flow).clone() };
        let rule = "the saga is RUNNING/ORDER_CREATE: sagas of pay-first are not cancelled by operators";
        assert_eq!(MassAct::Cancel.refused_by(&never, "RUNNING", "ORDER_CREATE").as_deref(), Some(rule));
    }
}
