//! The configuration of the processes: a policy with delays of seconds, and limits that a run of a
//! few minutes reaches.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::fault::LEASE_MS;
use crate::plan::{ACCOUNT, NARROW, RATED, ROUTES};

/// How many tries every schedule of the policy has.
pub(crate) const STEPS: u32 = 4;

/// How long a message that a relay accepted waits for a bounce.
pub(crate) const CONFIRM: &str = "4s";

/// The key that signs the webhooks of Mailgun.
pub(crate) const HOOK_KEY: &str = "a key of the run alone";

/// The rows of the policy: name, statuses, scope, delays, final standing.
const ROWS: [(&str, &str, &str, &str, &str); 8] = [
    ("disabled", "\"4.2.1\"", "mailbox", SOFT, "inactive"),
    ("system-full", "\"4.3.1\"", "host", SOFT, "unavailable"),
    ("maintenance", "\"4.3.2\"", "host", SOFT, "unavailable"),
    ("over-quota", "\"4.2.2\"", "mailbox", SOFT, "unavailable"),
    ("greylisted", "\"4.7.*\"", "route", SOFT, "message"),
    ("soft", "[\"4.*.*\", \"*\"]", "host", SOFT, "unavailable"),
    (PERMANENT, "\"5.1.1\"", "mailbox", "[]", "inactive"),
    ("refused", "\"5.*.*\"", "message", "[]", "message"),
];

const SOFT: &str = "[\"1s\", \"2s\", \"3s\", \"4s\"]";

/// The row of a failure that retires an address at once.
pub(crate) const PERMANENT: &str = "unknown-user";

/// The policy file.
pub(crate) fn policy() -> String {
    let mut text = "[defaults]\nhold = \"1m\"\n".to_owned();
    for (name, status, scope, delays, last) in ROWS {
        let _ = write!(
            text,
            "[[row]]\nname = \"{name}\"\naccount = \"{ACCOUNT}\"\nstatus = {status}\n\
             scope = \"{scope}\"\n\
             delays = {delays}\njitter = \"+10%\"\nhint = \"ignore\"\nfinal = \"{last}\"\n"
        );
    }
    text
}

/// The settings of one process.
pub(crate) struct Settings<'a> {
    /// The lines of `[redis]` with the addresses of the servers.
    pub(crate) servers: &'a str,
    pub(crate) durability: &'a str,
    pub(crate) http: SocketAddr,
    pub(crate) lmtp: SocketAddr,
    /// The name of this life. Peers see it as the HELO name.
    pub(crate) life: &'a str,
    /// The peers, in the order of the routes.
    pub(crate) peers: &'a [SocketAddr],
    pub(crate) has_direct: bool,
    pub(crate) resolver: SocketAddr,
    pub(crate) authority: &'a str,
    pub(crate) policy: &'a str,
}

impl Settings<'_> {
    /// The configuration file.
    pub(crate) fn text(&self) -> String {
        let Self {
            servers,
            durability,
            http,
            lmtp,
            policy,
            ..
        } = self;
        let (rate, burst, window) = RATED;
        let mut text = format!(
            "[redis]\n{servers}\ndurability = \"{durability}\"\nconnect_timeout = \"2s\"\n\
             response_timeout = \"2s\"\n\
             durability_timeout = \"1s\"\n\
             [scheduler]\nlisten = \"{http}\"\ndrain = \"200ms\"\ngrace = \"3s\"\n\
             answers_in_memory = \"1KiB\"\n\
             suppress_timeout = \"3s\"\n\
             [verp]\ndomain = \"return.chaos.test\"\nkey = \"another key of the run alone\"\n\
             [intake.lmtp]\nlisten = \"{lmtp}\"\naccount = \"{ACCOUNT}\"\n\
             [intake.hooks.mailgun]\nsigning_key = \"{HOOK_KEY}\"\naccount = \"{ACCOUNT}\"\n\
             [worker]\nlease = \"{LEASE_MS}ms\"\nheartbeat = \"1s\"\ngrace = \"3s\"\n\
             route = \"{}\"\nconcurrency = 32\n\
             [breaker]\nopen = \"1s\"\nopen_max = \"4s\"\n\
             [[destination]]\nname = \"*.narrow.test\"\nwindow = {NARROW}\n\
             [[destination]]\nname = \"*.rated.test\"\nrate = {rate}\nburst = {burst}\n\
             window = {window}\n\
             [policy]\nfile = \"{policy}\"\n\
             [upkeep]\nrepair = \"*/20 * * * * *\"\n",
            ROUTES[0],
        );
        for (number, route) in ROUTES.iter().enumerate() {
            text.push_str(&self.route(route, self.peers[number]));
        }
        text
    }

    fn route(&self, name: &str, peer: SocketAddr) -> String {
        let way = match name {
            "direct" if self.has_direct => {
                format!(
                    "sender = \"mx\"\nprivate_hosts = true\nnameservers = [\"{}\"]\n\
                     tls = \"none\"\n",
                    self.resolver
                )
            }
            "secure" => format!(
                "sender = \"smtp\"\nhost = \"{}\"\nport = {}\ntls = \"required\"\n\
                 tls_ca_file = \"{}\"\n",
                peer.ip(),
                peer.port(),
                self.authority
            ),
            _ => format!(
                "sender = \"smtp\"\nhost = \"{}\"\nport = {}\ntls = \"none\"\n",
                peer.ip(),
                peer.port()
            ),
        };
        let confirm = if name == "confirmed" {
            format!("confirm = \"{CONFIRM}\"\n")
        } else {
            String::new()
        };
        format!(
            "[[route]]\nname = \"{name}\"\n{way}{confirm}helo = \"{}\"\nnotify = []\n\
             timeouts = {{ wait = \"5s\", connect = \"2s\", greeting = \"2s\", mail = \"2s\", \
             rcpt = \"2s\", data = \"3s\", dot = \"3s\" }}\n",
            self.life
        )
    }
}
