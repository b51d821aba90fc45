//! Who knows logins, as Postfix asks one: the server's side of Dovecot's authentication protocol,
//! as far as PLAIN and LOGIN go. So a real Postfix offers AUTH with no other package on the
//! machine. <https://doc.dovecot.org/main/developers/design/auth_protocol.html>

use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A listener on loopback that lets one user in. It stops when this is dropped.
pub struct Logins {
    /// Where it listens.
    pub address: SocketAddr,
    _stop: DropGuard,
}

impl Logins {
    /// Lets in who has this name and password, by one of `mechanisms`.
    pub async fn start(
        mechanisms: &'static [&'static str],
        username: &'static str,
        password: &'static str,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        let listening = async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, mechanisms, [username, password]));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(listening));
        Self {
            address,
            _stop: stop.drop_guard(),
        }
    }

    /// The lines of `main.cf` that make Postfix ask it, and let nobody send who has not logged in.
    pub fn main(&self) -> Vec<String> {
        vec![
            "smtpd_sasl_auth_enable = yes".to_owned(),
            "smtpd_sasl_type = dovecot".to_owned(),
            format!("smtpd_sasl_path = inet:{}", self.address),
            "smtpd_sasl_security_options = noanonymous".to_owned(),
            "smtpd_client_restrictions = permit_sasl_authenticated, reject".to_owned(),
        ]
    }
}

async fn answer(
    stream: TcpStream,
    mechanisms: &[&str],
    [username, password]: [&str; 2],
) -> Option<()> {
    let mut lines = BufReader::new(stream);
    let offered: String = mechanisms
        .iter()
        .map(|name| format!("MECH\t{name}\tplaintext\n"))
        .collect();
    let greeting = format!(
        "VERSION\t1\t2\n{offered}SPID\t1\nCUID\t1\nCOOKIE\t{:032}\nDONE\n",
        1
    );
    lines.write_all(greeting.as_bytes()).await.ok()?;
    // What LOGIN has told so far.
    let mut told: Vec<String> = Vec::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let parts: Vec<&str> = line.trim_end().split('\t').collect();
        let (id, said) = match parts.as_slice() {
            ["AUTH", id, "PLAIN", .., response] => {
                let said = decoded(response.strip_prefix("resp=")?)?;
                (*id, said.split('\0').skip(1).map(str::to_owned).collect())
            }
            ["AUTH", id, "LOGIN", ..] => {
                told.clear();
                lines
                    .write_all(
                        format!("CONT\t{id}\t{}\n", BASE64_STANDARD.encode("Username:")).as_bytes(),
                    )
                    .await
                    .ok()?;
                continue;
            }
            ["CONT", id, response] => {
                told.push(decoded(response)?);
                if told.len() < 2 {
                    let question = BASE64_STANDARD.encode("Password:");
                    lines
                        .write_all(format!("CONT\t{id}\t{question}\n").as_bytes())
                        .await
                        .ok()?;
                    continue;
                }
                (*id, told.clone())
            }
            _ => continue,
        };
        let answer = if said == [username, password] {
            "OK"
        } else {
            "FAIL"
        };
        lines
            .write_all(format!("{answer}\t{id}\tuser={username}\n").as_bytes())
            .await
            .ok()?;
    }
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()
}
