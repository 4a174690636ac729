//! The flows that come with this release. A flow under a version that sagas were started by never changes: a new version
//! stands beside it, as a file of its own. Whatever file lies in `flows/` is built in.

use std::sync::{Arc, LazyLock};

use flow::{Flow, Origin, check};

pub use flow::{CHECKOUTS, PAY_FIRST, RESERVE_FIRST};

/// A built-in flow: its file and what it says.
#[derive(Debug)]
pub struct BuiltIn {
    pub source: &'static str,
    pub flow: Arc<Flow>,
}

/// The files of `flows/`, by name: `build.rs` lists them. The feature `more-flows` adds those of a test.
const FILES: &[&str] = include!(concat!(env!("OUT_DIR"), "/flows.rs"));

/// Every built-in flow, checked once.
static BUILT_IN: LazyLock<Vec<BuiltIn>> = LazyLock::new(|| FILES.iter().copied().map(built_in_flow).collect());

fn built_in_flow(source: &'static str) -> BuiltIn {
    match check(source, Origin::BuiltIn) {
        Ok(flow) => BuiltIn { source, flow },
        // The flow's own tests run before a release is made.
        Err(findings) => panic!("a built-in flow breaks a rule: {findings:?}"),
    }
}

/// Every built-in flow.
pub fn built_in() -> &'static [BuiltIn] {
    &BUILT_IN
}

/// Whether the sagas of this flow are those of `POST /checkout`.
pub fn is_checkout(flow: &Flow) -> bool {
    CHECKOUTS.contains(&flow.name.as_str())
}

/// Whether its sagas have all of their request in columns of `sagas`, and sentences of their own: so had the first flow.
pub fn is_pay_first(flow: &Flow) -> bool {
    flow.name == PAY_FIRST
}

/// A flow behind `POST /checkout`, in the version whose input a [`Checkout`](super::Checkout) has.
pub fn checkout(name: &str) -> Option<Arc<Flow>> {
    let mut flows = BUILT_IN.iter().map(|built_in| &built_in.flow);
    flows.find(|flow| is_checkout(flow) && flow.name == name && flow.version == 1).cloned()
}

/// The flow of a checkout without items: charge, reserve, confirm.
pub fn pay_first() -> Arc<Flow> {
    checkout(PAY_FIRST).expect("`POST /checkout` runs by pay-first v1")
}

#[cfg(test)]
#[path = "../../build.rs"]
#[expect(dead_code, reason = "the build runs `main`")]
mod build;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_built_in_under_the_name_that_it_has() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = build::FOLDERS.iter().flat_map(|folder| fs::read_dir(package.join(folder)).unwrap());
        let mut count = 0;
        for file in files {
            let file = file.unwrap();
            let source = fs::read_to_string(file.path()).unwrap();
            let flow = &built_in().iter().find(|built_in| built_in.source == source).unwrap().flow;
            let name = format!("{}.v{}.yaml", flow.name, flow.version);
            assert_eq!(file.file_name().to_str(), Some(name.as_str()));
            count += 1;
        }
        assert_eq!(count, built_in().len());
    }

    #[test]
    fn a_flow_is_a_checkout_by_its_route() {
        for built_in in built_in() {
            let has_route = built_in.flow.start.route.as_deref() == Some("/checkout");
            assert_eq!(is_checkout(&built_in.flow), has_route, "{}", built_in.flow.name);
        }
        assert!(CHECKOUTS.iter().all(|name| checkout(name).is_some()));
    }

    #[test]
    fn what_answers_a_built_in_flow_is_read_apart_from_what_only_users_flows_wait_for() {
        let of_platform = |event: &&str| messages::Event::TOPICS.contains(event);
        let mut awaited: Vec<&str> =
            built_in().iter().flat_map(|built_in| built_in.flow.events()).filter(of_platform).collect();
        awaited.sort_unstable();
        awaited.dedup();
        let mut read = [messages::groups::REPLIES.topics, messages::groups::FAILURES.topics].concat();
        read.sort_unstable();
        assert_eq!(awaited, read);
    }

    #[test]
    fn a_file_more_in_the_folder_is_a_flow_more() {
        let folder = std::env::temp_dir().join(format!("flows-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let embedded = |file: &str| {
            fs::write(folder.join(file), "").unwrap();
            build::embedded(&build::files(&folder).unwrap()).matches("include_str!").count()
        };
        let found = ["pay-first.v1.yaml", "ship-first.v1.yaml", "a note.md"].map(embedded);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, [1, 2, 2]);
    }
}
