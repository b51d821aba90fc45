//! A DNS server on loopback with MX records and addresses. It can stop answering, fail, and record
//! the queries that it got.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, MX};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The time to live of answers, in seconds.
const TTL: u32 = 60;

/// A running server. It stops when this is dropped.
pub struct DnsServer {
    /// The address that it listens on.
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Zone {
    mail: HashMap<String, Vec<(u16, String)>>,
    addresses: HashMap<String, Vec<IpAddr>>,
    aliases: HashMap<String, String>,
    behavior: Behavior,
    asked: Vec<String>,
    /// The names for which it never answers.
    unanswered: HashSet<String>,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// With its records, and with NXDOMAIN for other names.
    #[default]
    Helpful,
    /// With SERVFAIL to every query.
    Failing,
    /// With this response code to every query.
    Code(ResponseCode),
    /// With an answer that is cut off in the middle of a record.
    CutOff,
    /// It does not answer.
    Silent,
}

impl DnsServer {
    /// Starts a server without records.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = socket.local_addr().expect("the socket is bound");
        let (zone, stop) = (
            Arc::new(Mutex::new(Zone::default())),
            CancellationToken::new(),
        );
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(serve(socket, zone.clone())),
        );
        Self {
            address,
            zone,
            _stop: stop.drop_guard(),
        }
    }

    /// Sets the MX records of `domain`, as preference and host. With an empty list, the domain
    /// exists but has no mail host.
    pub fn set_mx(&self, domain: &str, hosts: &[(u16, &str)]) -> &Self {
        let hosts = hosts
            .iter()
            .map(|(preference, host)| (*preference, (*host).to_owned()))
            .collect();
        self.zone().mail.insert(domain.to_owned(), hosts);
        self
    }

    /// Sets the addresses of `host`.
    pub fn set_addresses(&self, host: &str, addresses: &[&str]) -> &Self {
        let addresses = addresses
            .iter()
            .map(|text| text.parse().expect("the test gives a valid IP address"))
            .collect();
        self.zone().addresses.insert(host.to_owned(), addresses);
        self
    }

    /// Makes `name` an alias (CNAME) of `target`.
    pub fn set_alias(&self, name: &str, target: &str) -> &Self {
        self.zone()
            .aliases
            .insert(name.to_owned(), target.to_owned());
        self
    }

    /// From now on it does not answer queries for `name`.
    pub fn never_answer(&self, name: &str) -> &Self {
        self.zone().unanswered.insert(name.to_owned());
        self
    }

    /// Sets how it answers from now on.
    pub fn set_behavior(&self, behavior: Behavior) {
        self.zone().behavior = behavior;
    }

    /// Returns the names of all queries so far, including those that it did not answer.
    pub fn asked(&self) -> Vec<String> {
        self.zone().asked.clone()
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone
            .lock()
            .expect("no task panics while it holds this lock")
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4_096];
    loop {
        let (len, client) = socket
            .recv_from(&mut buffer)
            .await
            .expect("a socket on loopback does not fail");
        let query = Message::from_vec(&buffer[..len])
            .expect("the resolver writes messages that can be read");
        let (answer, behavior) = {
            let mut zone = zone
                .lock()
                .expect("no task panics while it holds this lock");
            (zone.answer(&query), zone.behavior)
        };
        if let Some(answer) = answer {
            let mut bytes = answer.to_vec().expect("the answer can be written");
            if behavior == Behavior::CutOff {
                bytes.truncate(bytes.len() - 1);
            }
            // The client may have stopped waiting, which is not an error here.
            let _ = socket.send_to(&bytes, client).await;
        }
    }
}

impl Zone {
    fn answer(&mut self, query: &Message) -> Option<Message> {
        let asked = query
            .queries
            .first()
            .expect("a query has a question")
            .clone();
        let domain = asked
            .name
            .to_ascii()
            .to_ascii_lowercase()
            .trim_end_matches('.')
            .to_owned();
        self.asked.push(domain.clone());
        let mut answer = Message::new(query.id, MessageType::Response, query.op_code);
        answer.metadata.recursion_available = true;
        answer.add_query(asked.clone());
        let data = match self.behavior {
            Behavior::Silent => return None,
            _ if self.unanswered.contains(&domain) => return None,
            Behavior::Failing => {
                answer.metadata.response_code = ResponseCode::ServFail;
                return Some(answer);
            }
            Behavior::Code(code) => {
                answer.metadata.response_code = code;
                return Some(answer);
            }
            Behavior::CutOff => Some(vec![exchange(&(10, "mx1.example.com.".to_owned()))]),
            Behavior::Helpful => self.records(&domain, asked.query_type),
        };
        if data.is_none() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        for data in data.into_iter().flatten() {
            answer.add_answer(Record::from_rdata(asked.name.clone(), TTL, data));
        }
        Some(answer)
    }

    /// Returns the records of a name. `None` if the name does not exist.
    fn records(&self, name: &str, kind: RecordType) -> Option<Vec<RData>> {
        if let Some(target) = self.aliases.get(name) {
            return Some(vec![RData::CNAME(CNAME(host(target)))]);
        }
        let (mail, addresses) = (self.mail.get(name), self.addresses.get(name));
        if mail.is_none() && addresses.is_none() {
            return None;
        }
        let address = |address: &IpAddr| match (*address, kind) {
            (IpAddr::V4(four), RecordType::A) => Some(RData::A(four.into())),
            (IpAddr::V6(six), RecordType::AAAA) => Some(RData::AAAA(six.into())),
            _ => None,
        };
        Some(match kind {
            RecordType::MX => mail.into_iter().flatten().map(exchange).collect(),
            _ => addresses
                .into_iter()
                .flatten()
                .filter_map(address)
                .collect(),
        })
    }
}

fn exchange((preference, name): &(u16, String)) -> RData {
    RData::MX(MX::new(*preference, host(name)))
}

/// Makes a name that may have any characters, as DNS allows.
fn host(name: &str) -> Name {
    let labels = name
        .trim_end_matches('.')
        .split('.')
        .filter(|label| !label.is_empty());
    Name::from_labels(labels.map(str::as_bytes))
        .expect("the labels of the test's name are short enough")
}
