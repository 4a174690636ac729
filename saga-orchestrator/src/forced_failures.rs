//! `ALLOW_FORCED_FAILURES`: whether a checkout may ask to be declined or to find nothing in stock. It is asked at the way
//! in only: a saga that was let in goes on as its row says, whatever the setting is by then.

use serde::Deserialize;

/// `auto`: as long as gateway and stock are the simulated ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ForcedFailures(bool);

impl ForcedFailures {
    pub const fn get(self) -> bool {
        self.0
    }
}

impl TryFrom<String> for ForcedFailures {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self(messages::IS_SIMULATED)),
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            _ => Err(format!("must be auto, true or false, not {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use service_runtime::settings::Settings;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Section {
        allow_forced_failures: ForcedFailures,
    }

    fn set(value: &str) -> Result<bool, String> {
        let environment = [("ALLOW_FORCED_FAILURES".to_owned(), value.to_owned())];
        let settings = Settings::load(&crate::DEFAULTS, None, environment.into_iter());
        let section = settings.and_then(|settings| settings.section::<Section>());
        section.map(|section| section.allow_forced_failures.get()).map_err(|error| error.to_string())
    }

    #[test]
    fn they_are_allowed_by_default_only_in_the_simulated_world() {
        assert_eq!(set("auto"), Ok(messages::IS_SIMULATED));
        assert_eq!(set("true"), Ok(true));
        assert_eq!(set("false"), Ok(false));
        let error = set("no").unwrap_err();
        assert!(error.contains("allow_forced_failures") && error.contains("auto, true or false"), "{error}");
    }
}
