//! The context of a span as text: the header `traceparent` of W3C Trace Context, section 3.2.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Returns the trace id of a traceparent, as 32 hexadecimal digits.
pub fn trace_id(text: &str) -> Option<&str> {
    read(text).and_then(|_| text.split('-').nth(1))
}

/// Reads a traceparent. `None` if it is not one.
pub(crate) fn read(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, length| {
        part.len() == length
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    if !is_hex(version, 2) || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    // A later version may add parts, version 00 has four.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

/// Writes the context of a span as a traceparent.
pub(crate) fn write(context: &SpanContext) -> String {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_again() {
        assert_eq!(write(&read(EXAMPLE).unwrap()), EXAMPLE);
        assert_eq!(trace_id(EXAMPLE), Some("0af7651916cd43dd8448eb211c80319c"));
        let later = EXAMPLE.replacen("00-", "cc-", 1) + "-what-the-future-will-be-like";
        assert_eq!(write(&read(&later).unwrap()), EXAMPLE);
    }

    #[test]
    fn what_is_no_traceparent_is_not_read() {
        for text in [
            "",
            "00",
            &EXAMPLE[..54],
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replacen("00-", "ff-", 1),
            &format!("{EXAMPLE}-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
