//! A real Postfix, private to one test: its own configuration, queue and log in a folder of its own, on a port of its own on
//! loopback. The system's Postfix, if there is one, is not touched.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::lmtp::LmtpClient;
use crate::process::free_port;
use crate::wait::eventually;

/// What a test wants of its Postfix, beside what all have.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where mail for a domain goes, as `transport:nexthop` (transport(5)).
    pub transports: Vec<(String, String)>,
    /// More lines of `main.cf`.
    pub main: Vec<String>,
    /// More lines of `master.cf`.
    pub services: Vec<String>,
}

/// A running Postfix. It is ended, with all its processes, when this is dropped.
pub struct Postfix {
    /// Where it takes mail by SMTP.
    pub address: SocketAddr,
    folder: TempDir,
    _master: Child,
    _guard: Child,
}

/// What all have: it takes mail from loopback and sends it where the transports say. Nothing is delivered on this machine.
const MAIN: &str = "\
compatibility_level = 3.6
maillog_file = /dev/stdout
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = out.example.net
mydestination =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
alias_maps =
alias_database =
local_recipient_maps =
default_transport = error:5.4.4 the test names no transport for this domain
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
";

/// The services that these need (master(5)), none of them in a changed root.
const SERVICES: &str = "\
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 300 1 qmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
verify   unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp     unix - - n - - smtp
lmtp     unix - - n - - lmtp
error    unix - - n - - error
retry    unix - - n - - error
anvil    unix - - n - 1 anvil
scache   unix - - n - 1 scache
postlog  unix-dgram n - n - 1 postlogd
";

const INSTALL: &str = "there is no Postfix on this machine; install it with `scripts/tools`, or with `apt-get install postfix` \
                       (\"No configuration\" will do; it need not run)";

impl Postfix {
    /// Starts one, and waits until it takes mail.
    ///
    /// # Panics
    /// Where Postfix is not installed, or the test does not run as root; the text says what to do.
    pub async fn start(settings: Settings) -> Self {
        let folder = TempDir::with_prefix("redeliver-postfix-").expect("a folder can be made");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = write_settings(folder.path(), address, &settings);
        let log =
            || File::options().append(true).create(true).open(folder.path().join("log")).expect("a file can be made");
        // Makes the folders of the queue, with their owners.
        let check = StdCommand::new("postfix").arg("-c").arg(&config).arg("check").stderr(log()).status();
        let checked = check.unwrap_or_else(|_| panic!("{INSTALL}"));
        assert!(checked.success(), "postfix check failed: {}", log_of(folder.path()));
        let master = Command::new(daemon_folder(&config).join("master"))
            .env("MAIL_CONFIG", &config)
            .arg("-c")
            .arg(&config)
            .args(["-d", "-s"])
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("master can be started");
        let guard = end_with_this_process(&master, folder.path());
        let postfix = Self { address, folder, _master: master, _guard: guard };
        postfix.logs("daemon started").await;
        postfix
    }

    /// Hands a message in, as a sender that asks for reports does.
    pub async fn send(&self, from: &str, to: &[&str], message: &str) {
        let mut client = LmtpClient::connect(self.address).await;
        let from = format!("MAIL FROM:<{from}>");
        for line in ["EHLO app.example.org", &from] {
            assert!(client.say(line).await.starts_with("250 "), "{line}: {}", self.log());
        }
        for to in to {
            assert!(client.say(&format!("RCPT TO:<{to}>")).await.starts_with("250 "), "{}", self.log());
        }
        assert!(client.say("DATA").await.starts_with("354 "));
        assert!(client.say(&format!("{message}\r\n.")).await.starts_with("250 "));
        client.say("QUIT").await;
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        log_of(self.folder.path())
    }

    /// Waits until it has logged a line that holds `words`.
    pub async fn logs(&self, words: &str) {
        eventually(words, async || self.log().contains(words).then_some(())).await;
    }
}

fn write_settings(folder: &Path, address: SocketAddr, settings: &Settings) -> PathBuf {
    let (config, queue, data) = (folder.join("config"), folder.join("queue"), folder.join("data"));
    for made in [&config, &queue, &data] {
        fs::create_dir(made).expect("the folder can be written to");
    }
    let user = owner();
    chown(&data, Some(user), None).expect("Postfix starts only as root: run the tests as root, in a container say");
    // Its processes run as another user, who has to get there.
    open_to_all(folder);
    let transports: Vec<String> = settings.transports.iter().map(|(domain, to)| format!("{{{domain}={to}}}")).collect();
    let main = format!(
        "{MAIN}queue_directory = {}\ndata_directory = {}\ntransport_maps = inline:{{ {} }}\n{}\n",
        queue.display(),
        data.display(),
        transports.join(", "),
        settings.main.join("\n"),
    );
    let services = format!("{address} inet n - n - - smtpd\n{SERVICES}{}\n", settings.services.join("\n"));
    fs::write(config.join("main.cf"), main).expect("the folder can be written to");
    fs::write(config.join("master.cf"), services).expect("the folder can be written to");
    config
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
}

/// The user that Postfix's own processes run as.
fn owner() -> u32 {
    let id = StdCommand::new("id").args(["-u", "postfix"]).output().expect("there is an id command");
    let id = String::from_utf8_lossy(&id.stdout).trim().parse();
    id.unwrap_or_else(|_| panic!("{INSTALL}"))
}

fn daemon_folder(config: &Path) -> PathBuf {
    let asked = StdCommand::new("postconf").arg("-c").arg(config).args(["-h", "daemon_directory"]).output();
    let told = asked.unwrap_or_else(|_| panic!("{INSTALL}"));
    String::from_utf8_lossy(&told.stdout).trim().into()
}

fn log_of(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// A shell that ends the master and all that it started when this process ends, however it does, or drops its end of the
/// pipe.
fn end_with_this_process(master: &Child, folder: &Path) -> Child {
    let group = master.id().expect("it has just been started");
    Command::new("sh")
        .args(["-c", "trap '' INT TERM HUP; read _; kill -KILL -- \"-$1\"; rm -rf \"$2\"", "sh"])
        .arg(group.to_string())
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell can be started")
}
