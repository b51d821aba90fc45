//! Bounces from a real Postfix come back by LMTP or through a pipe. While they cannot be stored,
//! Postfix keeps them and delivers them later.

use std::net::SocketAddr;

use domain::account::Account;
use domain::job::JobId;
use domain::standing::Standing;
use harness::http::Http;
use harness::port::free_port;
use harness::postfix::{self, Postfix};
use harness::process::program;
use harness::report::{DOMAIN, config, verp, verp_section};
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{Deployment, Settings, World, id};
use private_servers::redis::PrivateRedis;
use tempfile::TempDir;

const JO: &str = "jo@example.com";
const AL: &str = "al@example.com";

const MESSAGE: &str = "Message-ID: <m1@news.example.org>\r\nSubject: Hello\r\n\r\nHello.";

/// The mail system of the recipients. It has no mailbox for Jo, and Al's mailbox is full.
async fn mail_system() -> SmtpPeer {
    SmtpPeer::start(
        |received| match received.command.split(['<', '@']).collect::<Vec<_>>()[..] {
            ["RCPT TO:", "al", ..] => Act::Say("452 4.2.2 Over quota"),
            ["RCPT TO:", ..] => Act::Say("550 5.1.1 Nobody of that name"),
            _ => agree(&received.command),
        },
    )
    .await
}

/// A Postfix that sends mail for example.com to `peer`, and returned mail to `back`.
fn settings(peer: &SmtpPeer, back: String) -> postfix::Settings {
    let forward = format!("smtp:[{}]:{}", peer.address.ip(), peer.address.port());
    let transports = vec![
        ("example.com".to_owned(), forward),
        (DOMAIN.to_owned(), back),
    ];
    postfix::Settings {
        transports,
        ..postfix::Settings::default()
    }
}

/// Delivers returned mail by LMTP to the listener at this address.
fn by_lmtp(address: SocketAddr) -> String {
    format!("lmtp:inet:{address}")
}

/// Delivers returned mail through `redeliver dsn --submit`, to the scheduler at `base`.
fn by_pipe(base: &str) -> String {
    let program = program();
    format!(
        "redeliver unix - n n - 4 pipe flags=q user=nobody argv={} \
         dsn --submit --api {base} --to ${{recipient}} -",
        program.display()
    )
}

fn return_path(world: &World, job: &JobId) -> String {
    verp()
        .encode(job, "<m1@news.example.org>", world.now())
        .unwrap()
        .as_str()
        .to_owned()
}

fn of_acme(address: &str) -> JobId {
    JobId {
        account: Account::parse("acme").unwrap(),
        ..id(address)
    }
}

/// Waits until an address of the account `acme` is retired. Returns its standing.
async fn wait_until_retired(world: &World, address: &str) -> Standing {
    eventually("the bounce", async || {
        let report = world.store.address(&of_acme(address)).await.ok()?;
        report.standing.map(|record| record.at(world.now()))
    })
    .await
}

fn lmtp_config(address: SocketAddr) -> config::model::Config {
    config(&format!(
        "{}[intake.lmtp]\nlisten = \"{address}\"\n",
        verp_section()
    ))
}

#[tokio::test]
async fn a_bounce_returned_by_lmtp_retires_the_address_in_the_account_that_sent_the_mail() {
    let (world, peer) = (World::new().await, mail_system().await);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _http = Http::serve_with(&world, &lmtp_config(address)).await;
    let postfix = Postfix::start(settings(&peer, by_lmtp(address))).await;
    postfix
        .send(&return_path(&world, &of_acme(JO)), &[JO], MESSAGE)
        .await;
    assert_eq!(wait_until_retired(&world, JO).await, Standing::Inactive);
    postfix
        .wait_for_log("status=sent (250 2.0.0 taken in)")
        .await;
    assert!(
        world.standing_record(JO).await.is_none(),
        "the default account sent no mail"
    );
}

#[tokio::test]
async fn a_bounce_returned_through_a_pipe_is_accepted() {
    let (world, peer) = (World::new().await, mail_system().await);
    let http = Http::serve_with(&world, &config(&verp_section())).await;
    let mut settings = settings(&peer, "redeliver:".to_owned());
    settings.services.push(by_pipe(http.base()));
    let postfix = Postfix::start(settings).await;
    postfix
        .send(&return_path(&world, &of_acme(JO)), &[JO], MESSAGE)
        .await;
    assert_eq!(wait_until_retired(&world, JO).await, Standing::Inactive);
    postfix
        .wait_for_log("status=sent (delivered via redeliver service")
        .await;
}

#[tokio::test]
async fn postfix_keeps_returned_mail_while_the_store_is_away_and_delivers_it_later() {
    let folder = TempDir::new().unwrap();
    let server = PrivateRedis::durable(folder.path())
        .await
        .expect("redis-server is installed");
    let world = World::with(Settings {
        redis: Deployment::Server(server.url()),
        ..Settings::default()
    })
    .await;
    let peer = mail_system().await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let http = Http::serve_with(&world, &lmtp_config(address)).await;
    let mut settings = settings(&peer, by_lmtp(address));
    settings
        .transports
        .push((format!("pipe.{DOMAIN}"), "redeliver:".to_owned()));
    settings.services.push(by_pipe(http.base()));
    let postfix = Postfix::start(settings).await;
    server.stop().await;
    postfix
        .send(&return_path(&world, &of_acme(JO)), &[JO], MESSAGE)
        .await;
    postfix
        .send(
            &format!("anybody@pipe.{DOMAIN}"),
            &["sam@example.com"],
            MESSAGE,
        )
        .await;
    postfix.wait_for_log("451 4.3.0 not now").await;
    postfix.wait_for_log("relay=redeliver").await;
    let log = postfix.log();
    let piped = log
        .lines()
        .find(|line| line.contains("relay=redeliver"))
        .unwrap();
    assert!(piped.contains("status=deferred"), "{piped}");

    let _server = PrivateRedis::durable(folder.path())
        .await
        .expect("redis-server is installed");
    assert_eq!(wait_until_retired(&world, JO).await, Standing::Inactive);
    let sam = async || {
        world
            .store
            .address(&id("sam@example.com"))
            .await
            .ok()?
            .standing
    };
    assert_eq!(
        eventually("the bounce by pipe", sam).await.standing,
        Standing::Inactive
    );
}

#[tokio::test]
async fn a_report_about_a_delay_is_accepted_and_changes_nothing() {
    let (world, peer) = (World::new().await, mail_system().await);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _http = Http::serve_with(&world, &lmtp_config(address)).await;
    let mut settings = settings(&peer, by_lmtp(address));
    settings.main.push("delay_warning_time = 1s".to_owned());
    let postfix = Postfix::start(settings).await;
    postfix
        .send(&return_path(&world, &of_acme(AL)), &[AL], MESSAGE)
        .await;
    postfix.wait_for_log("sender delay notification").await;
    postfix
        .wait_for_log("status=sent (250 2.0.0 taken in)")
        .await;
    let report = world.store.address(&of_acme(AL)).await.unwrap();
    assert!(report.job.is_none() && report.standing.is_none());
}
