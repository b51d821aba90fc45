//! An authentication server for Postfix: the server side of Dovecot's authentication protocol, for
//! PLAIN and LOGIN only. With it a real Postfix offers AUTH, and no other package is needed.
//! <https://doc.dovecot.org/main/developers/design/auth_protocol.html>

use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// An authentication server on loopback with one user. It stops when this is dropped.
pub struct Logins {
    /// The address that it listens on.
    pub address: SocketAddr,
    _stop: DropGuard,
}

impl Logins {
    /// Starts a server that accepts this name and password, by any of `mechanisms`.
    pub async fn start(
        mechanisms: &'static [&'static str],
        username: &'static str,
        password: &'static str,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("the socket is bound");
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

    /// Returns the lines of `main.cf` that make Postfix use this server, and reject clients that
    /// have not logged in.
    pub fn main_cf(&self) -> Vec<String> {
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
    // The name and password that LOGIN has sent so far.
    let mut login: Vec<String> = Vec::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let parts: Vec<&str> = line.trim_end().split('\t').collect();
        let (id, credentials) = match parts.as_slice() {
            ["AUTH", id, "PLAIN", .., response] => {
                let plain = decoded(response.strip_prefix("resp=")?)?;
                (*id, plain.split('\0').skip(1).map(str::to_owned).collect())
            }
            ["AUTH", id, "LOGIN", ..] => {
                login.clear();
                lines
                    .write_all(
                        format!("CONT\t{id}\t{}\n", BASE64_STANDARD.encode("Username:")).as_bytes(),
                    )
                    .await
                    .ok()?;
                continue;
            }
            ["CONT", id, response] => {
                login.push(decoded(response)?);
                if login.len() < 2 {
                    let question = BASE64_STANDARD.encode("Password:");
                    lines
                        .write_all(format!("CONT\t{id}\t{question}\n").as_bytes())
                        .await
                        .ok()?;
                    continue;
                }
                (*id, login.clone())
            }
            _ => continue,
        };
        let answer = if credentials == [username, password] {
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
