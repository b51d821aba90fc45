//! The context of a span, and its text: the header `traceparent` of W3C Trace Context, section 3.2.

use std::cell::RefCell;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// The length of a traceparent of version 00.
const LENGTH: usize = 55;

/// Which span something belongs to, and whether its trace is sent to a collector. No id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
    pub(crate) is_sampled: bool,
}

thread_local! {
    /// Makes ids. They need not be secret, only never come twice in any process, and the state of
    /// 256 bits makes that as good as certain.
    static IDS: RefCell<SmallRng> = RefCell::new(SmallRng::from_os_rng());
}

impl TraceContext {
    /// Returns the context of a span that begins a trace.
    pub(crate) fn root(is_sampled: impl FnOnce(&[u8; 16]) -> bool) -> Self {
        let trace = random_id();
        Self {
            trace,
            span: random_id(),
            is_sampled: is_sampled(&trace),
        }
    }

    /// Returns the context of a span that is a child of this one.
    pub(crate) fn child(&self) -> Self {
        Self {
            span: random_id(),
            ..*self
        }
    }

    /// Reads a traceparent. `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        let (fields, rest) = text.split_at_checked(LENGTH)?;
        let is_dash = |at: usize| fields[at] == b'-';
        let [version] = unhex(&fields[..2])?;
        // A later version may add parts, version 00 has four.
        if version == 0xff || !(rest.is_empty() || (version != 0 && rest[0] == b'-')) {
            return None;
        }
        if !(is_dash(2) && is_dash(35) && is_dash(52)) {
            return None;
        }
        let [flags] = unhex(&fields[53..])?;
        let context = Self {
            trace: unhex(&fields[3..35])?,
            span: unhex(&fields[36..52])?,
            is_sampled: flags & 1 == 1,
        };
        (context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }

    /// Returns this context as a traceparent.
    pub fn text(&self) -> String {
        let mut text = *b"00-                                -                -00";
        text[3..35].copy_from_slice(&hex_digits::<16, 32>(self.trace));
        text[36..52].copy_from_slice(&hex_digits::<8, 16>(self.span));
        text[LENGTH - 1] += u8::from(self.is_sampled);
        ascii(&text)
    }

    /// Whether the span was sent to a collector, or is to be.
    pub fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// Returns the id of the trace, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        ascii(&hex_digits::<16, 32>(self.trace))
    }

    /// Returns the id of the span, as 16 hexadecimal digits.
    pub(crate) fn span_id(&self) -> String {
        hex(self.span)
    }
}

/// Returns 8 bytes as hexadecimal digits.
pub(crate) fn hex(bytes: [u8; 8]) -> String {
    ascii(&hex_digits::<8, 16>(bytes))
}

/// Returns `N` bytes as hexadecimal digits, of which there are `DIGITS`: twice as many.
pub(crate) fn hex_digits<const N: usize, const DIGITS: usize>(bytes: [u8; N]) -> [u8; DIGITS] {
    const { assert!(DIGITS == 2 * N) };
    const HALVES: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; DIGITS];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HALVES[usize::from(byte >> 4)];
        pair[1] = HALVES[usize::from(byte & 15)];
    }
    digits
}

fn ascii(text: &[u8]) -> String {
    str::from_utf8(text)
        .expect("digits and dashes are ASCII")
        .to_owned()
}

/// Reads lower-case hexadecimal digits, two for each byte.
fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

fn random_id<const N: usize>() -> [u8; N] {
    let mut id = [0; N];
    while id == [0; N] {
        IDS.with_borrow_mut(|ids| ids.fill_bytes(&mut id));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn written_again(text: &str) -> Option<String> {
        TraceContext::parse(text).map(|context| context.text())
    }

    #[test]
    fn a_traceparent_is_read_and_written_again() {
        let not_sampled = EXAMPLE.replace("-01", "-00");
        assert_eq!(written_again(EXAMPLE).as_deref(), Some(EXAMPLE));
        assert_eq!(written_again(&not_sampled), Some(not_sampled));
        let trace_id = TraceContext::parse(EXAMPLE).map(|context| context.trace_id());
        assert_eq!(trace_id.unwrap(), "0af7651916cd43dd8448eb211c80319c");
        let later = EXAMPLE.replacen("00-", "cc-", 1) + "-what-the-future-will-be-like";
        assert_eq!(written_again(&later).as_deref(), Some(EXAMPLE));
    }

    #[test]
    fn what_is_no_traceparent_is_not_read() {
        for text in [
            "",
            "00",
            &EXAMPLE[..54],
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replacen("00-", "ff-", 1),
            &EXAMPLE.replacen('-', "_", 1),
            &format!("{EXAMPLE}-more"),
            &EXAMPLE.replacen("00-", "cc-", 1).replace("-01", "-01x"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert!(TraceContext::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn each_span_has_an_id_of_its_own() {
        let root = TraceContext::root(|_| true);
        let child = root.child();
        assert_eq!(child.trace, root.trace);
        assert_ne!(child.span, root.span);
        assert_ne!(TraceContext::root(|_| true).trace, root.trace);
    }
}
