//! Lengths of time as people write them: a number and its unit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest that goods are held: longer than any order takes.
const LONGEST_HOLD: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// `500ms`, `90s`, `20m`, `24h`, `14d`: a whole number without leading zeros, and its unit.
pub fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..unit].parse().ok()?;
    if number.to_string() != text[..unit] {
        return None;
    }
    let of_seconds = |seconds: u64| number.checked_mul(seconds).map(Duration::from_secs);
    match &text[unit..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => of_seconds(1),
        "m" => of_seconds(60),
        "h" => of_seconds(60 * 60),
        "d" => of_seconds(24 * 60 * 60),
        _ => None,
    }
}

/// How long goods are set aside, at most 365 days; `0s`: until they are released. It keeps the words that it was written in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HoldFor {
    text: String,
    limit: Option<Duration>,
}

/// A text is no [`HoldFor`]. Meant for the person who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`holdFor` must be a length of time up to 365d, such as `90s`, `20m` or `24h`")]
pub struct NotHoldFor;

impl HoldFor {
    /// `None`: until they are released.
    pub const fn limit(&self) -> Option<Duration> {
        self.limit
    }
}

impl TryFrom<String> for HoldFor {
    type Error = NotHoldFor;

    fn try_from(text: String) -> Result<Self, NotHoldFor> {
        let limit = duration(&text).filter(|limit| *limit <= LONGEST_HOLD).ok_or(NotHoldFor)?;
        Ok(Self { text, limit: (!limit.is_zero()).then_some(limit) })
    }
}

impl From<HoldFor> for String {
    fn from(hold: HoldFor) -> Self {
        hold.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_unit_and_no_leading_zeros() {
        let seconds = |text| duration(text).map(|it| it.as_secs());
        for (text, length) in [("90s", 90), ("20m", 1_200), ("24h", 86_400), ("14d", 1_209_600), ("0s", 0)] {
            assert_eq!(seconds(text), Some(length), "{text}");
        }
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        for text in ["", "s", "5", "05s", "-1s", "+1s", "1.5h", "1 s", "1w", "99999999999999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn goods_are_held_for_a_year_at_most() {
        let hold = |text: &str| HoldFor::try_from(text.to_owned());
        assert_eq!(hold("25m").unwrap().limit(), Some(Duration::from_secs(1_500)));
        assert_eq!(hold("0s").unwrap().limit(), None);
        assert_eq!(hold("366d"), Err(NotHoldFor));
        assert_eq!(String::from(hold("60m").unwrap()), "60m");
    }
}
