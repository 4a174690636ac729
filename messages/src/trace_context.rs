//! W3C Trace Context: which request a message belongs to, as the header `traceparent` tells it.

use std::fmt;
use std::str::FromStr;

/// The name of the header, in HTTP and on Kafka.
pub const TRACEPARENT: &str = "traceparent";

/// A place in a trace: what is done next is done for the span of that id. Written
/// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Not 0.
    pub trace_id: u128,
    /// Not 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

/// A text that is no trace context of version 00.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C trace context: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case, ids not all zero")]
pub struct NotATraceContext;

impl TraceContext {
    /// The trace's id as people and tools know it: 32 hex digits.
    pub fn trace_id_text(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl FromStr for TraceContext {
    type Err = NotATraceContext;

    /// As W3C Trace Context, section 3.2, has it.
    fn from_str(text: &str) -> Result<Self, NotATraceContext> {
        let mut parts = text.split('-');
        let mut next = || parts.next().unwrap_or_default();
        let (version, trace, parent, flags) = (next(), next(), next(), next());
        let hex = |part: &str, digits| match u128::from_str_radix(part, 16) {
            Ok(number) if part.len() == digits && !part.contains(|c: char| !matches!(c, '0'..='9' | 'a'..='f')) => {
                Ok(number)
            }
            _ => Err(NotATraceContext),
        };
        let trace_id = hex(trace, 32)?;
        let span_id = hex(parent, 16)? as u64;
        let is_sampled = hex(flags, 2)? & 1 == 1;
        let is_valid = version == "00" && trace_id != 0 && span_id != 0 && parts.next().is_none();
        if is_valid { Ok(Self { trace_id, span_id, is_sampled }) } else { Err(NotATraceContext) }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_as_it_is_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = text.parse().unwrap();
        assert_eq!(context.to_string(), text);
        assert_eq!(context.trace_id_text(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled);
        let unsampled: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".parse().unwrap();
        assert!(!unsampled.is_sampled);
    }

    #[test]
    fn what_w3c_does_not_allow_is_no_context() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-ébf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(NotATraceContext), "{text}");
        }
    }
}
