//! Which traces are sent. A span follows its parent, else the decision that was made for its
//! origin, which its first link carries. This decides about a trace that has neither.

use std::env;

/// What to do with a trace that starts here and has no origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sampling {
    All,
    None,
    /// This share of the traces, from 0 to 1.
    Share(f64),
}

impl Sampling {
    /// Returns what `OTEL_TRACES_SAMPLER` has. The default is to send everything.
    pub(crate) fn from_environment() -> Self {
        let variable = |name| env::var(name).unwrap_or_default();
        Self::named(
            &variable("OTEL_TRACES_SAMPLER"),
            &variable("OTEL_TRACES_SAMPLER_ARG"),
        )
    }

    /// Reads the values that the specification has. What they do with parents is ours in any case.
    fn named(name: &str, argument: &str) -> Self {
        match name.strip_prefix("parentbased_").unwrap_or(name) {
            "always_off" => Self::None,
            "traceidratio" => Self::Share(argument.parse().unwrap_or(1.0)),
            _ => Self::All,
        }
    }

    /// Whether a trace is sent. With the same share, all programs that use OpenTelemetry decide
    /// alike about the same trace, because its id decides.
    pub(crate) fn takes(self, trace: &[u8; 16]) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Share(share) => {
                let [.., a, b, c, d, e, f, g, h] = *trace;
                let id = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
                id < (share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64
            }
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
