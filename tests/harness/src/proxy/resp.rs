//! As much of Redis's protocol as it takes to tell requests and answers apart.

use std::{io, mem};

use store::scripts;
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;

/// What a test calls a request: the verb of the script that it runs, or the name of the command.
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
    /// The next one, as a whole.
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

/// Where the first request or answer ends; `None` where more of it is to come. RESP2 and RESP3: a
/// line, which may announce bytes or more values.
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
            // One that is not there has length -1, and no bytes behind it.
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
    fn requests_and_answers_end_where_they_end() {
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
    fn a_request_goes_by_its_command() {
        assert_eq!(name_of(b"*2\r\n$4\r\nping\r\n$1\r\n7\r\n"), "PING");
        assert_eq!(name_of(b"*2\r\n$7\r\nEVALSHA\r\n$2\r\nab\r\n"), "EVALSHA");
    }
}
