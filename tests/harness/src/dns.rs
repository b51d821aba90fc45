//! A DNS server on loopback that tells where mail goes. It can fall silent, fail, and count what it
//! is asked.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, MX};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long answers may be believed, in seconds.
const TTL: u32 = 60;

/// A running server. It stops when this is dropped.
pub struct DnsServer {
    /// Where it listens.
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Zone {
    mail: HashMap<String, Vec<(u16, String)>>,
    addresses: HashMap<String, Vec<IpAddr>>,
    aliases: HashMap<String, String>,
    mood: Mood,
    asked: Vec<String>,
    /// The names that it says nothing of, whatever it is asked.
    secret: HashSet<String>,
}

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// What it knows, and NXDOMAIN for the rest.
    #[default]
    Helpful,
    /// SERVFAIL, whatever it is asked.
    Failing,
    /// This response code, whatever it is asked.
    Saying(ResponseCode),
    /// An answer that breaks off in the middle of a record.
    Garbled,
    /// Not at all.
    Silent,
}

impl DnsServer {
    /// One that knows no domain yet.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
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

    /// From now on `domain` has these MX records, preference and host; with none it exists and has
    /// no mail host.
    pub fn knows(&self, domain: &str, hosts: &[(u16, &str)]) -> &Self {
        let hosts = hosts
            .iter()
            .map(|(preference, host)| (*preference, (*host).to_owned()))
            .collect();
        self.zone().mail.insert(domain.to_owned(), hosts);
        self
    }

    /// From now on `host` has these addresses.
    pub fn places(&self, host: &str, addresses: &[&str]) -> &Self {
        let addresses = addresses
            .iter()
            .map(|text| text.parse().expect("the test's address is one"))
            .collect();
        self.zone().addresses.insert(host.to_owned(), addresses);
        self
    }

    /// From now on `name` stands for `target`.
    pub fn aliases(&self, name: &str, target: &str) -> &Self {
        self.zone()
            .aliases
            .insert(name.to_owned(), target.to_owned());
        self
    }

    /// From now on it does not answer where it is asked for `name`.
    pub fn conceals(&self, name: &str) -> &Self {
        self.zone().secret.insert(name.to_owned());
        self
    }

    /// From now on it answers so.
    pub fn becomes(&self, mood: Mood) {
        self.zone().mood = mood;
    }

    /// The domains that it was asked for so far, also where it did not answer.
    pub fn asked(&self) -> Vec<String> {
        self.zone().asked.clone()
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().expect("nobody panics while holding it")
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
        let (answer, mood) = {
            let mut zone = zone.lock().expect("nobody panics while holding it");
            (zone.answer(&query), zone.mood)
        };
        if let Some(answer) = answer {
            let mut bytes = answer.to_vec().expect("the answer can be written");
            if mood == Mood::Garbled {
                bytes.truncate(bytes.len() - 1);
            }
            // A client that no longer waits is none of our business.
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
        let data = match self.mood {
            Mood::Silent => return None,
            _ if self.secret.contains(&domain) => return None,
            Mood::Failing => {
                answer.metadata.response_code = ResponseCode::ServFail;
                return Some(answer);
            }
            Mood::Saying(code) => {
                answer.metadata.response_code = code;
                return Some(answer);
            }
            Mood::Garbled => Some(vec![exchange(&(10, "mx1.example.com.".to_owned()))]),
            Mood::Helpful => self.records(&domain, asked.query_type),
        };
        if data.is_none() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        for data in data.into_iter().flatten() {
            answer.add_answer(Record::from_rdata(asked.name.clone(), TTL, data));
        }
        Some(answer)
    }

    /// What is known of a name; `None` where it does not exist.
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

/// A name of any characters, as the DNS carries them.
fn host(name: &str) -> Name {
    let labels = name
        .trim_end_matches('.')
        .split('.')
        .filter(|label| !label.is_empty());
    Name::from_labels(labels.map(str::as_bytes)).expect("its labels are short enough")
}
