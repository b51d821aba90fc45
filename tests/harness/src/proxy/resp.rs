//! A small part of the Redis protocol: where a request or an answer ends, and the name of a
//! request.

use std::{io, mem};

use store::scripts;
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;

/// Returns the name of a request in tests: the verb of its script, or the name of its command.
pub(super) fn name_of(request: &[u8]) -> String {
    let mut words = request
        .split(|byte| *byte == b'\n')
        .skip(2)
        .step_by(2)
        .map(<[u8]>::trim_ascii_end);
    let mut word = || String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let command = word().to_ascii_uppercase();
    if command == "EVALSHA" {
        return scripts::verb_of(&word()).unwrap_or("EVALSHA").to_owned();
    }
    command
}

/// Cuts a stream of bytes into requests or answers.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Reads the next request or answer, complete.
    pub(crate) async fn next(&mut self, stream: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = end_of_frame(&self.bytes) {
                let rest = self.bytes.split_off(end);
                return Ok(mem::replace(&mut self.bytes, rest));
            }
            if stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Returns where the first request or answer ends. `None` if it is not complete yet. In RESP2 and
/// RESP3 it starts with a line, which may announce a number of bytes or of further values.
fn end_of_frame(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut missing) = (0, 1);
    while missing > 0 {
        let length = bytes.get(at..)?.windows(2).position(|end| end == b"\r\n")?;
        let line = &bytes[at..at + length];
        at += length + 2;
        missing -= 1;
        let (kind, number) = line.split_first()?;
        let number = || str::from_utf8(number).ok()?.parse::<usize>().ok();
        match kind {
            // A null value has length -1, and no bytes after it.
            b'$' | b'=' | b'!' => at += number().map_or(0, |length| length + 2),
            b'*' | b'~' | b'>' => missing += number().unwrap_or(0),
            b'%' | b'|' => missing += 2 * number().unwrap_or(0),
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_request_or_answer_is_found_as_soon_as_it_is_complete() {
        for whole in [
            "+OK\r\n",
            "$-1\r\n",
            "$5\r\na\r\nbc\r\n",
            "*-1\r\n",
            "*2\r\n:1\r\n*2\r\n$0\r\n\r\n+x\r\n",
            "*0\r\n",
            "%1\r\n+proto\r\n~2\r\n:3\r\n,1.5\r\n",
            "_\r\n",
        ] {
            for cut in 0..whole.len() {
                assert_eq!(
                    end_of_frame(&whole.as_bytes()[..cut]),
                    None,
                    "{whole:?} to {cut}"
                );
            }
            assert_eq!(
                end_of_frame(format!("{whole}+next\r\n").as_bytes()),
                Some(whole.len()),
                "{whole:?}"
            );
        }
    }

    #[test]
    fn a_request_is_named_after_its_command() {
        assert_eq!(name_of(b"*2\r\n$4\r\nping\r\n$1\r\n7\r\n"), "PING");
        assert_eq!(name_of(b"*2\r\n$7\r\nEVALSHA\r\n$2\r\nab\r\n"), "EVALSHA");
    }
}
