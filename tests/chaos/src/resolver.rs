//! A DNS server on loopback for the `direct` route: every domain has the same mail host. It can be
//! broken.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// How long answers may be kept, in seconds: short, so that a broken resolver is missed at once.
const TTL: u32 = 1;

/// The one mail host.
const HOST: &str = "mx.chaos.test.";

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// What it knows.
    Helpful,
    /// This code, to every question.
    Failing(ResponseCode),
    /// Not at all.
    Silent,
}

/// The ways in which it can be broken.
pub(crate) const BROKEN: [Mood; 3] = [
    Mood::Failing(ResponseCode::Refused),
    Mood::Failing(ResponseCode::ServFail),
    Mood::Silent,
];

/// A running server. It runs as long as the process.
pub(crate) struct Resolver {
    pub(crate) address: SocketAddr,
    mood: watch::Sender<Mood>,
}

impl Resolver {
    /// One that sends all mail to the peer at `mail_host`.
    pub(crate) async fn start(mail_host: IpAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")
            .await
            .context("no UDP port is free on 127.0.0.1")?;
        let address = socket.local_addr()?;
        let (mood, now) = watch::channel(Mood::Helpful);
        tokio::spawn(serve(Arc::new(socket), mail_host, now));
        Ok(Self { address, mood })
    }

    /// From now on it answers so.
    pub(crate) fn becomes(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

async fn serve(socket: Arc<UdpSocket>, mail_host: IpAddr, mood: watch::Receiver<Mood>) {
    let mut buffer = [0; 4_096];
    loop {
        // A client that is gone makes the next receive fail on some systems; the server goes on.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Ok(query) = Message::from_vec(&buffer[..len]) else {
            continue;
        };
        let Some(answer) = answer(&query, mail_host, *mood.borrow()) else {
            continue;
        };
        if let Ok(bytes) = answer.to_vec() {
            let _ = socket.send_to(&bytes, client).await;
        }
    }
}

fn answer(query: &Message, mail_host: IpAddr, mood: Mood) -> Option<Message> {
    let asked = query.queries.first()?.clone();
    let mut answer = Message::new(query.id, MessageType::Response, query.op_code);
    answer.metadata.recursion_available = true;
    answer.add_query(asked.clone());
    let data = match mood {
        Mood::Silent => return None,
        Mood::Failing(code) => {
            answer.metadata.response_code = code;
            None
        }
        Mood::Helpful => match (asked.query_type, mail_host) {
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
