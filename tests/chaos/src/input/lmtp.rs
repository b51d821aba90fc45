//! Delivers a report by LMTP, as a mail server does.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one delivery may take.
const DELIVERY_MAX: Duration = Duration::from_secs(15);

/// Delivers a report to `recipient`. Returns the reply to it, or the first reply that refused a
/// command.
pub(super) async fn deliver(
    address: SocketAddr,
    recipient: &str,
    mail: &str,
) -> io::Result<String> {
    timeout(DELIVERY_MAX, converse(address, recipient, mail)).await?
}

async fn converse(address: SocketAddr, recipient: &str, mail: &str) -> io::Result<String> {
    let mut lines = BufReader::new(TcpStream::connect(address).await?);
    let greeting = read_reply(&mut lines).await?;
    if !greeting.starts_with("220") {
        return Ok(greeting);
    }
    let commands = [
        "LHLO mail.chaos.test",
        "MAIL FROM:<>",
        &format!("RCPT TO:<{recipient}>"),
        "DATA",
    ];
    for command in commands {
        lines.write_all(format!("{command}\r\n").as_bytes()).await?;
        let reply = read_reply(&mut lines).await?;
        if !reply.starts_with('2') && !reply.starts_with('3') {
            return Ok(reply);
        }
    }
    let mail = mail.replace("\r\n.", "\r\n..");
    lines
        .write_all(format!("{mail}\r\n.\r\n").as_bytes())
        .await?;
    let reply = read_reply(&mut lines).await?;
    let _ = lines.write_all(b"QUIT\r\n").await;
    Ok(reply)
}

/// Reads a reply, and returns its last line.
async fn read_reply(lines: &mut BufReader<TcpStream>) -> io::Result<String> {
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line.trim_end().to_owned());
        }
    }
}
