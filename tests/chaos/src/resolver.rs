//! A DNS server on loopback for the `direct` route. Every domain has the same mail host. The server
//! can be broken.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// How many seconds answers may be cached. It is short, so that a broken resolver is noticed at
/// once.
const TTL: u32 = 1;

/// The only mail host.
const HOST: &str = "mx.chaos.test.";

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// With the correct answer.
    Helpful,
    /// With this code, to every question.
    Failing(ResponseCode),
    /// It does not answer.
    Silent,
}

/// The ways in which the server can be broken.
pub(crate) const BROKEN: [Behavior; 3] = [
    Behavior::Failing(ResponseCode::Refused),
    Behavior::Failing(ResponseCode::ServFail),
    Behavior::Silent,
];

/// A running server. It runs as long as the process.
pub(crate) struct Resolver {
    pub(crate) address: SocketAddr,
    behavior: watch::Sender<Behavior>,
}

impl Resolver {
    /// Starts a server that sends all mail to the peer at `mail_host`.
    pub(crate) async fn start(mail_host: IpAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")
            .await
            .context("no UDP port is free on 127.0.0.1")?;
        let address = socket.local_addr()?;
        let (behavior, now) = watch::channel(Behavior::Helpful);
        tokio::spawn(serve(Arc::new(socket), mail_host, now));
        Ok(Self { address, behavior })
    }

    /// Changes how the server answers from now on.
    pub(crate) fn set_behavior(&self, behavior: Behavior) {
        self.behavior.send_replace(behavior);
    }
}

async fn serve(socket: Arc<UdpSocket>, mail_host: IpAddr, behavior: watch::Receiver<Behavior>) {
    let mut buffer = [0; 4_096];
    loop {
        // On some systems this fails after the previous client has gone. The server continues.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Ok(query) = Message::from_vec(&buffer[..len]) else {
            continue;
        };
        let Some(answer) = answer(&query, mail_host, *behavior.borrow()) else {
            continue;
        };
        if let Ok(bytes) = answer.to_vec() {
            let _ = socket.send_to(&bytes, client).await;
        }
    }
}

fn answer(query: &Message, mail_host: IpAddr, behavior: Behavior) -> Option<Message> {
    let asked = query.queries.first()?.clone();
    let mut answer = Message::new(query.id, MessageType::Response, query.op_code);
    answer.metadata.recursion_available = true;
    answer.add_query(asked.clone());
    let data = match behavior {
        Behavior::Silent => return None,
        Behavior::Failing(code) => {
            answer.metadata.response_code = code;
            None
        }
        Behavior::Helpful => match (asked.query_type, mail_host) {
            (RecordType::MX, _) => Some(RData::MX(MX::new(10, Name::from_ascii(HOST).ok()?))),
            (RecordType::A, IpAddr::V4(host)) => Some(RData::A(host.into())),
            _ => None,
        },
    };
    if let Some(data) = data {
        answer.add_answer(Record::from_rdata(asked.name.clone(), TTL, data));
    }
    Some(answer)
}
