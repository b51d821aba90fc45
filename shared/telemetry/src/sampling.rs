//! Decides which traces are sent to the collector. A span with a parent is sent if its parent is. A
//! span without a parent is sent if the first span that it links to is. If it has neither, it
//! begins a trace about which nothing is decided yet: only for these, the rule here applies.

use std::env;
use std::fmt;

/// The rule for a trace that begins in this process and links to no other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sampling {
    All,
    None,
    /// This share of the traces, from 0 to 1.
    Share(f64),
}

impl Sampling {
    /// Reads `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`. The default is to send all
    /// traces.
    pub(crate) fn from_environment() -> Self {
        let variable = |name| env::var(name).unwrap_or_default();
        Self::named(
            &variable("OTEL_TRACES_SAMPLER"),
            &variable("OTEL_TRACES_SAMPLER_ARG"),
        )
    }

    /// Reads the name of a sampler as in the OpenTelemetry specification. The prefix `parentbased_`
    /// makes no difference: a span with a parent always follows it.
    fn named(name: &str, argument: &str) -> Self {
        match name.strip_prefix("parentbased_").unwrap_or(name) {
            "always_off" => Self::None,
            "traceidratio" => Self::Share(argument.parse().unwrap_or(1.0)),
            _ => Self::All,
        }
    }

    /// Whether the trace with this id is sent. A share is computed from the id as in
    /// OpenTelemetry's SDK for Rust, so programs with that SDK and the same share choose the same
    /// traces.
    pub(crate) fn takes(self, trace: &[u8; 16]) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Share(share) => {
                // 63 bits of the id, from its last eight bytes.
                let random = (u128::from_be_bytes(*trace) as u64) >> 1;
                random < (share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64
            }
        }
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("always_on"),
            Self::None => f.write_str("always_off"),
            Self::Share(share) => write!(f, "traceidratio {share}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_samplers_are_those_of_the_specification() {
        for (name, argument, expected) in [
            ("", "", Sampling::All),
            ("always_on", "", Sampling::All),
            ("parentbased_always_off", "", Sampling::None),
            ("parentbased_traceidratio", "0.25", Sampling::Share(0.25)),
            ("traceidratio", "x", Sampling::Share(1.0)),
        ] {
            assert_eq!(Sampling::named(name, argument), expected, "{name}");
        }
    }

    #[test]
    fn a_share_takes_the_traces_with_the_smallest_ids() {
        let trace = |last: [u8; 8]| {
            let mut trace = [0xff; 16];
            trace[8..].copy_from_slice(&last);
            trace
        };
        let [low, middle, high] = [[0; 8], [0x40, 0, 0, 0, 0, 0, 0, 0], [0xff; 8]].map(trace);
        for (share, expected) in [
            (0.0, [false, false, false]),
            (0.25, [true, false, false]),
            (0.26, [true, true, false]),
            (1.0, [true, true, true]),
            (9.0, [true, true, true]),
            (-1.0, [false, false, false]),
        ] {
            let takes = |trace| Sampling::Share(share).takes(trace);
            assert_eq!([takes(&low), takes(&middle), takes(&high)], expected);
        }
    }
}
